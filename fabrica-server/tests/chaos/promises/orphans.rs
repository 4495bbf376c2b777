//! Containers are deleted behind Fabrica's back, rows are deleted, and containers appear that nobody started.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::making;
use crate::agent::Agent;
use crate::database::SessionRow;
use crate::dice::{Dice, some_id};
use crate::engine::{Engine, Kind};
use crate::oracle;
use crate::report::Tally;
use crate::world::{Suite, World};

/// Within which everything is reconciled.
const RECONCILED: Duration = Duration::from_secs(30);

pub(super) async fn test(suite: &Suite, tally: &Tally) -> Result<()> {
    let [docker, podman] = suite.engines();
    let (first, second) = tokio::join!(both_ways(suite, tally, docker), both_ways(suite, tally, podman));
    first.and(second)
}

async fn both_ways(suite: &Suite, tally: &Tally, engine: Arc<Engine>) -> Result<()> {
    let name = match engine.kind {
        Kind::Docker => "orphans-docker",
        Kind::RootlessPodman => "orphans-podman",
    };
    let world = World::begin(suite, making(suite, name, engine, 1, &[])).await?;
    let mut dice = Dice::new(suite.seed, name);
    for _ in 0..suite.of(1, 8) {
        let agents: Vec<Agent> = (0..3).map(|_| Agent::new(&mut dice, 60, "0.2")).collect();
        let working =
            futures::future::try_join_all(agents.iter().map(|agent| working(&world, agent))).await?;
        let [first, second, third] = working[..] else {
            unreachable!("three agents")
        };
        let down = dice.once_in(2);
        if down {
            world.kill(0).await?;
            tally.fault("kill -9 before the deletions");
        }
        // The order is chance's: whatever is deleted first is seen first.
        let row = world.database.session(first).await?.context("it is there")?;
        world.engine.client(&["rm", "--force", &row.container()]).await?;
        tally.fault("rm -f of a session's container");
        let orphan = world
            .database
            .session(second)
            .await?
            .context("it is there")?
            .container();
        world.delete(second).await?;
        tally.fault("deletion of a session's rows");
        let stray = stray(&world).await?;
        tally.fault("a container that nobody started");
        if down {
            world.start(0).await?;
        }
        gone(
            suite,
            tally,
            &world,
            "deleted row until its container is gone",
            &orphan,
        )
        .await?;
        gone(suite, tally, &world, "stray container until it is gone", &stray).await?;
        let asked = Instant::now();
        match world.recovered(first, suite.promised(RECONCILED)).await? {
            Ok(_) => tally.took("deleted container until owned again", asked.elapsed()),
            Err(state) => tally.broken(format!("its container was deleted: {state}")),
        }
        retried_with_a_reason(&world, tally, first).await?;
        let (row, _) = world
            .until(third, Duration::from_mins(2), SessionRow::is_terminal)
            .await?;
        tally.check(
            row.as_ref()
                .is_some_and(|row| row.status == "completed" && row.attempt == 1),
            || format!("the neighbour of what was deleted: {row:?}"),
        );
    }
    oracle::audit(&world, tally).await?;
    world.end().await
}

/// A session whose agent is at work.
async fn working(world: &World, agent: &Agent) -> Result<Uuid> {
    let id = world.submit(agent, "").await?;
    world.wrote(id, 1, Duration::from_mins(1)).await?;
    Ok(id)
}

/// A container with this installation's labels, of a session that never was.
async fn stray(world: &World) -> Result<String> {
    let session = some_id();
    let labels = [
        format!("fabrica.owner={}", world.owner().await?),
        format!("fabrica.session={session}"),
        "fabrica.attempt=1".to_owned(),
    ];
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    let name = format!("fabrica-{session}-1");
    world.engine.stranger(&name, &labels).await?;
    Ok(name)
}

async fn gone(suite: &Suite, tally: &Tally, world: &World, what: &str, container: &str) -> Result<()> {
    let asked = Instant::now();
    let owner = world.owner().await?;
    while world.engine.containers(owner).await?.contains_key(container) {
        if asked.elapsed() > suite.promised(RECONCILED) {
            tally.broken(format!("{container} is still there ({what})"));
            return Ok(());
        }
        sleep(Duration::from_millis(100)).await;
    }
    tally.took(what, asked.elapsed());
    Ok(())
}

async fn retried_with_a_reason(world: &World, tally: &Tally, id: Uuid) -> Result<()> {
    let (row, _) = world
        .until(id, Duration::from_mins(2), SessionRow::is_terminal)
        .await?;
    tally.check(
        row.as_ref()
            .is_some_and(|row| row.status == "completed" && row.attempt == 2),
        || format!("its container was deleted, and then: {row:?}"),
    );
    let messages = world.database.messages(id).await?;
    let told = messages.iter().any(|message| message.metadata("step") == "retry");
    tally.check(told, || {
        format!("nobody told why {id} was tried again: {messages:?}")
    });
    Ok(())
}
