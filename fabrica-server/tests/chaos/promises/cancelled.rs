//! Sessions are cancelled at any moment, by one or by several at once, most of them while they complete.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::making;
use crate::agent::Agent;
use crate::database::SessionRow;
use crate::dice::Dice;
use crate::engine::{Engine, Kind};
use crate::oracle::{self, told};
use crate::report::Tally;
use crate::world::{Suite, World};

pub(super) async fn test(suite: &Suite, tally: &Tally) -> Result<()> {
    let [docker, podman] = suite.engines();
    let (first, second) = tokio::join!(
        races(suite, tally, docker, suite.of(10, 500)),
        races(suite, tally, podman, suite.of(6, 500))
    );
    first.and(second)
}

/// What takes longer is told in detail.
const SLOW: Duration = Duration::from_secs(8);

#[derive(Debug, Clone, Copy)]
enum Moment {
    /// So long after it was submitted.
    After(Duration),
    /// When its agent works.
    Working,
    /// When its result is known, and it is about to complete.
    Reported,
    /// When its pull request is open.
    Published,
}

async fn races(suite: &Suite, tally: &Tally, engine: Arc<Engine>, count: usize) -> Result<()> {
    let name = match engine.kind {
        Kind::Docker => "cancelled-docker",
        Kind::RootlessPodman => "cancelled-podman",
    };
    let settings = [("FABRICA_CONCURRENCY", "3")];
    let world = World::begin(suite, making(suite, name, engine, 2, &settings)).await?;
    let mut dice = Dice::new(suite.seed, name);
    let cases: Vec<(Agent, Moment, Dice)> = (0..count)
        .map(|_| {
            let moment = match dice.below(8) {
                0..4 => Moment::Reported,
                4 => Moment::Published,
                5 => Moment::Working,
                _ => Moment::After(dice.milliseconds(0, 2_500)),
            };
            let lines = if matches!(moment, Moment::Working) { 20 } else { 2 };
            (
                Agent::new(&mut dice, lines, "0.02"),
                moment,
                Dice::new(dice.next(), "case"),
            )
        })
        .collect();
    stream::iter(cases)
        .map(|(agent, moment, dice)| {
            let world = &world;
            async move {
                let id = world.submit(&agent, "").await?;
                one(tally, world, id, moment, dice).await
            }
        })
        .buffer_unordered(6)
        .try_collect::<Vec<()>>()
        .await?;
    let sessions = oracle::audit(&world, tally).await?;
    let with = |status: &str| sessions.iter().filter(|session| session.status == status).count() as u64;
    tally.number(&format!("{name}: cancelled"), with("cancelled"));
    tally.number(&format!("{name}: completed before"), with("completed"));
    tally.check(with("cancelled") + with("completed") == count as u64, || {
        format!("cancelling made sessions fail: {sessions:?}")
    });
    for session in sessions.iter().filter(|session| session.status == "cancelled") {
        let said = world.database.messages(session.id).await?;
        let codes: Vec<&str> = said.iter().map(|message| message.metadata("code")).collect();
        let told = codes.iter().filter(|code| **code == "session.cancelled").count();
        tally.check(told == 1, || {
            format!("{} was told to be cancelled {told} times: {codes:?}", session.id)
        });
    }
    world.end().await
}

async fn one(tally: &Tally, world: &World, id: Uuid, moment: Moment, mut dice: Dice) -> Result<()> {
    come(world, id, moment).await?;
    // By somebody else at the same time, now and then.
    let times = if dice.once_in(3) { 3 } else { 1 };
    let places: Vec<usize> = (0..times).map(|_| dice.below(world.size())).collect();
    let asked = Instant::now();
    let answers = futures::future::join_all(places.iter().map(|place| world.cancel(*place, id))).await;
    tally.fault(match moment {
        Moment::After(_) => "cancelled at any time",
        Moment::Working => "cancelled while the agent works",
        Moment::Reported => "cancelled while it completes",
        Moment::Published => "cancelled when the pull request is open",
    });
    let row = world.database.session(id).await?;
    for answer in answers {
        let answer = answer?;
        tally.check([202, 409].contains(&answer), || {
            format!("cancelling {id} was answered with {answer}")
        });
        tally.check(
            answer != 409 || row.as_ref().is_some_and(SessionRow::is_terminal),
            || format!("it is said to have ended, and has not: {row:?}"),
        );
    }
    let (row, ended) = world
        .until(id, Duration::from_mins(1), SessionRow::is_terminal)
        .await?;
    tally.check(ended, || format!("it was cancelled and goes on: {row:?}"));
    let what = if matches!(moment, Moment::After(_)) {
        "cancelled at any time until ended"
    } else {
        "cancelled late until ended"
    };
    tally.took(what, asked.elapsed());
    if asked.elapsed() > SLOW {
        let events = told(&world.engine.events(&id.to_string()));
        tally.note(format!(
            "{id} took {:?} to be cancelled ({moment:?}): {events}",
            asked.elapsed()
        ));
    }
    // A terminal status is the last one.
    let first = row.map(|row| (row.status, row.message_seq));
    sleep(dice.milliseconds(0, 300)).await;
    let later = world
        .database
        .session(id)
        .await?
        .map(|row| (row.status, row.message_seq));
    tally.check(!ended || first == later, || {
        format!("{id} was {first:?} and became {later:?}")
    });
    Ok(())
}

/// Waits for the moment, or for the session's end.
async fn come(world: &World, id: Uuid, moment: Moment) -> Result<()> {
    let deadline = Instant::now() + Duration::from_mins(1);
    match moment {
        Moment::After(pause) => sleep(pause).await,
        Moment::Working => {
            world.wrote(id, 1, Duration::from_mins(1)).await?;
        }
        Moment::Reported | Moment::Published => loop {
            let row = world.database.session(id).await?;
            let branch = row
                .as_ref()
                .and_then(|row| row.branch_name.clone())
                .unwrap_or_default();
            let come = match moment {
                Moment::Published => {
                    let requests = world.host.forge().pull_requests();
                    requests.iter().any(|request| request.head == branch)
                }
                _ => world
                    .database
                    .attempts(id)
                    .await?
                    .iter()
                    .any(|attempt| attempt.reported),
            };
            if come || row.is_none_or(|row| row.is_terminal()) || Instant::now() > deadline {
                break;
            }
            sleep(Duration::from_millis(5)).await;
        },
    }
    Ok(())
}
