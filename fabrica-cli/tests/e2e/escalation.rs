//! The agent asks a person: the question waits without a sandbox, and the answer goes on with the work in a fresh one.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fabrica_cli::rehearsal::{Script, Turn, scripts};
use fabrica_core::ids::SessionId;
use fabrica_core::message::MessageKind;
use fabrica_core::ports::store::Question;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use crate::rig::{CLONE, Database, Engine, Run, World, on_each_engine};

on_each_engine!(
    claude_asks_and_goes_on_with_the_answer,
    claude_asks_beside_other_tools,
    a_subagent_may_not_ask,
    a_command_asks_more_than_once,
    uncommitted_work_survives_its_container,
);

const TOOL: &str = "mcp__fabrica__escalate";

fn question() -> Value {
    json!({
        "question": "Which of the two tables holds the stock?",
        "options": ["catalogue", "warehouse"],
        "context": "Both have a column for it.",
        "urgency": "high"
    })
}

fn commit(message: &str) -> Turn {
    let command = format!("cd {CLONE} && git add -A && git commit -q -m '{message}'");
    Turn::tool("Bash", scripts::bash(&command, "Commit"))
}

/// Writes a file that it does not commit, asks, and after the answer commits it.
fn asks_in_the_middle() -> Script {
    let notes = scripts::write(
        &format!("{CLONE}/NOTES.md"),
        "Not committed before the question.\n",
    );
    Script::new([Turn::tool("Write", notes), Turn::tool(TOOL, question())]).when_user_says(
        "the second one",
        [
            commit("Note which table it is"),
            Turn::text("The stock is in the table stock; NOTES.md says so."),
        ],
    )
}

impl World {
    async fn questions(&self, id: SessionId) -> Result<Vec<Question>> {
        Ok(self.store().await?.questions(id).await?)
    }

    /// `fabrica answer`, which has to succeed.
    pub(crate) async fn answer(&self, id: SessionId, text: &str) -> Result<()> {
        let output = self
            .command(&["answer", &id.short(), text, "--as", "Ada"])?
            .output()
            .await?;
        ensure!(
            output.status.success(),
            "fabrica answer: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// `fabrica resume`, to its end.
    pub(crate) async fn resume(&self, id: SessionId) -> Result<Run> {
        let child = self.command(&["resume", &id.to_string()])?.spawn()?;
        self.finish(child).await
    }

    /// Changes PostgreSQL as another program would.
    async fn execute(&self, statements: &'static str) -> Result<()> {
        let mut connection = PgConnection::connect(&self.database_url).await?;
        sqlx::raw_sql(statements).execute(&mut connection).await?;
        Ok(connection.close().await?)
    }

    /// Waits until the database knows of a checkpoint.
    async fn reported_checkpoint(&self) -> Result<SessionId> {
        // The tables are there as soon as somebody has opened the store.
        self.store().await?;
        let mut connection = PgConnection::connect(&self.database_url).await?;
        loop {
            let id: Option<Uuid> = sqlx::query_scalar(
                "select id from sessions where checkpoint_attempt = 1 and status = 'running'",
            )
            .fetch_optional(&mut connection)
            .await?;
            if let Some(id) = id {
                connection.close().await?;
                return Ok(SessionId::from_uuid(id));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn checkpoint(&self, id: SessionId) -> Result<Option<String>> {
        let name = format!("refs/fabrica/{id}/checkpoint");
        let refs = self.rehearsal.sample().refs().await?;
        Ok(refs
            .into_iter()
            .find_map(|(reference, commit)| (reference == name).then_some(commit)))
    }
}

/// That it waits with its question, and with nothing else.
fn assert_waits(run: &Run) {
    run.assert_status("escalated", 4);
    let last = run.messages.last().expect("it has messages");
    assert_eq!(last.kind, MessageKind::Escalation, "{run:#?}");
    assert_eq!(
        last.content.message, "Which of the two tables holds the stock?",
        "{run:#?}"
    );
    assert_eq!(
        last.content.metadata["options"],
        json!(["catalogue", "warehouse"])
    );
    assert_eq!(last.content.metadata["urgency"], "high");
}

/// Everything that the model was shown in the last request.
fn last_conversation(world: &World) -> Result<(String, Option<String>)> {
    let requests = world.rehearsal.model_requests();
    let last = requests.last().context("the model was asked")?;
    Ok((
        last.body["messages"].to_string(),
        last.session().map(str::to_owned),
    ))
}

/// Asked on one engine, answered, and gone on with on the other one.
async fn claude_asks_and_goes_on_with_the_answer(engine: Engine) -> Result<()> {
    let mut world = World::new(engine, Database::Postgres, asks_in_the_middle()).await?;
    let run = world.run(&world.plan("")).await?;
    assert_waits(&run);
    let id = run.session().id;
    assert!(run.session().completed_at.is_none());
    assert!(
        world.checkpoint(id).await?.is_some(),
        "the work is not safe: {run:#?}"
    );
    assert_eq!(
        world.rehearsal.sample().head(&run.branch()).await?,
        None,
        "the branch was pushed although the work is not done"
    );
    let (_, asked_in) = last_conversation(&world)?;

    // An hour later, by the database's clock.
    world
        .execute(
            "update questions set asked_at = asked_at - interval '1 hour';
             update sessions set created_at = created_at - interval '1 hour'",
        )
        .await?;
    world.answer(id, "It is the second one").await?;
    let again = world
        .command(&["answer", &id.short(), "catalogue"])?
        .output()
        .await?;
    assert_eq!(again.status.code(), Some(1), "a second answer was accepted");
    assert!(String::from_utf8_lossy(&again.stderr).contains("question.already_answered"));

    world.engine = match engine {
        Engine::Docker => Engine::RootlessPodman,
        Engine::RootlessPodman => Engine::Docker,
    };
    let done = world.resume(id).await?;
    done.assert_status("completed", 0);
    assert_eq!(world.rehearsal.pull_requests().len(), 1, "{done:#?}");
    let notes = world.rehearsal.sample().file(&done.branch(), "NOTES.md").await?;
    assert_eq!(notes.as_deref(), Some("Not committed before the question.\n"));
    assert_eq!(done.session().attempt.get(), 2);
    let (conversation, resumed_in) = last_conversation(&world)?;
    assert_eq!(asked_in, resumed_in, "it is another conversation");
    for part in [
        "Not committed before the question.",
        "Which of the two tables",
        "It is the second one",
    ] {
        assert!(
            conversation.contains(part),
            "{part} is missing: {conversation}, {done:#?}"
        );
    }
    world.end().await
}

async fn claude_asks_beside_other_tools(engine: Engine) -> Result<()> {
    let write = |name: &str| scripts::write(&format!("{CLONE}/{name}"), "x\n");
    let turn = Turn::tool("Write", write("one.txt"))
        .and_tool(TOOL, question())
        .and_tool("Write", write("two.txt"))
        .and_tool("Bash", scripts::bash("echo three", "Say three"));
    let script = Script::new([turn, Turn::text("I go on all the same.")]).when_user_says(
        "warehouse",
        [commit("Two files"), Turn::text("Both files are there.")],
    );
    let world = World::new(engine, Database::Sqlite, script).await?;
    let run = world.run(&world.plan("")).await?;
    assert_waits(&run);
    let id = run.session().id;
    // The number of an option stands for it.
    world.answer(id, "2").await?;
    assert_eq!(
        world.questions(id).await?[0]
            .answer
            .as_ref()
            .map(|answer| answer.text.as_str()),
        Some("warehouse")
    );
    let done = world.resume(id).await?;
    done.assert_status("completed", 0);
    for name in ["one.txt", "two.txt"] {
        let file = world.rehearsal.sample().file(&done.branch(), name).await?;
        assert_eq!(file.as_deref(), Some("x\n"), "{name}: {done:#?}");
    }
    world.end().await
}

/// Its call is denied, and the session goes on.
async fn a_subagent_may_not_ask(engine: Engine) -> Result<()> {
    let task = json!({
        "description": "Look into it",
        "prompt": "You are the helper: look which table it is.",
        "subagent_type": "general-purpose"
    });
    let script = Script::new([
        Turn::tool("Task", task),
        Turn::text("The helper could not ask; I decided for the table stock."),
    ])
    .when_user_says(
        "You are the helper",
        [Turn::tool(TOOL, question()), Turn::text("I may not ask.")],
    );
    let world = World::new(engine, Database::Sqlite, script).await?;
    let run = world.run(&world.plan("")).await?;
    run.assert_status("completed", 0);
    assert!(world.questions(run.session().id).await?.is_empty(), "{run:#?}");
    let denied = run.transcript.iter().any(|entry| {
        entry.entry.kind == "tool_result" && json!(entry.entry.detail).to_string().contains("subagent")
    });
    assert!(denied, "nobody told the subagent: {run:#?}");
    world.end().await
}

async fn a_command_asks_more_than_once(engine: Engine) -> Result<()> {
    let command = "if [ -z \"${FABRICA_ANSWER:-}\" ]; then echo one > work.txt; \
                   fabrica-escalate --option red --option blue --context 'For the door.' 'Which colour?'; exit 85; \
                   elif [ \"$(cat work.txt)\" = one ]; then cat \"$FABRICA_ANSWER\" > first.txt; echo two > work.txt; \
                   echo 'And how many?' | fabrica-escalate -; exit 85; \
                   else cat \"$FABRICA_ANSWER\" > second.txt; git add -A; git commit -qm Answered; fi";
    let world = World::new(engine, Database::Sqlite, scripts::no_change(CLONE)).await?;
    let run = world
        .run(&world.command_plan(command, "limits: { attempts: 1 }"))
        .await?;
    run.assert_status("escalated", 4);
    let id = run.session().id;
    world.answer(id, "1").await?;
    let run = world.resume(id).await?;
    run.assert_status("escalated", 4);
    let asked: Vec<String> = world
        .questions(id)
        .await?
        .into_iter()
        .map(|question| question.escalation.question)
        .collect();
    assert_eq!(asked, ["Which colour?", "And how many?"]);
    world.answer(id, "Seven").await?;
    let run = world.resume(id).await?;
    run.assert_status("completed", 0);
    let file = async |name: &str| world.rehearsal.sample().file(&run.branch(), name).await;
    assert!(
        file("first.txt").await?.is_some_and(|text| text.contains("red")),
        "{run:#?}"
    );
    assert!(
        file("second.txt")
            .await?
            .is_some_and(|text| text.contains("Seven")),
        "{run:#?}"
    );
    world.end().await
}

/// The container is killed in the middle of uncommitted work: the next attempt has the files.
async fn uncommitted_work_survives_its_container(engine: Engine) -> Result<()> {
    let command = "if [ -f kept.txt ]; then git add -A && git commit -qm Kept; \
                   else echo kept > kept.txt; while :; do sleep 0.1; done; fi";
    let world = World::new(engine, Database::Postgres, scripts::no_change(CLONE)).await?;
    let child = world.start(&world.command_plan(command, ""), &["--checkpoint", "1s"])?;
    let kill = async {
        let id = world.reported_checkpoint().await?;
        ensure!(
            world.checkpoint(id).await?.is_some(),
            "the git host has no checkpoint"
        );
        engine
            .client(&["kill", &format!("fabrica-{id}-1")])
            .await
            .map(drop)
    };
    let (run, killed) = tokio::join!(world.finish(child), kill);
    killed?;
    let run = run?;
    run.assert_status("completed", 0);
    assert_eq!(run.session().attempt.get(), 2, "{run:#?}");
    let kept = world.rehearsal.sample().file(&run.branch(), "kept.txt").await?;
    assert_eq!(kept.as_deref(), Some("kept\n"), "{run:#?}");
    world.end().await
}
