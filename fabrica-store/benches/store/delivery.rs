//! From a message's record to its reader in another process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use fabrica_core::ids::{Fence, MessageId, SessionId};
use fabrica_core::ports::Store;
use fabrica_core::ports::store::Notice;
use fabrica_store::PostgresStore;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use serde_json::{Value, json};

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
    let fences = running(&*database.store, SESSIONS).await?;
    // Another store, as another process would have it.
    let reader: Arc<dyn Store> = Arc::new(PostgresStore::open(&database.url).await?);
    let (mut rounds, mut middles) = (Rounds::default(), Vec::new());
    for round in 0..=ROUNDS {
        let commit = commits(database, fences[0], i64::try_from(round)? * COMMITS).await?;
        let mut delays = deliver(database, &reader, &fences, round * EACH).await?;
        delays.sort_by(f64::total_cmp);
        if round > 0 {
            rounds.add(delays[delays.len() * 99 / 100], commit);
            middles.push(delays[delays.len() / 2]);
        }
    }
    let mut measure = rounds.measure(
        "p99_ms",
        "single_commit_p50_ms",
        "The group that is being written when a message comes: it waits for that one, then for its own; and for its turn \
         on the processors, which writer, server and reader share.",
    );
    measure["p50_ms"] = json!(rounded(median(middles)));
    Ok(measure)
}

async fn commits(database: &Database, fence: Fence, after: i64) -> Result<f64> {
    let mut connection = database.connect().await?;
    let mut took = Vec::new();
    for seq in (after + 1_000_000_000..).take(usize::try_from(COMMITS)?) {
        let begin = Instant::now();
        insert(&mut connection, BARE, fence, seq).await?;
        took.push(begin.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(median(took))
}

async fn deliver(
    database: &Database,
    reader: &Arc<dyn Store>,
    fences: &[Fence],
    after: u64,
) -> Result<Vec<f64>> {
    let sent = Sent::default();
    let notices = reader.subscribe().await?;
    let reading = tokio::spawn(read(reader.clone(), notices, sent.clone(), after, fences.len()));
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

/// Reads on in each session of which a notice tells, until every message was seen.
async fn read(
    store: Arc<dyn Store>,
    mut notices: BoxStream<'static, Notice>,
    sent: Sent,
    after: u64,
    sessions: usize,
) -> Result<Vec<f64>> {
    let wanted = sessions * usize::try_from(EACH)?;
    // The first message of every session was written when it was created.
    let mut cursors: HashMap<SessionId, u64> = HashMap::new();
    let mut delays = Vec::with_capacity(wanted);
    while delays.len() < wanted {
        let Notice::Message { id, session, .. } = notices.next().await.context("the notices go on")? else {
            continue;
        };
        if !sent
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains_key(&id)
        {
            // Read before, together with an earlier one.
            continue;
        }
        let cursor = cursors.entry(session).or_insert(after + 1);
        for message in store.messages(session, *cursor, 100).await? {
            *cursor = message.sequence;
            let begin = sent
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&message.id);
            delays.extend(begin.map(|begin| begin.elapsed().as_secs_f64() * 1000.0));
        }
    }
    Ok(delays)
}
