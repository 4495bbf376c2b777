//! The only replica is killed in the middle of sessions, again and again.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::time::{Instant, sleep};

use super::making;
use crate::agent::Agent;
use crate::dice::Dice;
use crate::engine::{Engine, Kind};
use crate::oracle;
use crate::report::Tally;
use crate::world::{Suite, World};

/// Within which a restarted server owns its sessions again.
const RECOVERY: Duration = Duration::from_secs(5);

pub(super) async fn test(suite: &Suite, tally: &Tally) -> Result<()> {
    let [docker, podman] = suite.engines();
    let (first, second) = tokio::join!(
        again_and_again(suite, tally, docker),
        again_and_again(suite, tally, podman)
    );
    first.and(second)
}

async fn again_and_again(suite: &Suite, tally: &Tally, engine: Arc<Engine>) -> Result<()> {
    let name = match engine.kind {
        Kind::Docker => "reattached-docker",
        Kind::RootlessPodman => "reattached-podman",
    };
    let world = World::begin(suite, making(suite, name, engine, 1, &[])).await?;
    let mut dice = Dice::new(suite.seed, name);
    for _ in 0..suite.of(1, 6) {
        let agents: Vec<Agent> = (0..3).map(|_| Agent::new(&mut dice, 120, "0.1")).collect();
        let mut ids = Vec::new();
        for agent in &agents {
            ids.push(world.submit(agent, "").await?);
        }
        for id in &ids {
            world.wrote(*id, 1, Duration::from_mins(1)).await?;
        }
        for _ in 0..6 {
            world.kill(0).await?;
            tally.fault("kill -9 of the only replica");
            sleep(dice.milliseconds(0, 400)).await;
            let restarted = Instant::now();
            world.start(0).await?;
            tally.took("restart until /health answers", restarted.elapsed());
            for id in &ids {
                let patience = suite.promised(RECOVERY).saturating_sub(restarted.elapsed());
                match world.recovered(*id, patience).await? {
                    Ok(_) => tally.took("restart until owned again", restarted.elapsed()),
                    Err(state) => tally.broken(format!("not owned again after a restart: {state}")),
                }
            }
            sleep(dice.milliseconds(0, 1_000)).await;
        }
        oracle::settle(&world, tally).await?;
    }
    for session in oracle::audit(&world, tally).await? {
        tally.check(session.status == "completed" && session.attempt == 1, || {
            format!("the same container did not go on: {session:?}")
        });
    }
    world.end().await
}
