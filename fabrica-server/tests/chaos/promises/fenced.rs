//! A session's owner is frozen past its lease, another replica takes over, and then the first one is thawed.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::{late, making};
use crate::agent::Agent;
use crate::dice::Dice;
use crate::engine::{Engine, Kind};
use crate::oracle;
use crate::report::Tally;
use crate::world::{Suite, World};

/// Within which a session has a new owner, where leases are as long as they are by default.
const TAKEOVER: Duration = Duration::from_secs(20);

pub(super) async fn test(suite: &Suite, tally: &Tally) -> Result<()> {
    if suite.short {
        tally.note("leases are 4 s instead of 15 s in the short form");
    }
    let [docker, podman] = suite.engines();
    let (first, second) = tokio::join!(
        freeze(suite, tally, docker.clone()),
        freeze(suite, tally, podman.clone())
    );
    first.and(second)?;
    let (first, second) = tokio::join!(
        late::before_the_start(suite, tally, docker.clone()),
        late::before_the_start(suite, tally, podman.clone())
    );
    first.and(second)?;
    let (first, second) = tokio::join!(
        late::on_another_machine(suite, tally, (docker.clone(), podman.clone())),
        late::on_another_machine(suite, tally, (podman, docker))
    );
    first.and(second)
}

async fn freeze(suite: &Suite, tally: &Tally, engine: Arc<Engine>) -> Result<()> {
    let name = match engine.kind {
        Kind::Docker => "fenced-docker",
        Kind::RootlessPodman => "fenced-podman",
    };
    let settings = [("FABRICA_LEASE", suite.of("4s", "15s")), ("FABRICA_POLL", "1s")];
    let world = World::begin(suite, making(suite, name, engine, 2, &settings)).await?;
    let mut dice = Dice::new(suite.seed, name);
    for _ in 0..suite.of(1, 6) {
        // Enough for the freeze and the takeover, with some work left for after the thaw.
        let agents: Vec<Agent> = (0..3)
            .map(|_| {
                let lines = dice.below(suite.of(40, 120)) + 10;
                Agent::new(&mut dice, u32::try_from(lines).unwrap_or(10), "0.2")
            })
            .collect();
        let mut ids = Vec::new();
        for agent in &agents {
            ids.push(world.submit(agent, "").await?);
        }
        for id in &ids {
            world.wrote(*id, 1, Duration::from_mins(1)).await?;
        }
        sleep(dice.milliseconds(0, 2_000)).await;
        round(suite, tally, &world, &mut dice, &ids).await?;
    }
    oracle::audit(&world, tally).await?;
    for session in world.database.sessions().await? {
        tally.check(session.status == "completed" && session.attempt == 1, || {
            format!("a frozen owner cost {session:?}")
        });
    }
    world.end().await
}

async fn round(suite: &Suite, tally: &Tally, world: &World, dice: &mut Dice, ids: &[Uuid]) -> Result<()> {
    let mut owned = Vec::new();
    for id in ids {
        let row = world.database.session(*id).await?.context("it is there")?;
        owned.push((*id, world.place_of(row.owner())));
    }
    let victim = owned.iter().find_map(|(_, place)| *place).unwrap_or(0);
    world.replica(victim).await.freeze()?;
    tally.fault("SIGSTOP past the lease");
    let frozen = Instant::now();
    for (id, _) in owned.iter().filter(|(_, place)| *place == Some(victim)) {
        match world.recovered(*id, suite.promised(TAKEOVER)).await? {
            Ok(_) => tally.took("takeover from a frozen owner", frozen.elapsed()),
            Err(state) => tally.broken(format!("nobody took over from a frozen owner: {state}")),
        }
    }
    // Thawed in the middle of the others' work, or long after.
    sleep(dice.milliseconds(0, 3_000)).await;
    world.replica(victim).await.thaw()?;
    tally.fault("SIGCONT of an owner without a lease");
    sleep(dice.milliseconds(500, 2_000)).await;
    Ok(())
}
