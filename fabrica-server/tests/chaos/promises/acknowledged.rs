//! Replicas are killed while plans are posted; posts without an answer are repeated with their key.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::making;
use crate::agent::Agent;
use crate::dice::Dice;
use crate::oracle;
use crate::report::Tally;
use crate::world::{Suite, World};

pub(super) async fn test(suite: &Suite, tally: &Tally) -> Result<()> {
    let settings = [("FABRICA_MAX_RUNNING", "1")];
    let world = World::begin(
        suite,
        making(suite, "acknowledged", suite.docker.clone(), 2, &settings),
    )
    .await?;
    let mut dice = Dice::new(suite.seed, "acknowledged");
    let posts = suite.of(160, 1_000);
    let plans: Vec<(String, Agent)> = (0..posts)
        .map(|_| {
            (
                Uuid::from_u64_pair(dice.next(), dice.next()).to_string(),
                Agent::new(&mut dice, 1, ""),
            )
        })
        .collect();
    let done = CancellationToken::new();
    let killing = kill_until(&world, tally, dice.clone(), &done);
    let posting = async {
        let lanes = 8;
        let work = (0..lanes).map(|lane| {
            let mut dice = Dice::new(suite.seed, &format!("acknowledged {lane}"));
            let own: Vec<_> = plans.iter().skip(lane).step_by(lanes).collect();
            let (world, tally) = (&world, tally);
            async move {
                let mut known = Vec::new();
                for (key, agent) in own {
                    known.push((key.clone(), insist(world, tally, &mut dice, key, agent).await?));
                    sleep(dice.milliseconds(0, 800)).await;
                }
                anyhow::Ok(known)
            }
        });
        let known = futures::future::try_join_all(work).await;
        done.cancel();
        known
    };
    let (killed, known) = tokio::join!(killing, posting);
    killed?;
    let known: Vec<(String, BTreeSet<Uuid>)> = known?.into_iter().flatten().collect();
    let stored: BTreeSet<Uuid> = world
        .database
        .sessions()
        .await?
        .iter()
        .map(|row| row.id)
        .collect();
    for (key, ids) in &known {
        tally.check(ids.len() == 1, || {
            format!("key {key} was acknowledged as {ids:?}")
        });
        let missing: Vec<_> = ids.difference(&stored).collect();
        tally.check(missing.is_empty(), || {
            format!("acknowledged, and not there: {missing:?}")
        });
    }
    tally.check(stored.len() == plans.len(), || {
        format!("{} keys made {} sessions", plans.len(), stored.len())
    });
    tally.number("posts acknowledged", known.len() as u64);
    // What still waits is not what this is about.
    for id in &stored {
        let answer = world.cancel(0, *id).await?;
        tally.check([202, 409].contains(&answer), || {
            format!("cancelling {id} was answered with {answer}")
        });
    }
    oracle::audit(&world, tally).await?;
    world.end().await
}

/// Posts a plan until it is acknowledged, and sometimes once more; sometimes it hangs up before the answer.
async fn insist(
    world: &World,
    tally: &Tally,
    dice: &mut Dice,
    key: &str,
    agent: &Agent,
) -> Result<BTreeSet<Uuid>> {
    let plan = agent.plan(&world.repository_url(), key, "");
    let mut ids = BTreeSet::new();
    let wanted = if dice.once_in(4) { 2 } else { 1 };
    let mut answers = 0;
    while answers < wanted {
        let place = dice.below(world.size());
        let patience = if dice.once_in(12) {
            tally.fault("client hangs up and repeats");
            dice.milliseconds(1, 12)
        } else {
            Duration::from_secs(10)
        };
        match timeout(patience, world.post(place, &plan, key)).await {
            Ok(Ok(id)) => {
                world.expect(id, agent.clone());
                ids.insert(id);
                answers += 1;
            }
            Ok(Err(_)) | Err(_) => sleep(Duration::from_millis(20)).await,
        }
    }
    Ok(ids)
}

/// Kills one replica after the other, and starts it again.
async fn kill_until(world: &World, tally: &Tally, mut dice: Dice, done: &CancellationToken) -> Result<()> {
    while !done.is_cancelled() {
        let place = dice.below(world.size());
        world.kill(place).await?;
        tally.fault("kill -9 of a replica");
        sleep(dice.milliseconds(0, 200)).await;
        world.start(place).await?;
        sleep(dice.milliseconds(50, 500)).await;
    }
    Ok(())
}
