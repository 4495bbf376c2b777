//! A question is answered by many at once, over both replicas, while one of them is killed: one answer, one resume.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::future::join_all;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::making;
use crate::agent::Agent;
use crate::dice::Dice;
use crate::engine::{Engine, Kind};
use crate::oracle::{self, told};
use crate::report::Tally;
use crate::world::{Suite, World};

/// How long a session may take until it asks.
const PATIENCE: Duration = Duration::from_mins(1);
/// Who answers at once.
const PEOPLE: usize = 6;
/// Leaves a file that it does not commit, and asks; with the answer it goes on.
const ASKS: &str = "if [ -z \"${FABRICA_ANSWER:-}\" ]; then echo asked >> asked.txt; \
    fabrica-escalate --option yes --option no 'Shall I go on?'; exit 85; fi";
/// What it left is there, once.
const FINDS: &str = "[ \"$(cat asked.txt)\" = asked ] || exit 9";

pub(super) async fn test(suite: &Suite, tally: &Tally) -> Result<()> {
    let [docker, podman] = suite.engines();
    let (first, second) = tokio::join!(
        rounds(suite, tally, docker, suite.of(2, 24)),
        rounds(suite, tally, podman, suite.of(1, 8))
    );
    first.and(second)
}

async fn rounds(suite: &Suite, tally: &Tally, engine: Arc<Engine>, count: usize) -> Result<()> {
    let name = match engine.kind {
        Kind::Docker => "answered-docker",
        Kind::RootlessPodman => "answered-podman",
    };
    let world = World::begin(suite, making(suite, name, engine, 2, &[])).await?;
    let mut dice = Dice::new(suite.seed, name);
    for _ in 0..count {
        let agent = Agent::new(&mut dice, 3, "").before(ASKS).after(FINDS);
        let id = world.submit(&agent, "").await?;
        let (row, asks) = world
            .until(id, suite.promised(PATIENCE), |row| row.status == "escalated")
            .await?;
        tally.check(asks, || format!("it never asks: {row:?}"));
        let accepted = everybody_answers(&world, tally, &mut dice, id).await?;
        tally.check(accepted.len() == 1, || {
            format!("{id}: the answers of {accepted:?} were accepted")
        });
        let stored = world.database.answers(id).await?;
        tally.check(stored.len() == 1 && accepted.iter().eq(stored.iter()), || {
            format!("{id}: stored are the answers of {stored:?}, accepted were {accepted:?}")
        });
    }
    for session in oracle::audit(&world, tally).await? {
        tally.check(session.status == "completed", || {
            format!("answered, and not completed: {session:?}")
        });
        let events = world.engine.events(&session.id.to_string());
        let starts = events.iter().filter(|event| event.action == "start").count();
        tally.check(starts == 2, || {
            format!(
                "{} asked once and was started {starts} times: {}",
                session.id,
                told(&events)
            )
        });
    }
    world.end().await
}

/// Everybody answers in their own words, until a replica says what became of it; whose answers were accepted.
async fn everybody_answers(
    world: &World,
    tally: &Tally,
    dice: &mut Dice,
    id: Uuid,
) -> Result<BTreeSet<String>> {
    let victim = dice.below(world.size());
    let (when, pause) = (dice.milliseconds(0, 60), dice.milliseconds(0, 1_000));
    let killing = async {
        sleep(when).await;
        world.kill(victim).await?;
        tally.fault("kill -9 of a replica while a question is answered");
        sleep(pause).await;
        world.start(victim).await
    };
    let people = (0..PEOPLE).map(|number| {
        let (name, after) = (format!("person {number}"), dice.milliseconds(0, 60));
        async move {
            sleep(after).await;
            let deadline = Instant::now() + PATIENCE;
            for turn in number.. {
                match world.answer(turn % world.size(), id, &name).await {
                    Ok(202) => return Ok(Some(name)),
                    Ok(409) => return Ok(None),
                    Ok(_) | Err(_) if Instant::now() < deadline => sleep(Duration::from_millis(20)).await,
                    Ok(status) => anyhow::bail!("an answer was answered with {status}"),
                    Err(error) => return Err(error).context("nobody takes the answer"),
                }
            }
            Ok(None)
        }
    });
    let (killed, answered) = tokio::join!(killing, join_all(people));
    killed?;
    let answered: Vec<Option<String>> = answered.into_iter().collect::<Result<_>>()?;
    Ok(answered.into_iter().flatten().collect())
}
