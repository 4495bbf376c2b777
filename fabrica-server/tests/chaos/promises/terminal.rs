//! Agent, runner, container or server is killed at every edge of the state machine.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use rustix::process::Signal;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::making;
use crate::agent::Agent;
use crate::dice::Dice;
use crate::engine::{Engine, Kind};
use crate::oracle;
use crate::process::{descendants, signal_process};
use crate::report::Tally;
use crate::world::{Suite, World};

/// Within which a session has ended or is owned again.
const RECOVERY: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy)]
enum Edge {
    Claimed,
    Created,
    Started,
    Working,
    Pushed,
    Reported,
    Published,
}

const EDGES: [Edge; 7] = [
    Edge::Claimed,
    Edge::Created,
    Edge::Started,
    Edge::Working,
    Edge::Pushed,
    Edge::Reported,
    Edge::Published,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Server,
    Runner,
    Agent,
    Container,
}

const VICTIMS: [Victim; 4] = [Victim::Server, Victim::Runner, Victim::Agent, Victim::Container];

pub(super) async fn test(suite: &Suite, tally: &Tally) -> Result<()> {
    let [docker, podman] = suite.engines();
    let (first, second) = tokio::join!(
        edges(suite, tally, docker, suite.of(10, 112)),
        edges(suite, tally, podman, suite.of(7, 56))
    );
    first.and(second)
}

async fn edges(suite: &Suite, tally: &Tally, engine: Arc<Engine>, rounds: usize) -> Result<()> {
    let name = match engine.kind {
        Kind::Docker => "terminal-docker",
        Kind::RootlessPodman => "terminal-podman",
    };
    let world = World::begin(suite, making(suite, name, engine, 2, &[])).await?;
    let mut dice = Dice::new(suite.seed, name);
    // Every edge with every victim in turn; the server is the one that all edges have in common.
    let cases: Vec<(Edge, Victim, Agent, Duration)> = (0..rounds)
        .map(|round| {
            let victim = if round % 2 == 0 {
                Victim::Server
            } else {
                VICTIMS[1 + (round / 2) % 3]
            };
            let agent = Agent::new(&mut dice, 8, "0.1");
            (
                EDGES[round % EDGES.len()],
                victim,
                agent,
                dice.milliseconds(0, 800),
            )
        })
        .collect();
    stream::iter(cases)
        .map(|(edge, victim, agent, pause)| {
            let world = &world;
            async move {
                let id = world.submit(&agent, "limits: { attempts: 4 }").await?;
                one(suite, tally, world, id, edge, victim, pause).await
            }
        })
        .buffer_unordered(3)
        .try_collect::<Vec<()>>()
        .await?;
    oracle::audit(&world, tally).await?;
    world.end().await
}

async fn one(
    suite: &Suite,
    tally: &Tally,
    world: &World,
    id: Uuid,
    edge: Edge,
    victim: Victim,
    pause: Duration,
) -> Result<()> {
    if !reached(world, id, edge).await? {
        tally.note(format!("an edge was passed before it was seen: {edge:?}"));
    }
    let row = world.database.session(id).await?.context("it is there")?;
    let (hit, lost) = match victim {
        Victim::Server => (world.restart(row.owner(), pause).await?, 0),
        Victim::Agent => (strike(world, id, victim).await, 0),
        Victim::Runner | Victim::Container => (strike(world, id, victim).await, row.attempt),
    };
    if !hit {
        // It was over before; that is no fault.
        return Ok(());
    }
    // What had been reported before its sandbox died is published all the same.
    let lost = if world
        .database
        .attempts(id)
        .await?
        .iter()
        .any(|attempt| attempt.reported)
    {
        0
    } else {
        lost
    };
    tally.fault(&format!("{victim:?} killed, {edge:?}"));
    let returned = Instant::now();
    match world.recovered_after(id, lost, suite.promised(RECOVERY)).await? {
        Ok(_) => tally.took("kill until ended or owned again", returned.elapsed()),
        Err(state) => tally.broken(format!("{victim:?} killed when {edge:?}: {state}")),
    }
    Ok(())
}

/// Waits for the edge; false if the session was past it, or never came there.
async fn reached(world: &World, id: Uuid, edge: Edge) -> Result<bool> {
    let deadline = Instant::now() + Duration::from_secs(90);
    let prefix = format!("fabrica-{id}-");
    loop {
        let row = world.database.session(id).await?.context("it is there")?;
        let seen = |action: &str| {
            let events = world.engine.events(&id.to_string());
            events
                .iter()
                .any(|event| event.action == action && event.name.starts_with(&prefix))
        };
        let branch = row.branch_name.clone().unwrap_or_default();
        let at = match edge {
            Edge::Claimed => row.status == "running",
            Edge::Created => seen("create"),
            Edge::Started => seen("start"),
            Edge::Working => world.database.entries(id).await? > 0,
            Edge::Pushed => {
                let reference = format!("refs/heads/{branch}");
                world.pushes().iter().any(|push| push.reference == reference)
            }
            Edge::Reported => world
                .database
                .attempts(id)
                .await?
                .iter()
                .any(|attempt| attempt.reported),
            Edge::Published => {
                let requests = world.host.forge().pull_requests();
                requests.iter().any(|request| request.head == branch)
            }
        };
        if at {
            return Ok(true);
        }
        if row.is_terminal() || Instant::now() > deadline {
            return Ok(false);
        }
        sleep(Duration::from_millis(5)).await;
    }
}

/// Kills something of the sandbox behind Fabrica's back; false if there is nothing to kill any more.
async fn strike(world: &World, id: Uuid, victim: Victim) -> bool {
    let Ok(Some(row)) = world.database.session(id).await else {
        return false;
    };
    let container = row.container();
    if victim == Victim::Container {
        return world.engine.client(&["rm", "--force", &container]).await.is_ok();
    }
    let Ok(main) = world.engine.main_process(&container).await else {
        return false;
    };
    let process = match victim {
        Victim::Agent => descendants(main).last().copied().unwrap_or(0),
        _ => main,
    };
    signal_process(process, Signal::KILL).is_ok()
}
