//! Sessions that are ended from outside. What the agent committed is kept.

use anyhow::{Context as _, Result};
use fabrica_cli::rehearsal::scripts;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Child;

use crate::rig::{CLONE, Database, Engine, World, on_each_engine};

on_each_engine!(
    an_interrupt_cancels_and_keeps_commits,
    the_wall_limit_ends_it_and_keeps_commits,
    an_agent_that_ignores_its_end_is_killed
);

/// Commits, says so, and then never ends by itself.
const WORKS_ON: &str = "echo work > work.txt && git add -A && git commit -qm Work && echo agent-is-ready && while :; do sleep 1; done";

/// Reads the program's JSON lines until one contains a text; what follows is thrown away, so that the pipe never fills.
async fn until(child: &mut Child, text: &str) -> Result<()> {
    let stdout = child.stdout.take().context("stdout is piped")?;
    let mut lines = BufReader::new(stdout).lines();
    let mut seen = Vec::new();
    loop {
        let line = lines
            .next_line()
            .await?
            .with_context(|| format!("it ended before {text}: {seen:#?}"))?;
        let found = line.contains(text);
        seen.push(line);
        if found {
            break;
        }
    }
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Ok(())
}

fn interrupt(child: &Child) -> Result<()> {
    let id = child.id().context("it runs")?;
    let process = rustix::process::Pid::from_raw(i32::try_from(id)?).context("a process id")?;
    Ok(rustix::process::kill_process(
        process,
        rustix::process::Signal::INT,
    )?)
}

async fn an_interrupt_cancels_and_keeps_commits(engine: Engine) -> Result<()> {
    let world = World::new(engine, Database::Sqlite, scripts::no_change(CLONE)).await?;
    let mut child = world.start(&world.command_plan(WORKS_ON, ""), &["--json"])?;
    until(&mut child, "agent-is-ready").await?;
    interrupt(&child)?;
    let run = world.finish(child).await?;
    run.assert_status("cancelled", 3);
    assert!(
        world
            .rehearsal
            .sample()
            .file(&run.branch(), "work.txt")
            .await?
            .is_some(),
        "{run:#?}"
    );
    assert_eq!(world.rehearsal.pull_requests().len(), 0);
    world.end().await
}

async fn the_wall_limit_ends_it_and_keeps_commits(engine: Engine) -> Result<()> {
    let world = World::new(engine, Database::Sqlite, scripts::no_change(CLONE)).await?;
    let run = world
        .run(&world.command_plan(WORKS_ON, "limits: { wall: 6s }"))
        .await?;
    run.assert_failed("limit.wall_time");
    assert!(
        world
            .rehearsal
            .sample()
            .file(&run.branch(), "work.txt")
            .await?
            .is_some(),
        "{run:#?}"
    );
    world.end().await
}

async fn an_agent_that_ignores_its_end_is_killed(engine: Engine) -> Result<()> {
    let world = World::new(engine, Database::Sqlite, scripts::no_change(CLONE)).await?;
    let stubborn = format!("trap '' TERM INT HUP; {WORKS_ON}");
    let run = world
        .run(&world.command_plan(&stubborn, "limits: { wall: 6s }"))
        .await?;
    run.assert_failed("limit.wall_time");
    assert!(
        world
            .rehearsal
            .sample()
            .file(&run.branch(), "work.txt")
            .await?
            .is_some(),
        "{run:#?}"
    );
    world.end().await
}
