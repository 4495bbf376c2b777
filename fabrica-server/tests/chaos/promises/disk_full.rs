//! The database's disk runs full: plans are refused with a clear code, what was acknowledged stays, and it recovers. Beside
//! it, clocks jump.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{clock, making, small_file};
use crate::agent::Agent;
use crate::cluster::Cluster;
use crate::dice::Dice;
use crate::oracle;
use crate::process::{as_root, give_to_worker, output};
use crate::report::Tally;
use crate::surroundings::TOKEN;
use crate::world::{Making, Suite, World};

/// How long a server may need to work again once there is room.
const BACK: Duration = Duration::from_secs(30);

pub(super) async fn test(suite: &Suite, tally: &Tally) -> Result<()> {
    let (disk, file, jumps) = tokio::join!(
        on_a_small_disk(suite, tally),
        small_file::test(suite, tally),
        clock::jumps(suite, tally)
    );
    disk.and(file).and(jumps)
}

async fn on_a_small_disk(suite: &Suite, tally: &Tally) -> Result<()> {
    let directory = suite.cache.join("small");
    let disk = match Disk::mount(&directory, "96m").await {
        Ok(disk) => disk,
        Err(error) => {
            tally.note(format!("no small file system can be mounted here: {error:#}"));
            return Ok(());
        }
    };
    let tested = fill(suite, tally, &disk).await;
    disk.unmount().await?;
    tested
}

async fn fill(suite: &Suite, tally: &Tally, disk: &Disk) -> Result<()> {
    give_to_worker(&disk.0).await?;
    let cluster = Arc::new(Cluster::start(&disk.0.join("postgres"), true).await?);
    let making = Making {
        cluster: cluster.clone(),
        ..making(suite, "disk-full", suite.podman.clone(), 1, &[])
    };
    let world = World::begin(suite, making).await?;
    let mut dice = Dice::new(suite.seed, "disk full");
    for _ in 0..suite.of(1, 5) {
        let agent = Agent::new(&mut dice, 60, "0.1");
        let id = world.submit(&agent, "").await?;
        world.wrote(id, 1, Duration::from_mins(1)).await?;
        disk.fill()?;
        tally.fault("the database's disk is full");
        let acknowledged = refused(tally, &world, &mut dice).await?;
        disk.free()?;
        if !cluster.is_up().await {
            // PostgreSQL gives up when it cannot write its log; starting it again is the operator's part.
            tally.note("PostgreSQL itself ended on the full disk and was started again");
            cluster.up().await?;
        }
        let back = Instant::now();
        while world.health(0).await.is_err() && back.elapsed() < suite.promised(BACK) {
            sleep(Duration::from_millis(100)).await;
        }
        tally.check(back.elapsed() < suite.promised(BACK), || {
            "the server does not recover".to_owned()
        });
        tally.took("room again until /health is well", back.elapsed());
        for id in acknowledged {
            let row = world.database.session(id).await?;
            tally.check(row.is_some(), || {
                format!("{id} was acknowledged on a full disk, and is not there")
            });
        }
        oracle::settle(&world, tally).await?;
    }
    for session in oracle::audit(&world, tally).await? {
        tally.check(session.status == "completed", || {
            format!("the full disk cost {session:?}")
        });
    }
    world.end().await?;
    cluster.end().await;
    Ok(())
}

/// Posts large plans until they are refused, and some more; those that were acknowledged all the same.
async fn refused(tally: &Tally, world: &World, dice: &mut Dice) -> Result<Vec<uuid::Uuid>> {
    let mut acknowledged = Vec::new();
    let mut refused = 0;
    let deadline = Instant::now() + Duration::from_secs(30);
    while refused < 5 && Instant::now() < deadline {
        let agent = Agent::new(dice, 1, "");
        let noise = (0..8_000)
            .map(|_| dice.next().to_string())
            .collect::<Vec<_>>()
            .join(" ");
        let plan = agent.plan(&world.repository_url(), "Full", "") + &noise;
        let url = world.replica(0).await.base_url();
        let answer = world
            .client
            .post(format!("{url}/run"))
            .bearer_auth(TOKEN)
            .header("content-type", "text/markdown")
            .timeout(Duration::from_secs(20))
            .body(plan)
            .send()
            .await;
        let Ok(answer) = answer else {
            tally.broken("the server does not answer while the disk is full".to_owned());
            break;
        };
        let status = answer.status().as_u16();
        let body: Value = answer.json().await.unwrap_or_default();
        if status == 202 {
            let id: uuid::Uuid = body["sessionId"].as_str().context("an id")?.parse()?;
            world.expect(id, agent);
            acknowledged.push(id);
            continue;
        }
        refused += 1;
        tally.fault("a plan is posted while the disk is full");
        let clear = body["code"]
            .as_str()
            .is_some_and(|code| code.starts_with("database."));
        tally.check(status == 503 && clear, || {
            format!("a full disk is answered with {status}: {body}")
        });
    }
    tally.check(refused > 0, || {
        "the disk was full, and no plan was refused".to_owned()
    });
    Ok(acknowledged)
}

/// A file system with little room.
pub(super) struct Disk(pub(super) PathBuf);

impl Disk {
    pub(super) async fn mount(directory: &Path, size: &str) -> Result<Self> {
        std::fs::create_dir_all(directory)?;
        // One that a killed run left behind.
        let _ = output(as_root("umount").arg("--lazy").arg(directory)).await;
        let mut mount = as_root("mount");
        mount
            .args(["-t", "tmpfs", "-o"])
            .arg(format!(
                "size={size},mode=711,uid={}",
                rustix::process::geteuid().as_raw()
            ))
            .arg("tmpfs")
            .arg(directory);
        output(&mut mount).await?;
        Ok(Self(directory.to_owned()))
    }

    /// Takes all the room that is left.
    pub(super) fn fill(&self) -> Result<()> {
        use std::io::Write as _;
        let mut ballast = std::fs::File::create(self.0.join("ballast"))?;
        for size in [1 << 20, 4 << 10, 1 << 9] {
            while ballast.write_all(&vec![0; size]).is_ok() {}
        }
        Ok(())
    }

    pub(super) fn free(&self) -> Result<()> {
        Ok(std::fs::remove_file(self.0.join("ballast"))?)
    }

    pub(super) async fn unmount(&self) -> Result<()> {
        let mut unmount = as_root("umount");
        unmount.arg("--lazy").arg(&self.0);
        let ended = output(&mut unmount).await;
        ensure!(ended.is_ok(), "{ended:?}");
        Ok(())
    }
}
