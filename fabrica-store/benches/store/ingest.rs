//! Recording events, against the same rows in a table without triggers.

use std::time::Instant;

use anyhow::Result;
use fabrica_core::ids::Fence;
use fabrica_core::ports::Store as _;
use fabrica_core::ports::store::EventRecord;
use serde_json::Value;
use sqlx::PgConnection;
use sqlx::types::Json;

use crate::database::Database;
use crate::report::Rounds;
use crate::work::{event, message, per_second, produce, race, running};

const ROUNDS: u64 = 7;
/// Rows of one batch.
const BATCH: u64 = 1000;
/// Batches of one round.
const BATCHES: u64 = 12;
/// Events of the only writer, in one round.
const SINGLE: u64 = 500;
/// Writers at the same time.
const PRODUCERS: usize = 64;
/// Events of each of them, in one round.
const EACH: u64 = 50;

/// One caller that delivers batches, against `COPY` of the same rows, committed as often.
pub(crate) async fn copy(database: &Database) -> Result<Value> {
    let fences = running(&*database.store, 1).await?;
    let mut connection = database.connect().await?;
    let mut rounds = [Rounds::default(), Rounds::default()];
    for round in 0..=ROUNDS {
        let first = round * BATCH * BATCHES + 1;
        let bare = copy_rows(&mut connection, "bare_messages", fences[0], first).await?;
        let batches: Vec<Vec<EventRecord>> = (0..BATCHES)
            .map(|batch| (0..BATCH).map(|row| event(first + batch * BATCH + row)).collect())
            .collect();
        let begin = Instant::now();
        for batch in batches {
            database.store.record(fences[0], batch).await?;
        }
        let measured = per_second(BATCH * BATCHES, begin);
        // After the store's numbers of that session.
        let first = first + 1_000_000_000 * (round + 1);
        let noticed = copy_rows(&mut connection, "messages", fences[0], first).await?;
        if round > 0 {
            rounds[0].add(measured, bare);
            rounds[1].add(measured, noticed);
        }
    }
    let mut measure = rounds[0].measure(
        "recorded_rows_per_second",
        "copied_rows_per_second",
        "The notice of each message: its trigger takes about a fifth of the server's time (see \
         ratio_to_copy_with_notices). Then the reference to the session, which COPY has to check too.",
    );
    measure["ratio_to_copy_with_notices"] = crate::report::rounded(rounds[1].ratio()).into();
    Ok(measure)
}

async fn copy_rows(connection: &mut PgConnection, table: &str, fence: Fence, first: u64) -> Result<f64> {
    let batches: Vec<String> = (0..BATCHES)
        .map(|batch| {
            (0..BATCH).fold(String::new(), |mut text, row| {
                let message = message();
                let content = serde_json::to_string(&message.content)
                    .unwrap_or_default()
                    .replace('\\', "\\\\");
                text.push_str(&format!(
                    "{}\t{}\t{}\t{content}\t{}\n",
                    message.id.as_uuid(),
                    fence.session.as_uuid(),
                    message.kind,
                    first + batch * BATCH + row
                ));
                text
            })
        })
        .collect();
    let statement = format!("copy {table} (id, session_id, type, content, seq) from stdin");
    let begin = Instant::now();
    for batch in batches {
        let mut copy = connection.copy_in_raw(&statement).await?;
        copy.send(batch.as_bytes()).await?;
        copy.finish().await?;
    }
    Ok(per_second(BATCH * BATCHES, begin))
}

/// One insert of one row, committed by itself.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    statement: &'static str,
    fence: Fence,
    seq: i64,
) -> Result<()> {
    let message = message();
    sqlx::query(statement)
        .bind(message.id.as_uuid())
        .bind(fence.session.as_uuid())
        .bind(message.kind.as_str())
        .bind(Json(&message.content))
        .bind(seq)
        .execute(connection)
        .await?;
    Ok(())
}

pub(crate) const BARE: &str =
    "insert into bare_messages (id, session_id, type, content, seq) values ($1, $2, $3, $4, $5)";
const NOTICED: &str = "insert into messages (id, session_id, type, content, seq) values ($1, $2, $3, $4, $5)";

async fn inserts(
    mut connection: PgConnection,
    statement: &'static str,
    fence: Fence,
    first: i64,
    number: u64,
) -> Result<PgConnection> {
    for seq in (first..).take(usize::try_from(number)?) {
        insert(&mut connection, statement, fence, seq).await?;
    }
    Ok(connection)
}

/// One writer, one event at a time, against an insert of the same row.
pub(crate) async fn single(database: &Database) -> Result<Value> {
    let fences = running(&*database.store, 1).await?;
    let mut connection = database.connect().await?;
    let mut rounds = [Rounds::default(), Rounds::default()];
    for round in 0..=ROUNDS {
        let first = i64::try_from(round * SINGLE + 1)?;
        let begin = Instant::now();
        connection = inserts(connection, BARE, fences[0], first, SINGLE).await?;
        let bare = per_second(SINGLE, begin);
        let measured = produce(database.store.clone(), &fences, round * SINGLE + 1, SINGLE).await?;
        let begin = Instant::now();
        connection = inserts(connection, NOTICED, fences[0], first + 1_000_000_000, SINGLE).await?;
        let noticed = per_second(SINGLE, begin);
        if round > 0 {
            rounds[0].add(measured, bare);
            rounds[1].add(measured, noticed);
        }
    }
    let mut measure = rounds[0].measure(
        "recorded_per_second",
        "inserted_per_second",
        "The commit, which both wait for. What is left are the notice and the two rows that count and fence, all in one \
         statement; ratio_to_insert_with_notice is the part that is not the notice.",
    );
    measure["ratio_to_insert_with_notice"] = crate::report::rounded(rounds[1].ratio()).into();
    Ok(measure)
}

/// Many writers, one event each at a time, against as many that insert a row each.
pub(crate) async fn group(database: &Database) -> Result<Value> {
    let fences = running(&*database.store, PRODUCERS).await?;
    let mut rounds = Rounds::default();
    for round in 0..=ROUNDS {
        let connections = database.connections(PRODUCERS).await?;
        let writers = connections.into_iter().zip(fences.clone());
        let first = i64::try_from(round * EACH + 1)?;
        let bare = race(
            writers.map(|(connection, fence)| async move {
                inserts(connection, BARE, fence, first, EACH).await?;
                Ok(())
            }),
            EACH,
        )
        .await?;
        let measured = produce(database.store.clone(), &fences, round * EACH + 1, EACH).await?;
        if round > 0 {
            rounds.add(measured, bare);
        }
    }
    Ok(rounds.measure(
        "recorded_per_second",
        "inserted_per_second",
        "The processors: with so few commits the disk is idle most of the time, and the server's work for each row is \
         the row itself, its indexes, its notice and the session's counters.",
    ))
}
