//! Recording the events of an attempt.

use fabrica_core::ids::Fence;
use fabrica_core::ports::StoreError;
use fabrica_core::ports::store::{EventRecord, Recorded};
use sqlx::SqliteConnection;
use sqlx::types::Json;

use super::SqliteStore;
use super::write::{Held, add_messages, hold, json_rows, json_text};
use crate::error::database;
use crate::shared::{Batch, unstored};
use crate::values::{bigint, integer};

#[tracing::instrument(
    name = "store.sqlite.record",
    skip_all,
    fields(session.id = %fence.session, attempt.number = %fence.attempt, events = events.len()),
    err
)]
pub(super) async fn record(
    store: &SqliteStore,
    fence: Fence,
    events: Vec<EventRecord>,
) -> Result<Recorded, StoreError> {
    let mut transaction = store.write().await?;
    let held = hold(&mut transaction, fence).await?;
    let stored = held.last_event.unsigned_abs();
    let cancel_requested = held.cancel_requested;
    let events = unstored(fence, stored, events)?;
    if events.is_empty() {
        return Ok(Recorded {
            acknowledged: stored,
            cancel_requested,
        });
    }
    let batch = Batch::of(events, stored, held.usage.usage());
    write(&mut transaction, fence, &held, &batch).await?;
    store.commit(transaction).await?;
    Ok(Recorded {
        acknowledged: batch.last_event,
        cancel_requested,
    })
}

async fn write(
    connection: &mut SqliteConnection,
    fence: Fence,
    held: &Held,
    batch: &Batch,
) -> Result<(), StoreError> {
    let message_seq = add_messages(connection, fence.session, held.message_seq, &batch.messages).await?;
    let transcript_seq = add_transcript(connection, fence, held.transcript_seq, batch).await?;
    sqlx::query("update attempts set last_event = ?3, result = coalesce(?4, result) where session_id = ?1 and number = ?2")
        .bind(fence.session.as_uuid())
        .bind(integer(fence.attempt.get()))
        .bind(bigint(batch.last_event))
        .bind(batch.result.as_ref().map(Json))
        .execute(&mut *connection)
        .await
        .map_err(database)?;
    let usage = batch.usage;
    sqlx::query(
        "update sessions
         set message_seq = ?2, transcript_seq = ?3, input_tokens = ?4, output_tokens = ?5, cache_read_tokens = ?6,
             cache_write_tokens = ?7, cost_usd = ?8, turns = ?9
         where id = ?1",
    )
    .bind(fence.session.as_uuid())
    .bind(message_seq)
    .bind(transcript_seq)
    .bind(bigint(usage.input_tokens))
    .bind(bigint(usage.output_tokens))
    .bind(bigint(usage.cache_read_tokens))
    .bind(bigint(usage.cache_write_tokens))
    .bind(usage.cost_usd)
    .bind(i64::from(usage.turns))
    .execute(connection)
    .await
    .map_err(database)?;
    Ok(())
}

async fn add_transcript(
    connection: &mut SqliteConnection,
    fence: Fence,
    after: i64,
    batch: &Batch,
) -> Result<i64, StoreError> {
    if batch.transcript.is_empty() {
        return Ok(after);
    }
    let mut rows = Vec::with_capacity(batch.transcript.len());
    for (at, entry) in &batch.transcript {
        rows.push((
            at.timestamp_micros(),
            &entry.kind,
            &entry.parent,
            &entry.summary,
            json_text(&entry.detail)?,
        ));
    }
    let inserted = sqlx::query(
        "insert into transcript (session_id, attempt, seq, at, kind, parent, summary, detail)
         select ?1, ?2, ?3 + t.key + 1, t.value ->> 0, t.value ->> 1, t.value ->> 2, t.value ->> 3, t.value ->> 4
         from json_each(?4) t",
    )
    .bind(fence.session.as_uuid())
    .bind(integer(fence.attempt.get()))
    .bind(after)
    .bind(json_rows(rows.iter())?)
    .execute(connection)
    .await
    .map_err(database)?;
    Ok(after.saturating_add_unsigned(inserted.rows_affected()))
}
