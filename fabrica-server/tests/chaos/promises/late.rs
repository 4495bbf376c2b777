//! Owners that are late: one that was frozen before it started a sandbox, and one on another machine whose sandbox is done
//! with its work by the time that nobody waits for it any more.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use fabrica_core::clock::{IdSource, SystemClock, SystemEntropy};
use fabrica_core::ids::Fence;
use fabrica_core::message::{MessageContent, MessageKind, NewMessage};
use fabrica_core::ports::Store;
use fabrica_core::ports::store::{AttemptEnd, EventRecord, NewArtifact, StoreError};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::making;
use crate::agent::Agent;
use crate::cluster::Cluster;
use crate::database::SessionRow;
use crate::dice::Dice;
use crate::engine::{Engine, Kind};
use crate::oracle::{self, told};
use crate::proxy::Proxy;
use crate::replica::{Replica, Surroundings};
use crate::report::Tally;
use crate::surroundings::surroundings;
use crate::world::{Making, Suite, World};

const SESSIONS: usize = 3;
/// Within which a session of a frozen owner runs elsewhere: its lease, and what three starts one after the other take.
const TAKEOVER: Duration = Duration::from_mins(1);
/// How long what a lost attempt left may stay on its machine.
const LEFTOVERS: Duration = Duration::from_mins(1);

/// An owner is frozen between its claim and the start of the sandbox, and thawed when another one has started it.
pub(super) async fn before_the_start(suite: &Suite, tally: &Tally, engine: Arc<Engine>) -> Result<()> {
    let name = match engine.kind {
        Kind::Docker => "late-docker",
        Kind::RootlessPodman => "late-podman",
    };
    let settings = [
        ("FABRICA_LEASE", "4s"),
        ("FABRICA_POLL", "1s"),
        // The last one of three is claimed long before its turn comes.
        ("FABRICA_START_INTERVAL", "3s"),
    ];
    let world = World::make(suite, making(suite, name, engine, 2, &settings)).await?;
    let mut dice = Dice::new(suite.seed, name);
    for _ in 0..suite.of(1, 4) {
        world.start(0).await?;
        world.register(suite).await?;
        let ids = submit(&world, &mut dice, 30).await?;
        let last = ids[SESSIONS - 1];
        for id in &ids {
            let claimed = |row: &SessionRow| row.status == "running";
            let (row, claimed) = world.until(*id, suite.promised(TAKEOVER), claimed).await?;
            tally.check(claimed, || format!("nobody claims it: {row:?}"));
        }
        world.replica(0).await.freeze()?;
        let row = world.database.session(last).await?.context("it is there")?;
        let started = world.engine.running_since(&row.container()).await.is_some();
        tally.check(!started, || {
            format!("the test froze nobody before a start: {row:?}")
        });
        tally.fault("SIGSTOP between claim and start");
        world.start(1).await?;
        for id in &ids {
            if let Err(state) = world.recovered(*id, suite.promised(TAKEOVER)).await? {
                tally.broken(format!("nobody took over from a frozen owner: {state}"));
            }
        }
        world.replica(0).await.thaw()?;
        tally.fault("SIGCONT of an owner whose sandbox is another's by now");
        oracle::settle(&world, tally).await?;
        for place in 0..world.size() {
            world.kill(place).await?;
        }
    }
    world.start(0).await?;
    for session in oracle::audit(&world, tally).await? {
        tally.check(session.status == "completed", || {
            format!("a late owner cost {session:?}")
        });
    }
    world.end().await
}

/// How a machine is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Away {
    /// It stands still.
    Frozen,
    /// It has no way to the database, and all others: its sandboxes are answered.
    CutOff,
}

/// An owner is away while its sandboxes work. Another machine, which has no way to them, starts over; then the first one
/// comes back, and its sandboxes are done.
pub(super) async fn on_another_machine(
    suite: &Suite,
    tally: &Tally,
    (first, second): (Arc<Engine>, Arc<Engine>),
) -> Result<()> {
    let name = match first.kind {
        Kind::Docker => "machines-docker",
        Kind::RootlessPodman => "machines-podman",
    };
    let settings = [("FABRICA_LEASE", "4s"), ("FABRICA_POLL", "1s")];
    let mut dice = Dice::new(suite.seed, name);
    let line = Proxy::start(suite.cluster.port(), dice.clone()).await?;
    let making = Making {
        database_port: Some(line.port()),
        ..making(suite, name, first, 1, &settings)
    };
    let world = World::make(suite, making).await?;
    let store = fabrica_store::connect(&Cluster::url(&world.name, suite.cluster.port())).await?;
    let mut ids = Vec::new();
    for round in 0..suite.of(2, 6) {
        let away = [Away::CutOff, Away::Frozen][round % 2];
        world.start(0).await?;
        let owner = world.register(suite).await?;
        suite.note_installation(&second, owner);
        // Done while their owner is frozen.
        let new = submit(&world, &mut dice, 15).await?;
        for id in &new {
            let wrote = world.wrote(*id, 1, Duration::from_mins(1)).await?;
            tally.check(wrote, || format!("{id}: its agent has not begun to work"));
        }
        let mut fences = Vec::new();
        for id in &new {
            fences.push(world.database.fence(*id).await?);
        }
        match away {
            Away::Frozen => world.replica(0).await.freeze()?,
            Away::CutOff => line.sever(true),
        }
        tally.fault(&format!("a machine is {away:?}"));
        let mut other = beside(suite, &world, (name, round), &second, &settings)?;
        other.spawn()?;
        other.ready(&world.client).await?;
        for id in &new {
            let again = |row: &SessionRow| row.attempt == 2 && row.status == "running";
            let (row, moved) = world.until(*id, suite.promised(TAKEOVER), again).await?;
            tally.check(moved, || format!("the other machine did not start over: {row:?}"));
            if let Some(row) = row {
                let runs = runs(&second, &row.container(), suite.promised(TAKEOVER)).await;
                tally.check(runs, || format!("the other machine has no sandbox: {row:?}"));
            }
        }
        for fence in fences {
            refused(&*store, tally, fence).await?;
        }
        match away {
            Away::Frozen => world.replica(0).await.thaw()?,
            Away::CutOff => line.sever(false),
        }
        tally.fault("a machine comes back whose sandboxes are done");
        oracle::settle(&world, tally).await?;
        clean(&world, tally, &new).await?;
        tally.check(!other.has_died(), || "the other machine's replica ended".into());
        other.kill().await?;
        world.kill(0).await?;
        ids.extend(new);
    }
    for id in ids {
        judge(&world, tally, &second, id).await?;
    }
    world.end().await
}

/// Writes what an owner would that never looks at its lease: none of it may get in.
async fn refused(store: &dyn Store, tally: &Tally, fence: Fence) -> Result<()> {
    let ids = IdSource::new(&SystemClock, &SystemEntropy);
    let message = || NewMessage {
        id: ids.message(),
        kind: MessageKind::Progress,
        content: MessageContent::text("Written by an owner that is none"),
    };
    let known = store.session_states(&[fence.session]).await?;
    let mut outcomes = vec![
        ("a message", store.add_messages(fence, vec![message()]).await),
        (
            "an artifact",
            store
                .store_artifact(
                    fence,
                    NewArtifact {
                        id: ids.artifact(),
                        name: "late".into(),
                        content: vec![1],
                    },
                )
                .await,
        ),
    ];
    for event in 1..=64 {
        let record = EventRecord {
            event,
            messages: vec![message()],
            ..EventRecord::default()
        };
        let recorded = store.record(fence, vec![record]).await.map(drop);
        outcomes.push(("an event", recorded));
    }
    let ended = store
        .finish_attempt(fence, AttemptEnd::Cancelled, vec![message()])
        .await;
    outcomes.push(("an end", ended.map(drop)));
    for (what, outcome) in outcomes {
        tally.check(matches!(outcome, Err(StoreError::Fenced(_))), || {
            format!("{what} of {fence} under a lost lease: {outcome:?}, while {known:?}")
        });
    }
    tally.fault("writes under a lost lease");
    Ok(())
}

async fn submit(world: &World, dice: &mut Dice, lines: u32) -> Result<Vec<Uuid>> {
    let mut ids = Vec::new();
    for _ in 0..SESSIONS {
        let agent = Agent::new(dice, lines, "0.2");
        ids.push(world.submit(&agent, "").await?);
    }
    Ok(ids)
}

/// A replica on a machine of its own: with the same database and code host, and nothing else in common.
fn beside(
    suite: &Suite,
    world: &World,
    (name, round): (&str, usize),
    engine: &Engine,
    settings: &[(&str, &str)],
) -> Result<Replica> {
    let name = format!("{name}-{round}");
    let directory = suite.cache.join("w").join(&name);
    let sockets = suite.state.join("s").join(&name);
    let logs = suite.logs.join(&name);
    for directory in [&directory, &sockets, &logs] {
        let _ = std::fs::remove_dir_all(directory);
        std::fs::create_dir_all(directory)?;
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o711))?;
    }
    let mut environment = surroundings(engine, &world.host, &directory, &sockets)?;
    environment.push((
        "DATABASE_URL".into(),
        Cluster::url(&world.name, suite.cluster.port()),
    ));
    environment.extend(
        settings
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    );
    let surroundings = Surroundings {
        program: suite.server.clone(),
        environment,
        logs,
    };
    Replica::new(1, &surroundings)
}

/// Waits until a container runs; whether it does.
async fn runs(engine: &Engine, container: &str, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    while engine.running_since(container).await.is_none() {
        if Instant::now() > deadline {
            return false;
        }
        sleep(Duration::from_millis(50)).await;
    }
    true
}

/// The machine that came back finds out what is not its own any more, and removes it.
async fn clean(world: &World, tally: &Tally, ids: &[Uuid]) -> Result<()> {
    let owner = world.owner().await?;
    let asked = Instant::now();
    loop {
        let mut left: Vec<String> = world.engine.containers(owner).await?.into_keys().collect();
        left.retain(|name| ids.iter().any(|id| name.contains(&id.to_string())));
        if left.is_empty() {
            tally.took("clean after a machine came back", asked.elapsed());
            return Ok(());
        }
        if asked.elapsed() > LEFTOVERS {
            tally.check(false, || format!("left on the machine that came back: {left:?}"));
            return Ok(());
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// The second attempt is what counts: its report, and its commits.
async fn judge(world: &World, tally: &Tally, second: &Engine, id: Uuid) -> Result<()> {
    let session = world.database.session(id).await?.context("it is there")?;
    tally.check(session.status == "completed" && session.attempt == 2, || {
        format!("a machine that came back late cost {session:?}")
    });
    let attempts = world.database.attempts(id).await?;
    let reported: Vec<i32> = attempts
        .iter()
        .filter(|attempt| attempt.reported)
        .map(|attempt| attempt.number)
        .collect();
    tally.check(reported == [2], || {
        format!("{id} was reported on by the attempts {reported:?}")
    });
    let branch = format!("refs/heads/{}", session.branch_name.clone().unwrap_or_default());
    let (mine, others) = (
        second.events(&id.to_string()),
        world.engine.events(&id.to_string()),
    );
    let pushes = world.pushes();
    let pushes: Vec<_> = pushes.iter().filter(|push| push.reference == branch).collect();
    let ours = pushes.iter().filter(|push| {
        let made = push.container.as_deref();
        made.is_some_and(|made| mine.iter().any(|event| event.container.starts_with(made)))
    });
    tally.check(ours.count() == 1 && pushes.len() == 1, || {
        format!("{id}: {pushes:?}, by {} and {}", told(&mine), told(&others))
    });
    oracle::rows(world, tally, &session).await?;
    oracle::output(world, tally, &session).await
}
