//! SIGTERM: nothing more is claimed, the containers go on under another replica, and the process ends soon.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::making;
use crate::agent::Agent;
use crate::dice::Dice;
use crate::engine::{Engine, Kind};
use crate::oracle;
use crate::report::Tally;
use crate::world::{Suite, World};

/// Within which a drained process has ended.
const END: Duration = Duration::from_secs(10);
const RECOVERY: Duration = Duration::from_secs(20);

pub(super) async fn test(suite: &Suite, tally: &Tally) -> Result<()> {
    let [docker, podman] = suite.engines();
    let (first, second, third) = tokio::join!(
        hand_over(suite, tally, docker),
        hand_over(suite, tally, podman),
        finish(suite, tally)
    );
    first.and(second).and(third)
}

async fn hand_over(suite: &Suite, tally: &Tally, engine: Arc<Engine>) -> Result<()> {
    let name = match engine.kind {
        Kind::Docker => "drained-docker",
        Kind::RootlessPodman => "drained-podman",
    };
    let settings = [("FABRICA_CONCURRENCY", "2")];
    let world = World::begin(suite, making(suite, name, engine, 2, &settings)).await?;
    let mut dice = Dice::new(suite.seed, name);
    for _ in 0..suite.of(1, 8) {
        let mut ids = Vec::new();
        for _ in 0..4 {
            let agent = Agent::new(&mut dice, 60, "0.1");
            ids.push(world.submit(&agent, "").await?);
        }
        sleep(dice.milliseconds(0, 3_000)).await;
        // One after the other, so that for a while nobody is there; then the first one is back.
        let first = dice.below(2);
        for place in [first, 1 - first] {
            drain(suite, tally, &world, place).await?;
        }
        let running = world.engine.containers(world.owner().await?).await?;
        // One that is being made is not started by anybody: then another attempt makes its own.
        let ended: Vec<_> = running
            .iter()
            .filter(|(_, state)| state.starts_with("exit"))
            .collect();
        tally.check(ended.is_empty(), || {
            format!("a drained server ended its containers: {ended:?}")
        });
        for place in 0..2 {
            world.start(place).await?;
        }
        owned_again(suite, tally, &world, &ids).await?;
        oracle::settle(&world, tally).await?;
    }
    for session in oracle::audit(&world, tally).await? {
        tally.check(session.status == "completed", || {
            format!("draining cost {session:?}")
        });
        let events = world.engine.events(&session.id.to_string());
        let starts = events.iter().filter(|event| event.action == "start").count();
        tally.check(starts == 1, || {
            format!("{} ran {starts} times: {}", session.id, oracle::told(&events))
        });
    }
    world.end().await
}

async fn drain(suite: &Suite, tally: &Tally, world: &World, place: usize) -> Result<()> {
    let id = world.replica(place).await.id();
    tally.fault("SIGTERM");
    let ended = world.replica(place).await.terminate(Duration::from_mins(1)).await;
    match ended {
        Ok((status, took)) => {
            tally.took("SIGTERM until the process has ended", took);
            tally.check(took < suite.promised(END), || {
                format!("a drained server took {took:?} to end")
            });
            tally.check(status.success(), || {
                format!("a drained server ended with {status}")
            });
        }
        Err(error) => tally.broken(format!("a drained server does not end: {error:#}")),
    }
    let sessions = world.database.sessions().await?;
    let held: Vec<_> = sessions
        .iter()
        .filter(|session| session.status == "running" && session.leased && session.owner() == id)
        .collect();
    tally.check(held.is_empty(), || {
        format!("a drained server keeps leases: {held:?}")
    });
    Ok(())
}

async fn owned_again(suite: &Suite, tally: &Tally, world: &World, ids: &[Uuid]) -> Result<()> {
    let back = Instant::now();
    for id in ids {
        if world
            .database
            .session(*id)
            .await?
            .is_none_or(|row| row.status == "pending")
        {
            continue;
        }
        match world.recovered(*id, suite.promised(RECOVERY)).await? {
            Ok(_) => tally.took("start after a drain until owned again", back.elapsed()),
            Err(state) => tally.broken(format!("not owned again after a drain: {state}")),
        }
    }
    Ok(())
}

/// `--drain finish`: the sessions that run are waited for, those that wait stay.
async fn finish(suite: &Suite, tally: &Tally) -> Result<()> {
    let settings = [("FABRICA_DRAIN", "finish"), ("FABRICA_CONCURRENCY", "1")];
    let world = World::begin(
        suite,
        making(suite, "drained-finish", suite.podman.clone(), 1, &settings),
    )
    .await?;
    let mut dice = Dice::new(suite.seed, "finish");
    let first = world.submit(&Agent::new(&mut dice, 20, "0.1"), "").await?;
    let second = world.submit(&Agent::new(&mut dice, 2, ""), "").await?;
    world.wrote(first, 1, Duration::from_mins(1)).await?;
    tally.fault("SIGTERM with --drain finish");
    let (status, took) = world.replica(0).await.terminate(Duration::from_mins(2)).await?;
    tally.took("--drain finish until the process has ended", took);
    tally.check(status.success(), || format!("--drain finish ended with {status}"));
    let statuses = [
        world.database.session(first).await?,
        world.database.session(second).await?,
    ]
    .map(|row| row.map(|row| row.status).unwrap_or_default());
    tally.check(statuses == ["completed", "pending"], || {
        format!("--drain finish left its sessions as {statuses:?}")
    });
    world.start(0).await?;
    oracle::audit(&world, tally).await?;
    world.end().await
}
