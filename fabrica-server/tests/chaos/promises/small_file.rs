//! The embedded database's disk runs full while many sessions record: what is refused may be tried again, what was
//! acknowledged stays, and it goes on once there is room.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fabrica_core::clock::{IdSource, SystemClock, SystemEntropy};
use fabrica_core::ids::{Fence, WorkerId};
use fabrica_core::message::{MessageContent, MessageKind, NewMessage};
use fabrica_core::ports::store::{ClaimLimits, ClaimRequest, EventRecord, NewSession};
use fabrica_core::ports::{Store, StoreError};
use fabrica_store::SqliteStore;
use futures::future::{join_all, try_join_all};
use sqlx::{ConnectOptions as _, sqlite::SqliteConnectOptions};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::disk_full::Disk;
use crate::report::Tally;
use crate::world::Suite;

const SESSIONS: u32 = 4;
/// How much every session records before and after the disk is full.
const EVENTS: u64 = 20;
/// How long it may take until everybody has noticed that the disk is full, or is not any more.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) async fn test(suite: &Suite, tally: &Tally) -> Result<()> {
    let disk = match Disk::mount(&suite.cache.join("small-file"), "128m").await {
        Ok(disk) => disk,
        Err(error) => {
            tally.note(format!("no small file system can be mounted here: {error:#}"));
            return Ok(());
        }
    };
    let tested = record_on(suite, tally, &disk).await;
    disk.unmount().await?;
    tested
}

async fn record_on(suite: &Suite, tally: &Tally, disk: &Disk) -> Result<()> {
    let path = disk.0.join("fabrica.sqlite");
    let store = Arc::new(SqliteStore::open(&path).await?);
    let mut producers = Vec::new();
    for _ in 0..SESSIONS {
        producers.push(Producer::begin(&*store).await?);
    }
    let stop = CancellationToken::new();
    let produced = join_all(producers.iter().map(|one| one.record(&*store, tally, &stop)));
    let disturbed = async {
        let disturbed = disturb(suite, tally, disk, (&store, &producers)).await;
        stop.cancel();
        disturbed
    };
    let (_, disturbed) = tokio::join!(produced, disturbed);
    let created = disturbed?;
    store.close().await;
    sound(tally, &path).await?;
    let store = SqliteStore::open(&path).await?;
    for producer in &producers {
        producer.compare(&store, tally).await?;
    }
    for session in created {
        let there = store.session(session.id).await?.is_some();
        tally.check(there, || {
            format!("{} was acknowledged on a full disk, and is not there", session.id)
        });
    }
    store.close().await;
    Ok(())
}

/// Fills the disk and makes room again; the sessions that were created meanwhile.
async fn disturb(
    suite: &Suite,
    tally: &Tally,
    disk: &Disk,
    (store, producers): (&SqliteStore, &[Producer]),
) -> Result<Vec<NewSession>> {
    let mut created = Vec::new();
    for _ in 0..suite.of(2, 8) {
        try_join_all(producers.iter().map(|one| one.goes_on(&one.acknowledged, EVENTS))).await?;
        disk.fill()?;
        tally.fault("the embedded database's disk is full");
        let refused = try_join_all(producers.iter().map(|one| one.goes_on(&one.refused, 1))).await;
        let session = session();
        match store.create_session(session.clone()).await {
            Ok(_) => created.push(session),
            Err(error) => {
                tally.fault("a session is created while the disk is full");
                refusal(tally, &error);
            }
        }
        disk.free()?;
        refused.context("the disk is full, and nothing is refused")?;
        let room = Instant::now();
        try_join_all(producers.iter().map(|one| one.goes_on(&one.acknowledged, EVENTS)))
            .await
            .context("there is room again, and it does not go on")?;
        tally.took(
            &format!("room again until {EVENTS} events are recorded by each"),
            room.elapsed(),
        );
    }
    Ok(created)
}

/// A refusal has to say that the same may succeed later.
fn refusal(tally: &Tally, error: &StoreError) {
    tally.check(
        error.retryable() && error.code() == "database.unavailable",
        || format!("a full disk is told as {}: {error}", error.code()),
    );
}

/// Whether the file is what SQLite takes for a sound one.
async fn sound(tally: &Tally, path: &Path) -> Result<()> {
    let mut connection = SqliteConnectOptions::new().filename(path).connect().await?;
    let verdict: String = sqlx::query_scalar("pragma integrity_check")
        .fetch_one(&mut connection)
        .await?;
    tally.check(verdict == "ok", || format!("the file is damaged: {verdict}"));
    Ok(())
}

fn ids() -> IdSource<'static> {
    IdSource::new(&SystemClock, &SystemEntropy)
}

fn message(text: String) -> NewMessage {
    NewMessage {
        id: ids().message(),
        kind: MessageKind::Progress,
        content: MessageContent::text(text),
    }
}

fn session() -> NewSession {
    NewSession {
        id: ids().session(),
        spec: ids().spec(),
        content: "# Do it".into(),
        repo_url: "https://git.example.com/acme/app.git".into(),
        title: "Do it".into(),
        max_attempts: 2,
        priority: 0,
        submitter: None,
        idempotency_key: None,
        held: Duration::ZERO,
        message: message("accepted".into()),
    }
}

/// Records the events of one session, one after the other, each until it is acknowledged.
struct Producer {
    fence: Fence,
    acknowledged: AtomicU64,
    refused: AtomicU64,
}

impl Producer {
    async fn begin(store: &dyn Store) -> Result<Self> {
        let session = session();
        let request = ClaimRequest {
            worker: WorkerId::new("worker"),
            lease: Duration::from_hours(1),
            limit: 1,
            takeovers: 0,
            only: Some(session.id),
            limits: ClaimLimits::default(),
        };
        store.create_session(session).await?;
        let claimed = store.claim(&request).await?;
        Ok(Self {
            fence: claimed.first().context("it is there to be claimed")?.fence(),
            acknowledged: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        })
    }

    async fn record(&self, store: &dyn Store, tally: &Tally, stop: &CancellationToken) {
        let mut number = 1;
        while !stop.is_cancelled() {
            let event = EventRecord {
                event: number,
                messages: vec![message(format!("{number} {}", "x".repeat(2_000)))],
                ..EventRecord::default()
            };
            match store.record(self.fence, vec![event]).await {
                Ok(_) => {
                    self.acknowledged.store(number, Ordering::Release);
                    number += 1;
                }
                Err(error) => {
                    refusal(tally, &error);
                    self.refused.fetch_add(1, Ordering::AcqRel);
                }
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until one of its counts has gone up by so much.
    async fn goes_on(&self, count: &AtomicU64, by: u64) -> Result<()> {
        let wanted = count.load(Ordering::Acquire) + by;
        let deadline = Instant::now() + PATIENCE;
        while count.load(Ordering::Acquire) < wanted {
            ensure!(Instant::now() < deadline, "{} does not go on", self.fence.session);
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Compares what was acknowledged with what is stored: each event once, in order.
    async fn compare(&self, store: &dyn Store, tally: &Tally) -> Result<()> {
        let messages = store.messages(self.fence.session, 0, 1_000_000).await?;
        let stored: Vec<(u64, String)> = messages[1..]
            .iter()
            .map(|stored| {
                let text = &stored.content.message;
                (
                    stored.sequence,
                    text.split(' ').next().unwrap_or_default().to_owned(),
                )
            })
            .collect();
        let acknowledged = self.acknowledged.load(Ordering::Acquire);
        let expected: Vec<_> = (1..=acknowledged)
            .map(|number| (number + 1, number.to_string()))
            .collect();
        tally.check(stored == expected, || {
            format!("{acknowledged} events were acknowledged, and these are stored: {stored:?}")
        });
        Ok(())
    }
}
