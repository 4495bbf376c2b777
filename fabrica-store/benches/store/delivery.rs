//! From a message's record to its reader in another process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use fabrica_core::ids::{Fence, MessageId, SessionId};
use fabrica_core::ports::Store;
use fabrica_core::ports::store::Notice;
use fabrica_store::PostgresStore;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use serde_json::{Value, json};
use sqlx::Executor as _;
use tokio::sync::Notify;

use crate::database::Database;
use crate::ingest::{BARE, insert};
use crate::report::{Rounds, median, rounded};
use crate::work::{event, race, running};

const ROUNDS: u64 = 5;
const SESSIONS: usize = 200;
/// How long each session waits between its messages: 2,000 a second in all.
const PAUSE: Duration = Duration::from_millis(100);
/// Messages of each session, in one round: two seconds.
const EACH: u64 = 20;
const COMMITS: i64 = 300;

/// When each message was handed to the store.
type Sent = Arc<Mutex<HashMap<MessageId, Instant>>>;

/// At 2,000 messages a second, against a commit of one row on an idle server.
pub(crate) async fn delivery(database: &Database) -> Result<Value> {
    settle(database).await?;
    let fences = running(&*database.store, SESSIONS).await?;
    // Another store, as another process would have it.
    let reader: Arc<dyn Store> = Arc::new(PostgresStore::open(&database.url).await?);
    let (mut rounds, mut middles, mut slowest) = (Rounds::default(), Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let commits = commits(database, fences[0], i64::try_from(round)? * COMMITS).await?;
        let mut delays = deliver(database, &reader, &fences, round * EACH).await?;
        delays.sort_by(f64::total_cmp);
        if round > 0 {
            rounds.add(delays[delays.len() * 99 / 100], commits[commits.len() / 2]);
            slowest.push(commits[commits.len() * 99 / 100]);
            middles.push(delays[delays.len() / 2]);
        }
    }
    let mut measure = rounds.measure(
        "p99_ms",
        "single_commit_p50_ms",
        "The processors, which the server, the writer, the readers and whoever measures share: a message waits for the \
         group that is being written, then for its own, then for its reader. Where the disk is slow its stalls are the \
         slowest hundredth: everything waits for a flush that takes milliseconds.",
    );
    measure["p50_ms"] = json!(rounded(median(middles)));
    measure["single_commit_p99_ms"] = json!(rounded(median(slowest)));
    Ok(measure)
}

/// How many segments of the log the server shall have at hand.
const SEGMENTS: usize = 8;

/// Brings the server where it is after a few minutes of work: it has segments of its log to use again, which it would
/// otherwise make and fill with zeros while this is measured, and what others have written is on the disk.
async fn settle(database: &Database) -> Result<()> {
    let mut connection = database.connect().await?;
    for _ in 0..SEGMENTS {
        connection.execute("select pg_current_xact_id()").await?;
        connection.execute("select pg_switch_wal()").await?;
    }
    connection.execute("checkpoint").await?;
    Ok(())
}

/// How long commits of one row take, the shortest first.
async fn commits(database: &Database, fence: Fence, after: i64) -> Result<Vec<f64>> {
    let mut connection = database.connect().await?;
    let mut took = Vec::new();
    for seq in (after + 1_000_000_000..).take(usize::try_from(COMMITS)?) {
        let begin = Instant::now();
        insert(&mut connection, BARE, fence, seq).await?;
        took.push(begin.elapsed().as_secs_f64() * 1000.0);
    }
    took.sort_by(f64::total_cmp);
    Ok(took)
}

async fn deliver(
    database: &Database,
    reader: &Arc<dyn Store>,
    fences: &[Fence],
    after: u64,
) -> Result<Vec<f64>> {
    let sent = Sent::default();
    let notices = reader.subscribe().await?;
    let reading = tokio::spawn(read(
        reader.clone(),
        notices,
        sent.clone(),
        after,
        fences.to_vec(),
    ));
    let begin = tokio::time::Instant::now() + Duration::from_millis(20);
    let senders = fences.iter().enumerate().map(|(place, fence)| {
        let (store, sent, fence) = (database.store.clone(), sent.clone(), *fence);
        let first = begin + PAUSE * u32::try_from(place).unwrap_or(0) / u32::try_from(SESSIONS).unwrap_or(1);
        async move {
            for number in 1..=EACH {
                tokio::time::sleep_until(first + PAUSE * u32::try_from(number)?).await;
                let event = event(after + number);
                sent.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(event.messages[0].id, Instant::now());
                store.record(fence, vec![event]).await?;
            }
            Ok(())
        }
    });
    race(senders, EACH).await?;
    reading.await?
}

/// A watcher of every session, each in a task of its own as in a server: it reads on whenever a notice tells of it.
async fn read(
    store: Arc<dyn Store>,
    notices: BoxStream<'static, Notice>,
    sent: Sent,
    after: u64,
    fences: Vec<Fence>,
) -> Result<Vec<f64>> {
    let mut watchers = tokio::task::JoinSet::new();
    let mut wake = HashMap::new();
    for fence in fences {
        let woken = Arc::new(Notify::new());
        wake.insert(fence.session, woken.clone());
        watchers.spawn(watch(store.clone(), fence.session, woken, sent.clone(), after));
    }
    let forward = notices.for_each(|notice| {
        if let Notice::Message { session, .. } = notice
            && let Some(woken) = wake.get(&session)
        {
            woken.notify_one();
        }
        std::future::ready(())
    });
    let watched = async {
        let mut delays = Vec::new();
        while let Some(watched) = watchers.join_next().await {
            delays.extend(watched??);
        }
        Ok(delays)
    };
    tokio::select! {
        delays = watched => delays,
        () = forward => bail!("the notices ended"),
    }
}

/// Until every message of this round was seen.
async fn watch(
    store: Arc<dyn Store>,
    session: SessionId,
    woken: Arc<Notify>,
    sent: Sent,
    after: u64,
) -> Result<Vec<f64>> {
    // The first message of every session was written when it was created.
    let (mut cursor, mut delays) = (after + 1, Vec::new());
    while cursor < after + 1 + EACH {
        woken.notified().await;
        for message in store.messages(session, cursor, 100).await? {
            cursor = message.sequence;
            let begin = sent
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&message.id);
            delays.extend(begin.map(|begin| begin.elapsed().as_secs_f64() * 1000.0));
        }
    }
    Ok(delays)
}
