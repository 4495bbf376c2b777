//! The wall clock of a replica jumps by hours and days: leases are the database's, and what waits goes by another clock.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::sleep;
use uuid::Uuid;

use super::making;
use crate::agent::Agent;
use crate::dice::{Dice, some_id};
use crate::engine::{Engine, Kind};
use crate::oracle;
use crate::report::Tally;
use crate::world::{Suite, World};

const SESSIONS: usize = 3;
const LEASE: Duration = Duration::from_secs(4);
/// Where the clock goes, one after the other.
const JUMPS: [TimeDelta; 5] = [
    TimeDelta::hours(1),
    TimeDelta::hours(-1),
    TimeDelta::days(40),
    TimeDelta::days(-2),
    TimeDelta::zero(),
];
/// How far a clock may be from what it was set to.
const EXACT: TimeDelta = TimeDelta::minutes(10);

/// What has clocks of its own, which the suite sets.
pub(super) async fn jumps(suite: &Suite, tally: &Tally) -> Result<()> {
    let library = library()?;
    let [docker, podman] = suite.engines();
    let (first, second) = tokio::join!(
        jump(suite, tally, &library, docker),
        jump(suite, tally, &library, podman)
    );
    first.and(second)
}

async fn jump(suite: &Suite, tally: &Tally, library: &Path, engine: Arc<Engine>) -> Result<()> {
    let name = match engine.kind {
        Kind::Docker => "clock-docker",
        Kind::RootlessPodman => "clock-podman",
    };
    let settings = [("FABRICA_LEASE", "4s"), ("FABRICA_POLL", "1s")];
    let world = World::make(suite, making(suite, name, engine, 2, &settings)).await?;
    let clock = Clock(world.directory.join("clock"));
    clock.set(TimeDelta::zero())?;
    for (variable, value) in clock.variables(library) {
        world.replica(0).await.set(variable, &value);
    }
    let mut dice = Dice::new(suite.seed, name);
    for _ in 0..suite.of(1, 4) {
        world.start(0).await?;
        world.register(suite).await?;
        let mut ids = Vec::new();
        for _ in 0..SESSIONS {
            let agent = Agent::new(&mut dice, 200, "0.1");
            ids.push(world.submit(&agent, "").await?);
        }
        for id in &ids {
            let wrote = world.wrote(*id, 1, Duration::from_mins(1)).await?;
            tally.check(wrote, || format!("{id}: its agent has not begun to work"));
        }
        // It has the right time, and would take over whatever looks abandoned.
        world.start(1).await?;
        for offset in JUMPS {
            clock.set(offset)?;
            tally.fault("the clock of a replica jumps");
            let (id, off) = submit(&world, &mut dice).await?;
            tally.check((off - offset).abs() < EXACT, || {
                format!("the replica's clock was set to {offset} and is at {off}")
            });
            ids.push(id);
            // Long enough for a lease to run out that nobody renews.
            sleep(LEASE + Duration::from_secs(1)).await;
        }
        oracle::settle(&world, tally).await?;
        for id in ids {
            let fence = world.database.fence(id).await?;
            tally.check(fence.attempt.get() == 1 && fence.lease.get() == 1, || {
                format!("a clock that jumped cost {fence:?} its lease")
            });
        }
        for place in 0..world.size() {
            world.kill(place).await?;
        }
    }
    world.start(1).await?;
    for session in oracle::audit(&world, tally).await? {
        tally.check(session.status == "completed", || {
            format!("a clock that jumped cost {session:?}")
        });
    }
    world.end().await
}

/// Submits a plan to the first replica: the id that it gives the first message says what time it thinks it is.
async fn submit(world: &World, dice: &mut Dice) -> Result<(Uuid, TimeDelta)> {
    let agent = Agent::new(dice, 1, "");
    let plan = agent.plan(&world.repository_url(), "What time is it?", "");
    let id = world.post(0, &plan, &some_id().to_string()).await?;
    world.expect(id, agent);
    let message = world.database.first_message(id).await?;
    let (seconds, _) = message.get_timestamp().context("ids say when")?.to_unix();
    let thought = DateTime::from_timestamp(i64::try_from(seconds)?, 0).context("it is a time")?;
    Ok((id, thought - Utc::now()))
}

/// The file that says how far a clock is from the right time.
struct Clock(PathBuf);

impl Clock {
    fn set(&self, offset: TimeDelta) -> Result<()> {
        // At once: a half-written file would be another time.
        let new = self.0.with_extension("new");
        std::fs::write(&new, format!("{:+}\n", offset.num_seconds()))?;
        Ok(std::fs::rename(new, &self.0)?)
    }

    /// What makes a program go by it. Clocks that only measure how long something takes stay right, as they do on a machine
    /// whose time is set.
    fn variables(&self, library: &Path) -> [(&'static str, String); 5] {
        [
            ("LD_PRELOAD", library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.0.display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }
}

/// libfaketime, for programs with threads.
fn library() -> Result<PathBuf> {
    let directories = std::fs::read_dir("/usr/lib")?.flatten().map(|entry| entry.path());
    let mut places = directories.map(|directory| directory.join("faketime/libfaketimeMT.so.1"));
    places
        .find(|place| place.exists())
        .context("libfaketime is not there: run `make test`")
}
