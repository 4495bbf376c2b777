//! What goes wrong ends in a terminal status, with a stable code, the cause, and what to do. Nothing is lost.

use anyhow::Result;
use fabrica_cli::rehearsal::{Fault, Script, Turn, scripts};

use crate::rig::{CLONE, Database, Engine, World, on_each_engine};

on_each_engine!(
    a_repository_that_does_not_exist,
    a_repository_that_refuses_the_credential,
    a_base_that_does_not_exist,
    an_image_that_is_missing,
    a_model_key_that_is_wrong,
    a_model_that_is_overloaded_for_a_while,
    an_agent_that_changes_nothing,
    an_agent_that_leaves_changes_uncommitted,
    an_agent_that_fails_after_a_commit,
    a_setup_that_fails,
    a_verification_that_fails,
    a_branch_that_exists_already,
    a_branch_that_is_the_base,
    a_disk_that_is_full,
    an_agent_that_is_not_in_the_image,
);

async fn world(engine: Engine, script: Script) -> Result<World> {
    World::new(engine, Database::Sqlite, script).await
}

fn quiet() -> Script {
    scripts::no_change(CLONE)
}

async fn a_repository_that_does_not_exist(engine: Engine) -> Result<()> {
    let world = world(engine, quiet()).await?;
    let plan = world
        .command_plan("true", "")
        .replace("/acme/sample.git", "/acme/nowhere.git");
    world.run(&plan).await?.assert_failed("repository.not_found");
    world.end().await
}

async fn a_repository_that_refuses_the_credential(engine: Engine) -> Result<()> {
    let world = world(engine, quiet()).await?;
    let path = world.write_plan(&world.command_plan("true", ""))?;
    let child = world
        .command(&["run", &path.display().to_string()])?
        .env("FABRICA_FORGE_TOKEN", "wrong")
        .spawn()?;
    world.finish(child).await?.assert_failed("repository.denied");
    world.end().await
}

async fn a_base_that_does_not_exist(engine: Engine) -> Result<()> {
    let world = world(engine, quiet()).await?;
    let plan = world.command_plan("true", "base: nowhere");
    world.run(&plan).await?.assert_failed("repository.base_not_found");
    world.end().await
}

async fn an_image_that_is_missing(engine: Engine) -> Result<()> {
    let world = world(engine, quiet()).await?;
    let plan = world.command_plan("true", "image: localhost/fabrica-test/nowhere:1");
    world.run(&plan).await?.assert_failed("image.missing");
    world.end().await
}

async fn a_model_key_that_is_wrong(engine: Engine) -> Result<()> {
    let world = world(engine, quiet()).await?;
    let path = world.write_plan(&world.plan(""))?;
    let child = world
        .command(&["run", &path.display().to_string()])?
        .env("ANTHROPIC_API_KEY", "wrong")
        .spawn()?;
    let run = world.finish(child).await?;
    // Whoever operates Fabrica can mend it, and the session goes on then.
    run.assert_status("escalated", 4);
    let asked = &run.messages.last().expect("a question").content;
    assert!(asked.message.contains("Set a valid key"), "{asked:?}");
    assert_eq!(asked.metadata["audience"], "operator");
    world.end().await
}

async fn a_model_that_is_overloaded_for_a_while(engine: Engine) -> Result<()> {
    let turn = Turn::text("I changed nothing.").fault(Fault::overloaded(2));
    let world = world(engine, Script::new([turn])).await?;
    let run = world.run(&world.plan("")).await?;
    run.assert_status("completed", 0);
    let told = run
        .messages
        .iter()
        .any(|message| message.content.message.contains("529"));
    assert!(told, "nobody is told that the model is overloaded: {run:#?}");
    world.end().await
}

async fn an_agent_that_changes_nothing(engine: Engine) -> Result<()> {
    let world = world(engine, quiet()).await?;
    let run = world.run(&world.plan("")).await?;
    run.assert_status("completed", 0);
    assert_eq!(run.session().pr_url, None);
    assert_eq!(world.rehearsal.pull_requests().len(), 0);
    let last = &run.messages.last().expect("a completion").content.message;
    assert!(last.contains("without a change"), "{last}");
    assert!(run.stderr.contains("without a change"), "{}", run.stderr);
    world.end().await
}

async fn an_agent_that_leaves_changes_uncommitted(engine: Engine) -> Result<()> {
    let world = world(engine, scripts::leaves_uncommitted_change(CLONE)).await?;
    let run = world.run(&world.plan("")).await?;
    run.assert_status("completed", 0);
    let notes = world.rehearsal.sample().file(&run.branch(), "NOTES.md").await?;
    assert!(notes.is_some(), "{run:#?}");
    world.end().await
}

const COMMITS: &str = "echo work > work.txt && git add -A && git commit -qm 'Half of the work'";

async fn an_agent_that_fails_after_a_commit(engine: Engine) -> Result<()> {
    let world = world(engine, quiet()).await?;
    let plan = world.command_plan(&format!("{COMMITS}; echo the last words >&2; exit 3"), "");
    let run = world.run(&plan).await?;
    run.assert_failed("agent.failed");
    let last = &run.messages.last().expect("an error").content;
    assert!(
        last.metadata["diagnosis"].to_string().contains("the last words"),
        "{last:?}"
    );
    assert_eq!(last.metadata["branch"], run.branch());
    let work = world.rehearsal.sample().file(&run.branch(), "work.txt").await?;
    assert_eq!(
        work.as_deref(),
        Some("work\n"),
        "committed work is pushed although the session failed"
    );
    world.end().await
}

async fn a_setup_that_fails(engine: Engine) -> Result<()> {
    let world = world(engine, quiet()).await?;
    let plan = world.command_plan("true", "setup: [\"echo no such tool; exit 9\"]");
    let run = world.run(&plan).await?;
    run.assert_failed("setup.failed");
    let last = &run.messages.last().expect("an error").content;
    assert!(
        last.metadata["diagnosis"].to_string().contains("no such tool"),
        "{last:?}"
    );
    world.end().await
}

async fn a_verification_that_fails(engine: Engine) -> Result<()> {
    let world = world(engine, quiet()).await?;
    let plan = world.command_plan(COMMITS, "verify: [\"true\", \"echo not good enough; false\"]");
    let run = world.run(&plan).await?;
    run.assert_failed("verification.failed");
    assert_eq!(
        world.rehearsal.pull_requests().len(),
        0,
        "no pull request for work that was not verified"
    );
    assert!(
        world
            .rehearsal
            .sample()
            .file(&run.branch(), "work.txt")
            .await?
            .is_some()
    );
    world.end().await
}

async fn a_branch_that_exists_already(engine: Engine) -> Result<()> {
    let world = world(engine, quiet()).await?;
    let first = world.command_plan(COMMITS, "branch: topic/work");
    world.run(&first).await?.assert_status("completed", 0);
    // The second session gets a database of its own, since a run makes one session in it.
    let second = first
        .replace("work.txt", "more.txt")
        .replace("Half", "The other half");
    let path = world.write_plan(&second)?;
    let database = format!("sqlite:{}", world.path("second.db").display());
    let output = world
        .command(&["run", &path.display().to_string()])?
        .env("DATABASE_URL", database)
        .spawn()?
        .wait_with_output()
        .await?;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let sample = world.rehearsal.sample();
    for file in ["work.txt", "more.txt"] {
        assert!(
            sample.file("topic/work", file).await?.is_some(),
            "{file} is missing"
        );
    }
    assert_eq!(
        world.rehearsal.pull_requests().len(),
        1,
        "the pull request is updated, not opened twice"
    );
    world.end().await
}

async fn a_branch_that_is_the_base(engine: Engine) -> Result<()> {
    let world = world(engine, quiet()).await?;
    let before = world.rehearsal.sample().head("main").await?;
    world
        .run(&world.command_plan(COMMITS, "branch: main"))
        .await?
        .assert_failed("branch.is_base");
    assert_eq!(world.rehearsal.sample().head("main").await?, before);
    world.end().await
}

async fn a_disk_that_is_full(engine: Engine) -> Result<()> {
    let world = world(engine, quiet()).await?;
    let plan = world.command_plan("head -c 20G /dev/zero > /tmp/fill", "");
    let run = world.run(&plan).await?;
    run.assert_failed("agent.failed");
    let last = &run.messages.last().expect("an error").content;
    assert!(
        last.metadata["diagnosis"].to_string().contains("No space left"),
        "{last:?}"
    );
    world.end().await
}

async fn an_agent_that_is_not_in_the_image(engine: Engine) -> Result<()> {
    let world = world(engine, quiet()).await?;
    let plan = world.plan("agent: { command: [\"/usr/bin/no-such-agent\"] }");
    world.run(&plan).await?.assert_failed("agent.not_found");
    world.end().await
}
