//! A plan goes in, a pull request comes out.

use anyhow::{Context as _, Result};
use fabrica_cli::rehearsal::scripts;

use crate::rig::{CLONE, Database, Engine, World, on_each_engine};

on_each_engine!(with_sqlite, with_postgres, with_gitea, with_a_local_repository);

async fn with_sqlite(engine: Engine) -> Result<()> {
    plan_to_pull_request(engine, Database::Sqlite).await
}

async fn with_postgres(engine: Engine) -> Result<()> {
    plan_to_pull_request(engine, Database::Postgres).await
}

async fn plan_to_pull_request(engine: Engine, database: Database) -> Result<()> {
    let world = World::new(engine, database, scripts::sample_job(CLONE)).await?;
    let plan = scripts::sample_plan(&world.rehearsal.repository_url());
    let run = world.run(&plan).await?;
    run.assert_status("completed", 0);

    let requests = world.rehearsal.pull_requests();
    assert_eq!(requests.len(), 1, "{run:#?}");
    let url = run.session().pr_url.clone().context("pr_url is set")?;
    assert_eq!(run.stdout.trim(), url, "stdout is the result and nothing else");
    assert_eq!(run.session().branch_name.as_deref(), Some(run.branch().as_str()));
    assert!(run.session().usage.cost_usd > 0.0 && run.session().usage.output_tokens > 0);

    let diff = world.rehearsal.sample().diff(&run.branch()).await?;
    assert!(
        diff.contains("low_test.sh") && diff.contains("+    low)"),
        "{diff}"
    );
    let log = world.rehearsal.sample().log(&run.branch()).await?;
    assert!(log.iter().any(|line| line.contains("Add stock low")), "{log:?}");

    let sequence: Vec<u64> = run.messages.iter().map(|message| message.sequence).collect();
    assert_eq!(sequence, (1..=run.messages.len() as u64).collect::<Vec<_>>());
    let completion = run.messages.last().context("there are messages")?;
    assert_eq!(completion.kind.as_str(), "completion");
    assert_eq!(completion.content.metadata["prUrl"], url.as_str());
    assert_eq!(completion.content.metadata["verification"][0]["passed"], true);
    let tools: Vec<&str> = run
        .transcript
        .iter()
        .map(|entry| entry.entry.kind.as_str())
        .collect();
    assert!(
        tools.contains(&"tool_use") && tools.contains(&"tool_result"),
        "{tools:?}"
    );

    let specs = world.store().await?.specs(run.session().id).await?;
    assert_eq!(
        (specs.len(), specs[0].version, specs[0].content.as_str()),
        (1, 1, plan.as_str())
    );
    world.end().await
}

async fn with_gitea(engine: Engine) -> Result<()> {
    let world = World::new(engine, Database::Sqlite, scripts::no_change(CLONE)).await?;
    let plan = world.command_plan(
        "echo hello > hello.txt && git add -A && git commit -qm 'Say hello'",
        "pull_request: { draft: true }",
    );
    let path = world.write_plan(&plan)?;
    let host = world
        .rehearsal
        .repository_url()
        .trim_start_matches("http://")
        .split('/')
        .next()
        .map(str::to_owned);
    let forge = format!(
        "gitea={},{}",
        host.context("a host")?,
        world.rehearsal.gitea_api_url()
    );
    let child = world
        .command(&["run", path.to_str().context("text")?])?
        .env("FABRICA_FORGES", forge)
        .spawn()?;
    let run = world.finish(child).await?;
    run.assert_status("completed", 0);
    assert_eq!(world.rehearsal.pull_requests().len(), 1, "{run:#?}");
    world.end().await
}

/// For a repository in a local path the branch itself is the result.
async fn with_a_local_repository(engine: Engine) -> Result<()> {
    let world = World::new(engine, Database::Sqlite, scripts::no_change(CLONE)).await?;
    let repository = world.rehearsal.sample().path().to_owned();
    let plan = world
        .command_plan(
            "echo hello > hello.txt && git add -A && git commit -qm 'Say hello'",
            "",
        )
        .replace(
            &world.rehearsal.repository_url(),
            repository.to_str().context("text")?,
        );
    let run = world.run(&plan).await?;
    run.assert_status("completed", 0);
    assert_eq!(run.stdout.trim(), run.branch());
    assert_eq!(world.rehearsal.pull_requests().len(), 0);
    let hello = world.rehearsal.sample().file(&run.branch(), "hello.txt").await?;
    assert_eq!(hello.as_deref(), Some("hello\n"));
    world.end().await
}
