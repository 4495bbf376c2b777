//! What comes after the agent's first word that it is done: verification that fails, and people who want something more.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fabrica_cli::rehearsal::{Script, Turn, scripts};
use fabrica_core::ids::SessionId;
use fabrica_core::ports::store::SessionFilter;
use tokio::process::Command;

use crate::rig::{CLONE, Database, Engine, Run, World, on_each_engine};

on_each_engine!(
    claude_mends_what_the_verification_found,
    a_verification_that_never_passes_opens_no_pull_request,
    a_follow_up_updates_the_same_pull_request,
    claude_hears_what_is_said_while_it_works,
    claude_hears_what_is_said_when_it_is_nearly_done,
    a_budget_that_is_used_up_is_raised,
    a_budget_that_is_used_up_ends_in_a_draft,
    a_budget_in_dollars_counts_what_the_gateway_sees,
);

/// Writes a note and commits it.
fn notes(content: &str) -> Turn {
    let command = format!(
        "cd {CLONE} && printf '{content}\\n' >NOTES.md && git add -A && git commit -q -m 'Note {content}'"
    );
    Turn::tool("Bash", scripts::bash(&command, "Write and commit"))
}

impl World {
    async fn say(&self, id: SessionId, text: &str) -> Result<()> {
        let output = self
            .command(&["say", &id.short(), text, "--as", "Ada"])?
            .output()
            .await?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "fabrica say: {said}");
        Ok(())
    }

    /// The conversation as the model was shown it last, and its id.
    fn conversation(&self) -> Result<(String, Option<String>)> {
        let requests = self.rehearsal.model_requests();
        let last = requests.last().context("the model was asked")?;
        Ok((
            last.body["messages"].to_string(),
            last.session().map(str::to_owned),
        ))
    }

    /// The session that runs, once the model was asked.
    async fn under_way(&self) -> Result<SessionId> {
        self.rehearsal.model().requests_reach(1).await;
        let sessions = self.store().await?.sessions(&SessionFilter::default(), 1).await?;
        Ok(sessions.first().context("it was stored before it ran")?.id)
    }

    /// Somebody else commits a file to a branch.
    async fn others_commit(&self, branch: &str, file: &str) -> Result<()> {
        let clone = self.path("others");
        let remote = self.rehearsal.sample().path().display().to_string();
        let script = format!(
            "set -e; rm -rf clone; git clone -q -b '{branch}' '{remote}' clone; cd clone; echo theirs >'{file}'; git add -A; \
             git -c user.name=Grace -c user.email=grace@localhost commit -q -m 'Theirs'; git push -q origin HEAD:'{branch}'"
        );
        std::fs::create_dir_all(&clone)?;
        let output = Command::new("sh")
            .args(["-c", &script])
            .current_dir(&clone)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .stdin(Stdio::null())
            .output()
            .await?;
        ensure!(
            output.status.success(),
            "git: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }
}

fn one_pull_request(world: &World, run: &Run) -> fabrica_cli::rehearsal::PullRequest {
    let requests = world.rehearsal.pull_requests();
    assert_eq!(requests.len(), 1, "{requests:#?} {run:#?}");
    requests[0].clone()
}

/// It fails twice, then passes; each time the agent goes on in its conversation with what the command wrote.
async fn claude_mends_what_the_verification_found(engine: Engine) -> Result<()> {
    let script = Script::new([notes("wrong"), Turn::text("Done.")])
        .when_user_says("round 2 of 3", [notes("still wrong"), Turn::text("Mended.")])
        .when_user_says("round 3 of 3", [notes("right"), Turn::text("Mended at last.")]);
    let world = World::new(engine, Database::Sqlite, script).await?;
    let run = world
        .run(&world.plan("verify: [\"echo looking at the notes; cat NOTES.md; grep -qx right NOTES.md\"]"))
        .await?;
    run.assert_status("completed", 0);
    let request = one_pull_request(&world, &run);
    for part in [
        "All passed in round 3.",
        "looking at the notes",
        "Mended at last.",
        "turns,",
    ] {
        assert!(request.body.contains(part), "{part}: {}", request.body);
    }
    let last = run.messages.last().expect("it has messages");
    assert_eq!(last.content.metadata["verificationRounds"], 3, "{run:#?}");
    let (conversation, id) = world.conversation()?;
    assert_eq!(id.as_deref(), Some(run.session().id.to_string().as_str()));
    for part in ["looking at the notes", "round 2 of 3", "round 3 of 3"] {
        assert!(conversation.contains(part), "{part}: {conversation}");
    }
    world.end().await
}

async fn a_verification_that_never_passes_opens_no_pull_request(engine: Engine) -> Result<()> {
    let script = Script::new([notes("wrong"), Turn::text("Done.")])
        .when_user_says("round 2 of 2", [notes("still wrong"), Turn::text("Mended.")]);
    let world = World::new(engine, Database::Sqlite, script).await?;
    let run = world
        .run(&world.plan("limits: { rounds: 2 }\nverify: [\"grep -qx right NOTES.md\"]"))
        .await?;
    run.assert_failed("verification.failed");
    assert!(world.rehearsal.pull_requests().is_empty(), "{run:#?}");
    let kept = world.rehearsal.sample().file(&run.branch(), "NOTES.md").await?;
    assert_eq!(
        kept.as_deref(),
        Some("still wrong\n"),
        "the work is on the branch"
    );
    world.end().await
}

/// Another attempt on the same branch, after what others have pushed to it, and in the same conversation.
async fn a_follow_up_updates_the_same_pull_request(engine: Engine) -> Result<()> {
    let script = Script::new([notes("first"), Turn::text("The first is done.")]).when_user_says(
        "a second note",
        [notes("second"), Turn::text("The second is done.")],
    );
    let mut world = World::new(engine, Database::Postgres, script).await?;
    let run = world.run(&world.plan("")).await?;
    run.assert_status("completed", 0);
    let id = run.session().id;
    let first = one_pull_request(&world, &run);
    world.others_commit(&run.branch(), "THEIRS.md").await?;

    world.say(id, "Please write a second note").await?;
    let waiting = world.store().await?.session(id).await?.context("it is there")?;
    assert_eq!((waiting.status.as_str(), waiting.completed_at), ("pending", None));
    world.engine = match engine {
        Engine::Docker => Engine::RootlessPodman,
        Engine::RootlessPodman => Engine::Docker,
    };
    let child = world.command(&["resume", &id.to_string()])?.spawn()?;
    let done = world.finish(child).await?;
    done.assert_status("completed", 0);
    let second = one_pull_request(&world, &done);
    assert_eq!(first.number, second.number);
    assert!(second.body.contains("The second is done."), "{}", second.body);
    let sample = world.rehearsal.sample();
    assert_eq!(
        sample.file(&done.branch(), "NOTES.md").await?.as_deref(),
        Some("second\n")
    );
    assert_eq!(
        sample.file(&done.branch(), "THEIRS.md").await?.as_deref(),
        Some("theirs\n")
    );
    let log = sample.log(&done.branch()).await?;
    assert_eq!(&log[..3], ["Note second", "Theirs", "Note first"], "{log:?}");
    let (conversation, spoken_in) = world.conversation()?;
    assert_eq!(spoken_in.as_deref(), Some(id.to_string().as_str()));
    for part in ["Ada says", "a second note", "The first is done."] {
        assert!(conversation.contains(part), "{part}: {conversation}");
    }
    world.end().await
}

async fn claude_hears_what_is_said_while_it_works(engine: Engine) -> Result<()> {
    // Works until the note has come into the sandbox.
    let wait = "n=0; until [ -e /workspace/.fabrica/inbox/new/1.json ] || [ $n = 600 ]; do n=$((n+1)); sleep 0.1; done";
    let script = Script::new([
        Turn::tool("Bash", scripts::bash(wait, "Work")),
        notes("done"),
        Turn::text("Done."),
    ]);
    let world = World::new(engine, Database::Sqlite, script).await?;
    let child = world.start(&world.plan(""), &[])?;
    let id = world.under_way().await?;
    world.say(id, "Use tabs, please").await?;
    let run = world.finish(child).await?;
    run.assert_status("completed", 0);
    assert_eq!(run.session().attempt.get(), 1, "{run:#?}");
    let requests = world.rehearsal.model_requests();
    let second = requests[1].body["messages"].to_string();
    assert!(
        second.contains("Ada says") && second.contains("Use tabs, please"),
        "at its next turn: {second}"
    );
    let told = run
        .messages
        .iter()
        .any(|message| message.content.message == "The agent has heard what Ada said");
    assert!(told, "{run:#?}");
    world.end().await
}

async fn claude_hears_what_is_said_when_it_is_nearly_done(engine: Engine) -> Result<()> {
    let script = Script::new([Turn::text("Done.").pace(Duration::from_secs(2))])
        .when_user_says("Use tabs", [notes("tabs"), Turn::text("With tabs.")]);
    let world = World::new(engine, Database::Sqlite, script).await?;
    let child = world.start(&world.plan(""), &[])?;
    let id = world.under_way().await?;
    world.say(id, "Use tabs, please").await?;
    let run = world.finish(child).await?;
    run.assert_status("completed", 0);
    let kept = world.rehearsal.sample().file(&run.branch(), "NOTES.md").await?;
    assert_eq!(kept.as_deref(), Some("tabs\n"), "{run:#?}");
    world.end().await
}

impl World {
    async fn answer_budget(&self, id: SessionId, text: &str) -> Result<Run> {
        let output = self
            .command(&["answer", &id.short(), text, "--as", "Ada"])?
            .output()
            .await?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let child = self.command(&["resume", &id.to_string()])?.spawn()?;
        self.finish(child).await
    }
}

/// Uses up its turns in the middle of work that it has not committed.
fn spends() -> Script {
    let write = |name: &str| Turn::tool("Write", scripts::write(&format!("{CLONE}/{name}"), "kept\n"));
    Script::new([
        write("one.txt"),
        write("two.txt"),
        write("three.txt"),
        Turn::text("Done."),
    ])
    .when_user_says("It was raised", [notes("more"), Turn::text("Done with more.")])
}

async fn a_budget_that_is_used_up_is_raised(engine: Engine) -> Result<()> {
    let world = World::new(engine, Database::Postgres, spends()).await?;
    let run = world.run(&world.plan("limits: { turns: 2 }")).await?;
    run.assert_status("escalated", 4);
    let question = run.messages.last().expect("it has messages");
    assert!(question.content.message.contains("budget of 2 turns"), "{run:#?}");
    let done = world.answer_budget(run.session().id, "raise to 20 turns").await?;
    done.assert_status("completed", 0);
    assert_eq!(world.rehearsal.pull_requests().len(), 1, "{done:#?}");
    let sample = world.rehearsal.sample();
    for (file, content) in [("one.txt", "kept\n"), ("NOTES.md", "more\n")] {
        assert_eq!(
            sample.file(&done.branch(), file).await?.as_deref(),
            Some(content),
            "{done:#?}"
        );
    }
    let (conversation, _) = world.conversation()?;
    assert!(
        conversation.contains("two.txt"),
        "it is another conversation: {conversation}"
    );
    world.end().await
}

async fn a_budget_that_is_used_up_ends_in_a_draft(engine: Engine) -> Result<()> {
    let world = World::new(engine, Database::Sqlite, spends()).await?;
    let run = world
        .run(&world.plan("limits: { turns: 2 }\nverify: [\"test -e three.txt\"]"))
        .await?;
    run.assert_status("escalated", 4);
    let asked = world.rehearsal.model_requests().len();
    let done = world.answer_budget(run.session().id, "3").await?;
    done.assert_status("completed", 0);
    let request = one_pull_request(&world, &done);
    assert!(request.draft, "{request:#?}");
    assert!(
        request.body.contains("Unfinished") && request.body.contains("FAILED"),
        "{}",
        request.body
    );
    assert_eq!(
        world.rehearsal.model_requests().len(),
        asked,
        "the model was asked again"
    );
    let kept = world.rehearsal.sample().file(&done.branch(), "one.txt").await?;
    assert_eq!(kept.as_deref(), Some("kept\n"));
    world.end().await
}

async fn a_budget_in_dollars_counts_what_the_gateway_sees(engine: Engine) -> Result<()> {
    let world = World::new(engine, Database::Postgres, spends()).await?;
    // A turn takes 1,200 tokens in and 180 out.
    let prices = world.path("prices.yaml");
    std::fs::write(
        &prices,
        "date: 2026-11-23\nmodels:\n  claude-*: { input: 1000, output: 1000 }\n",
    )?;
    let prices = prices.to_str().context("the path is text")?;
    let run = world
        .run_with(&world.plan("limits: { cost_usd: 2.5 }"), &["--prices", prices])
        .await?;
    run.assert_status("escalated", 4);
    let question = run.messages.last().expect("it has messages");
    assert!(question.content.message.contains("budget of $2.50"), "{run:#?}");
    let nearly = run
        .messages
        .iter()
        .any(|message| message.content.message.starts_with("110 % of the budget"));
    assert!(nearly, "{run:#?}");
    let asked = world.rehearsal.model_requests().len();
    assert_eq!(asked, 2, "what is refused reaches no model");
    world.end().await
}
