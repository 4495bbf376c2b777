//! Recording the events of an attempt.

use fabrica_core::ids::Fence;
use fabrica_core::ports::StoreError;
use fabrica_core::ports::store::{EventRecord, Recorded};
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};

use super::write::{Held, add_messages, hold};
use crate::error::database;
use crate::shared::{Batch, unstored};
use crate::values::{bigint, integer};

#[tracing::instrument(
    name = "store.postgres.record",
    skip_all,
    fields(session.id = %fence.session, attempt.number = %fence.attempt, events = events.len()),
    err
)]
pub(super) async fn record(
    pool: &PgPool,
    fence: Fence,
    events: Vec<EventRecord>,
) -> Result<Recorded, StoreError> {
    let mut transaction = pool.begin().await.map_err(database)?;
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
    transaction.commit().await.map_err(database)?;
    Ok(Recorded {
        acknowledged: batch.last_event,
        cancel_requested,
    })
}

async fn write(
    connection: &mut PgConnection,
    fence: Fence,
    held: &Held,
    batch: &Batch,
) -> Result<(), StoreError> {
    let message_seq = add_messages(connection, fence.session, held.message_seq, &batch.messages).await?;
    let transcript_seq = add_transcript(connection, fence, held.transcript_seq, batch).await?;
    let usage = batch.usage;
    sqlx::query(
        "with attempt as (
             update attempts set last_event = $3, result = coalesce($4, result) where session_id = $1 and number = $2
         )
         update sessions
         set message_seq = $5, transcript_seq = $6, input_tokens = $7, output_tokens = $8, cache_read_tokens = $9,
             cache_write_tokens = $10, cost_usd = $11, turns = $12
         where id = $1",
    )
    .bind(fence.session.as_uuid())
    .bind(integer(fence.attempt.get()))
    .bind(bigint(batch.last_event))
    .bind(batch.result.as_ref().map(Json))
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
    connection: &mut PgConnection,
    fence: Fence,
    after: i64,
    batch: &Batch,
) -> Result<i64, StoreError> {
    if batch.transcript.is_empty() {
        return Ok(after);
    }
    let entries = || batch.transcript.iter().map(|(_, entry)| entry);
    let inserted = sqlx::query(
        "insert into transcript (session_id, attempt, seq, at, kind, parent, summary, detail)
         select $1, $2, $3 + t.place, t.at, t.kind, t.parent, t.summary, t.detail
         from unnest($4::timestamptz[], $5::text[], $6::text[], $7::text[], $8::jsonb[]) with ordinality
              as t (at, kind, parent, summary, detail, place)",
    )
    .bind(fence.session.as_uuid())
    .bind(integer(fence.attempt.get()))
    .bind(after)
    .bind(batch.transcript.iter().map(|(at, _)| *at).collect::<Vec<_>>())
    .bind(entries().map(|entry| entry.kind.as_str()).collect::<Vec<_>>())
    .bind(entries().map(|entry| entry.parent.as_deref()).collect::<Vec<_>>())
    .bind(entries().map(|entry| entry.summary.as_str()).collect::<Vec<_>>())
    .bind(entries().map(|entry| Json(&entry.detail)).collect::<Vec<_>>())
    .execute(connection)
    .await
    .map_err(database)?;
    Ok(after.saturating_add_unsigned(inserted.rows_affected()))
}
