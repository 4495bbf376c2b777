//! Sandboxes are frozen, and agents fall silent or refuse to end: a message says so, and the wall limit ends them.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use tokio::time::Instant;

use super::making;
use crate::agent::Agent;
use crate::database::SessionRow;
use crate::dice::Dice;
use crate::engine::{Engine, Kind};
use crate::oracle;
use crate::report::Tally;
use crate::world::{Suite, World};

/// The wall limit, the runner's grace, the engine's grace, and some time to tell.
const END: Duration = Duration::from_secs(90);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Silence {
    /// The engine freezes the container.
    Paused,
    /// The container's main process is stopped behind the engine's back.
    Frozen,
    /// The agent sleeps.
    Asleep,
    /// The agent sleeps, and neither it nor its children end when they are asked to.
    Stubborn,
}

pub(super) async fn test(suite: &Suite, tally: &Tally) -> Result<()> {
    let [docker, podman] = suite.engines();
    tally.note("rootless Podman on cgroup v1 cannot pause: there only the main process is stopped");
    let (first, second) = tokio::join!(
        silences(
            suite,
            tally,
            docker,
            &[
                Silence::Paused,
                Silence::Frozen,
                Silence::Asleep,
                Silence::Stubborn
            ]
        ),
        silences(
            suite,
            tally,
            podman,
            &[Silence::Frozen, Silence::Asleep, Silence::Stubborn]
        )
    );
    first.and(second)
}

async fn silences(suite: &Suite, tally: &Tally, engine: Arc<Engine>, kinds: &[Silence]) -> Result<()> {
    let name = match engine.kind {
        Kind::Docker => "stalled-docker",
        Kind::RootlessPodman => "stalled-podman",
    };
    // A runner that lives is heard of every ten seconds. In the short form patience is shorter than that, and every silence
    // looks like the whole sandbox's.
    let settings = [
        ("FABRICA_STALL_AFTER", suite.of("2s", "13s")),
        ("FABRICA_CONCURRENCY", "8"),
    ];
    let world = World::begin(suite, making(suite, name, engine, 1, &settings)).await?;
    for _ in 0..suite.of(1, 3) {
        let each = kinds
            .iter()
            .map(|kind| silence(suite, tally, &world, name, *kind));
        futures::future::try_join_all(each).await?;
    }
    oracle::audit(&world, tally).await?;
    world.end().await
}

async fn silence(suite: &Suite, tally: &Tally, world: &World, name: &str, kind: Silence) -> Result<()> {
    let mut dice = Dice::new(suite.seed, &format!("{name} {kind:?}"));
    let agent = match kind {
        Silence::Paused | Silence::Frozen => Agent::new(&mut dice, 1_000, "0.2"),
        Silence::Asleep => Agent::new(&mut dice, 2, "").after("sleep 600"),
        Silence::Stubborn => {
            Agent::new(&mut dice, 2, "").after("trap '' TERM INT HUP; sleep 600; sleep 600; sleep 600")
        }
    };
    // It counts from before the sandbox is started, which may take half of it where much else goes on.
    let wall = suite.of(
        "limits: { wall: 20s, attempts: 1 }",
        "limits: { wall: 30s, attempts: 1 }",
    );
    let id = world.submit(&agent, wall).await?;
    world.wrote(id, 1, Duration::from_mins(1)).await?;
    let row = world.database.session(id).await?.context("it is there")?;
    match kind {
        Silence::Paused => world
            .engine
            .client(&["pause", &row.container()])
            .await
            .map(drop)?,
        Silence::Frozen => world.engine.signal_main(&row.container(), Signal::STOP).await?,
        Silence::Asleep | Silence::Stubborn => {}
    }
    tally.fault(&format!("{kind:?}"));
    let silent = Instant::now();
    let (row, ended) = world
        .until(id, suite.promised(END), SessionRow::is_terminal)
        .await?;
    tally.check(ended, || {
        format!("{kind:?}: the wall limit does not end it: {row:?}")
    });
    tally.took(
        suite.of(
            "silence until the end (wall 20 s)",
            "silence until the end (wall 30 s)",
        ),
        silent.elapsed(),
    );
    let messages = world.database.messages(id).await?;
    let stalled = messages
        .iter()
        .find(|message| message.metadata("code") == "session.stalled");
    tally.check(stalled.is_some(), || {
        format!("{kind:?}: nobody was told of the silence: {messages:?}")
    });
    let who = stalled.map(|message| message.metadata("silent").to_owned());
    let wanted = match kind {
        Silence::Paused | Silence::Frozen => "sandbox",
        Silence::Asleep | Silence::Stubborn => "agent",
    };
    tally.check(suite.short || who.as_deref() == Some(wanted), || {
        format!("{kind:?}: the {wanted} is silent, told is {who:?}")
    });
    let code = messages.last().map(|message| message.metadata("code").to_owned());
    tally.check(code.as_deref() == Some("limit.wall_time"), || {
        format!("{kind:?}: it ended with {code:?} instead of the wall limit: {messages:?}")
    });
    Ok(())
}
