//! PostgreSQL is restarted every few seconds as by a power failure, and connections are cut in the middle of commits.

use std::time::Duration;

use anyhow::Result;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::making;
use crate::agent::Agent;
use crate::cluster::Cluster;
use crate::database::SessionRow;
use crate::dice::Dice;
use crate::oracle;
use crate::proxy::Proxy;
use crate::report::Tally;
use crate::world::{Making, Suite, World};

/// How long an answer takes to come back after the database is back.
const BACK: Duration = Duration::from_secs(20);

pub(super) async fn test(suite: &Suite, tally: &Tally) -> Result<()> {
    let mut dice = Dice::new(suite.seed, "database dies");
    let cluster = std::sync::Arc::new(Cluster::start(&suite.cache.join("dying"), false).await?);
    let proxy = Proxy::start(cluster.port(), dice.clone()).await?;
    let settings = [("FABRICA_CONCURRENCY", "3")];
    let making = Making {
        cluster: cluster.clone(),
        database_port: Some(proxy.port()),
        ..making(suite, "database-dies", suite.podman.clone(), 2, &settings)
    };
    let world = World::begin(suite, making).await?;
    let end = Instant::now() + suite.of(Duration::from_secs(25), Duration::from_mins(4));
    let over = CancellationToken::new();
    let agents: Vec<Agent> = (0..4).map(|_| Agent::new(&mut dice, 100, "0.05")).collect();
    let submitting = async {
        // As many as there is room for, as long as it lasts.
        let mut lanes = agents
            .into_iter()
            .map(|agent| lane(&world, agent, end))
            .collect::<Vec<_>>();
        let done = futures::future::try_join_all(lanes.drain(..)).await;
        over.cancel();
        done
    };
    let torturing = torture(suite, tally, &world, &cluster, &proxy, dice, &over);
    let (submitted, tortured) = tokio::join!(submitting, torturing);
    submitted?;
    tortured?;
    let sessions = oracle::audit(&world, tally).await?;
    tally.number("sessions during it", sessions.len() as u64);
    for session in sessions {
        tally.check(session.status == "completed", || {
            format!("the database cost {session:?}")
        });
    }
    world.end().await?;
    cluster.end().await;
    Ok(())
}

/// One session after the other.
async fn lane(world: &World, agent: Agent, end: Instant) -> Result<()> {
    while Instant::now() < end {
        let id = world.submit(&agent, "").await?;
        world
            .until(id, Duration::from_mins(3), SessionRow::is_terminal)
            .await?;
    }
    Ok(())
}

async fn torture(
    suite: &Suite,
    tally: &Tally,
    world: &World,
    cluster: &Cluster,
    proxy: &Proxy,
    mut dice: Dice,
    over: &CancellationToken,
) -> Result<()> {
    proxy.cut_one_in(400);
    let mut next_restart = Instant::now() + dice.milliseconds(2_000, 5_000);
    while !over.is_cancelled() {
        sleep(dice.milliseconds(100, 700)).await;
        tally.faults(
            "pg_terminate_backend",
            world.database.terminate_connections(1).await?,
        );
        if Instant::now() < next_restart || over.is_cancelled() {
            continue;
        }
        cluster.stop_immediately().await?;
        tally.fault("PostgreSQL stopped at once");
        sleep(dice.milliseconds(0, 1_500)).await;
        cluster.up().await?;
        let back = Instant::now();
        for place in 0..world.size() {
            while world.health(place).await.is_err() && back.elapsed() < suite.promised(BACK) {
                sleep(Duration::from_millis(50)).await;
            }
            tally.check(back.elapsed() < suite.promised(BACK), || {
                format!("replica {} does not find its database again", place + 1)
            });
            tally.took("database back until /health is well", back.elapsed());
        }
        next_restart = Instant::now() + dice.milliseconds(2_000, 5_000);
    }
    proxy.cut_one_in(0);
    tally.faults("connection cut at a statement or a COMMIT", proxy.cuts());
    Ok(())
}
