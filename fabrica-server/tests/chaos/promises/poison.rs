//! Sessions that bring down whatever runs them come to an end, with everything that is known.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use rustix::process::Signal;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::making;
use crate::agent::Agent;
use crate::dice::Dice;
use crate::engine::{Engine, Kind};
use crate::oracle;
use crate::report::Tally;
use crate::world::{Suite, World};

pub(super) async fn test(suite: &Suite, tally: &Tally) -> Result<()> {
    let [docker, podman] = suite.engines();
    let (first, second) = tokio::join!(poison(suite, tally, docker), poison(suite, tally, podman));
    first.and(second)
}

async fn poison(suite: &Suite, tally: &Tally, engine: Arc<Engine>) -> Result<()> {
    let name = match engine.kind {
        Kind::Docker => "poison-docker",
        Kind::RootlessPodman => "poison-podman",
    };
    let world = World::begin(suite, making(suite, name, engine, 1, &[])).await?;
    let mut dice = Dice::new(suite.seed, name);
    for _ in 0..suite.of(1, 3) {
        crashes(tally, &world, &mut dice).await?;
    }
    if !suite.short {
        brings_down_the_server(tally, &world, &mut dice).await?;
    }
    oracle::audit(&world, tally).await?;
    world.end().await
}

/// Its sandbox is killed whenever its agent begins.
async fn crashes(tally: &Tally, world: &World, dice: &mut Dice) -> Result<()> {
    let agent = Agent::new(dice, 500, "0.1");
    let id = world.submit(&agent, "limits: { attempts: 2 }").await?;
    let deadline = Instant::now() + Duration::from_mins(3);
    let mut killed = 0;
    while let Some(row) = world.database.session(id).await? {
        if row.is_terminal() || Instant::now() > deadline {
            break;
        }
        let written = world.database.output(id).await?;
        if row.attempt > killed && written.iter().any(|line| line.attempt == row.attempt) {
            world.engine.signal_main(&row.container(), Signal::KILL).await?;
            tally.fault("the sandbox of a poison session dies");
            killed = row.attempt;
        }
        sleep(Duration::from_millis(50)).await;
    }
    ended_with_everything_known(tally, world, id, 2).await
}

/// The server is killed whenever it has claimed it, before a sandbox is up.
async fn brings_down_the_server(tally: &Tally, world: &World, dice: &mut Dice) -> Result<()> {
    let agent = Agent::new(dice, 500, "0.1");
    let id = world.submit(&agent, "limits: { attempts: 2 }").await?;
    let deadline = Instant::now() + Duration::from_mins(8);
    let mut killed = 0;
    while let Some(row) = world.database.session(id).await? {
        if row.is_terminal() || Instant::now() > deadline {
            break;
        }
        if row.status == "running" && row.attempt > killed {
            world.kill(0).await?;
            tally.fault("a session brings down the server");
            killed = row.attempt;
            world.start(0).await?;
        }
        sleep(Duration::from_millis(5)).await;
    }
    // A kill that comes late finds a sandbox, which goes on: then the session is none that brings down anybody.
    let row = world.database.session(id).await?;
    if row.as_ref().is_some_and(|row| row.status == "failed") {
        tally.number(
            "attempts of a session that brings down the server",
            u64::from(killed.unsigned_abs()),
        );
        return ended_with_everything_known(tally, world, id, 2).await;
    }
    let ended = world.cancel(0, id).await;
    tally.check(ended.is_ok(), || format!("it cannot be cancelled: {ended:?}"));
    tally.note("a session that was to bring down the server was adopted instead, and cancelled");
    Ok(())
}

async fn ended_with_everything_known(tally: &Tally, world: &World, id: Uuid, least: i32) -> Result<()> {
    let row = world.database.session(id).await?;
    let failed = row
        .as_ref()
        .is_some_and(|row| row.status == "failed" && row.attempt >= least);
    tally.check(failed, || format!("a poison session goes on: {row:?}"));
    let messages = world.database.messages(id).await?;
    let ending = messages.last();
    let known = ending.is_some_and(|message| {
        message.kind == "error"
            && !message.metadata("code").is_empty()
            && message.metadata("advice").len() > 10
    });
    tally.check(known, || {
        format!("a poison session ends without a code and advice: {ending:?}")
    });
    let told = messages
        .iter()
        .filter(|message| message.metadata("step") == "retry")
        .count();
    tally.check(told + 1 >= least.unsigned_abs() as usize, || {
        format!("{id}: not every lost attempt is told of: {messages:?}")
    });
    Ok(())
}
