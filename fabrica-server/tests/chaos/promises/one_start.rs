//! Three replicas race for many sessions of a trivial agent, and one of them is killed every few seconds.

use std::sync::Arc;

use anyhow::Result;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::making;
use crate::agent::Agent;
use crate::dice::Dice;
use crate::engine::{Engine, Kind};
use crate::oracle::{self, told};
use crate::report::Tally;
use crate::world::{Suite, World};

pub(super) async fn test(suite: &Suite, tally: &Tally) -> Result<()> {
    let (first, second) = tokio::join!(
        race(suite, tally, suite.docker.clone(), suite.of(24, 500)),
        race(suite, tally, suite.podman.clone(), suite.of(8, 100))
    );
    first.and(second)
}

async fn race(suite: &Suite, tally: &Tally, engine: Arc<Engine>, count: usize) -> Result<()> {
    let name = match engine.kind {
        Kind::Docker => "one-start-docker",
        Kind::RootlessPodman => "one-start-podman",
    };
    let settings = [("FABRICA_CONCURRENCY", "2")];
    let world = World::begin(suite, making(suite, name, engine, 3, &settings)).await?;
    let mut dice = Dice::new(suite.seed, name);
    let agents: Vec<Agent> = (0..count).map(|_| Agent::new(&mut dice, 3, "")).collect();
    let done = CancellationToken::new();
    let killing = async {
        while !done.is_cancelled() {
            done.run_until_cancelled(sleep(dice.milliseconds(1_500, 4_000)))
                .await;
            let place = dice.below(world.size());
            world.kill(place).await?;
            tally.fault("kill -9 of one of three replicas");
            sleep(dice.milliseconds(0, 1_500)).await;
            world.start(place).await?;
        }
        anyhow::Ok(())
    };
    let working = async {
        let began = tokio::time::Instant::now();
        stream::iter(&agents)
            .map(|agent| world.submit(agent, ""))
            .buffer_unordered(8)
            .try_collect::<Vec<_>>()
            .await?;
        let sessions = oracle::settle(&world, tally).await?;
        tally.took(&format!("{count} sessions, {name}"), began.elapsed());
        done.cancel();
        anyhow::Ok(sessions)
    };
    let (killed, worked) = tokio::join!(killing, working);
    killed?;
    worked?;
    let sessions = oracle::audit(&world, tally).await?;
    tally.check(sessions.len() == count, || {
        format!("{count} plans made {} sessions", sessions.len())
    });
    for session in &sessions {
        tally.check(session.status == "completed", || {
            format!("not completed: {session:?}")
        });
        let events = world.engine.events(&session.id.to_string());
        let starts = events.iter().filter(|event| event.action == "start").count();
        tally.check(starts == 1, || {
            format!(
                "{} ran {starts} times in {} attempts: {}",
                session.id,
                session.attempt,
                told(&events)
            )
        });
    }
    world.end().await
}
