//! The container engine is killed and started again; its containers live on, or die with it.

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

/// Within which a session has ended or is owned again. A container that its engine ends gets ten seconds from it.
const RECOVERY: Duration = Duration::from_secs(30);

pub(super) async fn test(suite: &Suite, tally: &Tally) -> Result<()> {
    let [docker, podman] = suite.engines();
    let (first, second) = tokio::join!(dies(suite, tally, docker), dies(suite, tally, podman));
    first.and(second)
}

async fn dies(suite: &Suite, tally: &Tally, engine: Arc<Engine>) -> Result<()> {
    let name = match engine.kind {
        Kind::Docker => "engine-dies-docker",
        Kind::RootlessPodman => "engine-dies-podman",
    };
    let mut world = World::begin(suite, making(suite, name, engine.clone(), 1, &[])).await?;
    // They die with an engine that takes its containers along.
    for stranger in std::mem::take(&mut world.strangers) {
        engine.client(&["rm", "--force", &stranger.name]).await?;
    }
    let mut dice = Dice::new(suite.seed, name);
    for round in 0..suite.of(2, 12) {
        let mut ids = Vec::new();
        for _ in 0..2 {
            let agent = Agent::new(&mut dice, 60, "0.1");
            ids.push(world.submit(&agent, "limits: { attempts: 3 }").await?);
        }
        if !dice.once_in(4) {
            for id in &ids {
                world.wrote(*id, 1, Duration::from_mins(1)).await?;
            }
        }
        // Podman has no daemon that its containers could die with.
        let keeps = round % 2 == 0 || engine.kind == Kind::RootlessPodman;
        let with_server = dice.once_in(4);
        engine.kill().await?;
        tally.fault(if keeps {
            "the engine is killed"
        } else {
            "the engine is killed, with its containers"
        });
        if with_server {
            world.kill(0).await?;
            tally.fault("and the server too");
        }
        sleep(dice.milliseconds(0, 3_000)).await;
        engine.up(keeps).await?;
        if with_server {
            world.start(0).await?;
        }
        let back = Instant::now();
        for id in &ids {
            match world.recovered(*id, suite.promised(RECOVERY)).await? {
                Ok(_) => tally.took("engine back until ended or owned", back.elapsed()),
                Err(state) => tally.broken(format!("the engine is back, and then: {state}")),
            }
        }
        oracle::settle(&world, tally).await?;
    }
    for session in oracle::audit(&world, tally).await? {
        tally.check(session.status == "completed", || {
            format!("the engine's death cost {session:?}")
        });
        let messages = world.database.messages(session.id).await?;
        let told = messages
            .iter()
            .filter(|message| message.metadata("step") == "retry")
            .count();
        tally.check(told + 1 == session.attempt.unsigned_abs() as usize, || {
            format!(
                "{} is at attempt {}, and {told} retries were told",
                session.id, session.attempt
            )
        });
    }
    let owner = world.owner().await?.to_owned();
    let left = engine.containers(&owner).await?;
    tally.check(left.is_empty(), || format!("orphans of a dead engine: {left:?}"));
    world.end().await
}
