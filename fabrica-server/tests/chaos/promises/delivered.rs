//! Readers go on after the last number that they have seen, at whichever replica answers, while replicas are killed.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures::future::join_all;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::making;
use crate::agent::Agent;
use crate::database::Numbered;
use crate::dice::Dice;
use crate::engine::{Engine, Kind};
use crate::oracle;
use crate::report::Tally;
use crate::world::{Suite, World};

const SESSIONS: usize = 3;
/// How long a reader may take for all of a session.
const PATIENCE: Duration = Duration::from_mins(5);
/// How much a reader asks for at once: little, so that it asks often.
const PAGE: u32 = 7;

pub(super) async fn test(suite: &Suite, tally: &Tally) -> Result<()> {
    tally.note("read page by page: there are no streams and no webhooks yet");
    let [docker, podman] = suite.engines();
    let (first, second) = tokio::join!(reading(suite, tally, docker), reading(suite, tally, podman));
    first.and(second)
}

async fn reading(suite: &Suite, tally: &Tally, engine: Arc<Engine>) -> Result<()> {
    let name = match engine.kind {
        Kind::Docker => "delivered-docker",
        Kind::RootlessPodman => "delivered-podman",
    };
    let world = World::begin(suite, making(suite, name, engine, 2, &[])).await?;
    let mut dice = Dice::new(suite.seed, name);
    for _ in 0..suite.of(1, 4) {
        let mut ids = Vec::new();
        for _ in 0..SESSIONS {
            let agent = Agent::new(&mut dice, 60, "0.1");
            ids.push(world.submit(&agent, "").await?);
        }
        let kinds = [Numbered::Messages, Numbered::Transcript];
        let readers = ids.iter().flat_map(|id| kinds.map(|kind| (*id, kind)));
        let readers = readers.map(|(id, kind)| read(&world, tally, id, kind));
        let restarts = restart(suite, tally, &world, &mut dice);
        let (read, restarted) = tokio::join!(join_all(readers), restarts);
        restarted?;
        read.into_iter().collect::<Result<Vec<()>>>()?;
        oracle::settle(&world, tally).await?;
    }
    for session in oracle::audit(&world, tally).await? {
        tally.check(session.status == "completed", || {
            format!("a restart cost {session:?}")
        });
    }
    world.end().await
}

async fn restart(suite: &Suite, tally: &Tally, world: &World, dice: &mut Dice) -> Result<()> {
    for _ in 0..suite.of(6, 20) {
        let place = dice.below(world.size());
        world.kill(place).await?;
        tally.fault("kill -9 of a replica that is read from");
        sleep(dice.milliseconds(0, 400)).await;
        world.start(place).await?;
        sleep(dice.milliseconds(0, 400)).await;
    }
    Ok(())
}

/// Reads until the session has ended and there is no more, and compares what came with what is stored.
async fn read(world: &World, tally: &Tally, id: Uuid, kind: Numbered) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut seen: Vec<i64> = Vec::new();
    for turn in 0.. {
        // Before the page is asked for: what ends it is on that page then.
        let ended = world
            .database
            .session(id)
            .await?
            .is_some_and(|row| row.is_terminal());
        let after = seen.last().copied().unwrap_or(0);
        match world.page(turn % world.size(), id, kind, (after, PAGE)).await {
            Ok(page) if page.is_empty() && ended => break,
            Ok(page) if page.is_empty() => sleep(Duration::from_millis(50)).await,
            Ok(page) => seen.extend(page),
            // A replica that does not run at the moment; the next one is asked for the same. One that runs has to answer.
            Err(error) => {
                let answered = error
                    .downcast_ref::<reqwest::Error>()
                    .is_some_and(reqwest::Error::is_status);
                tally.check(!answered, || format!("{id}: {error:#}"));
                sleep(Duration::from_millis(20)).await;
            }
        }
        ensure!(Instant::now() < deadline, "{id} does not come to an end");
    }
    let stored = world.database.numbers(id, kind).await?;
    tally.check(!stored.is_empty() && seen == stored, || {
        format!("{id}: {kind:?} were read as {seen:?}, and are {stored:?}")
    });
    Ok(())
}
