//! The statements that record events. Rows come as JSON: each call costs a change of threads.

use fabrica_core::ids::Fence;
use fabrica_core::ports::StoreError;
use fabrica_core::ports::store::Recorded;
use serde::Serialize;
use sqlx::types::{Json, Uuid};
use sqlx::{SqliteConnection, SqlitePool};

use crate::error::database;
use crate::events::Delivery;
use crate::rows::UsageRow;
use crate::settle::{Held, Write};
use crate::values::{bigint, integer};

fn rows<T: Serialize>(rows: &[T]) -> Result<String, sqlx::Error> {
    serde_json::to_string(rows).map_err(|error| sqlx::Error::Encode(Box::new(error)))
}

/// Ids, one after the other: as JSON they would have to be written, read and taken from their digits. `substr` finds one by
/// its place.
fn ids(ids: impl Iterator<Item = Uuid>) -> Vec<u8> {
    ids.flat_map(Uuid::into_bytes).collect()
}

/// Whether any delivery brings usage. Most bring none, and then the sessions' totals are neither read nor written.
pub(super) fn any_usage(deliveries: &[&Delivery]) -> bool {
    let mut events = deliveries.iter().flat_map(|delivery| &delivery.events);
    events.any(|event| event.usage.is_some())
}

/// `?1` sessions, `?2` their attempts and leases. What is held comes in one row: each row wakes another thread, which would
/// cost more than everything else.
macro_rules! hold {
    ($usage:literal) => {
        concat!(
            "select json_group_array(json_array(
                        json_array(w.key, s.message_seq, s.transcript_seq, s.cancel_requested, s.last_event),
                        ",
            $usage,
            "))
             from json_each(?2) w
             cross join sessions s on s.id = substr(?1, w.key * 16 + 1, 16)
             where s.attempt = w.value ->> 0 and s.lease = w.value ->> 1 and s.status = 'running'"
        )
    };
}

type HeldRow = ((i64, i64, i64, i64, i64), Option<(i64, i64, i64, i64, f64, i64)>);

fn held((numbers, usage): HeldRow) -> Held {
    let (place, message_seq, transcript_seq, cancel_requested, last_event) = numbers;
    let (input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, cost_usd, turns) =
        usage.unwrap_or_default();
    Held {
        place,
        message_seq,
        transcript_seq,
        cancel_requested: cancel_requested != 0,
        last_event,
        usage: UsageRow {
            input_tokens,
            output_tokens,
            cache_read_tokens,
            cache_write_tokens,
            cost_usd,
            turns,
        },
    }
}

/// Those that are held by their current attempts under their current leases, with their usage if that is wanted. The caller
/// holds the write lock.
pub(super) async fn hold(
    connection: &mut SqliteConnection,
    deliveries: &[&Delivery],
    with_usage: bool,
) -> Result<Vec<Held>, sqlx::Error> {
    let fences = || deliveries.iter().map(|delivery| delivery.fence);
    let numbers: Vec<_> = fences()
        .map(|fence| (integer(fence.attempt.get()), bigint(fence.lease.get())))
        .collect();
    let statement = if with_usage {
        // The digits keep each amount of money exactly as it is.
        hold!(
            "json_array(s.input_tokens, s.output_tokens, s.cache_read_tokens, s.cache_write_tokens,
                        json(format('%!.17g', s.cost_usd)), s.turns)"
        )
    } else {
        hold!("null")
    };
    let Json(rows): Json<Vec<HeldRow>> = sqlx::query_scalar(statement)
        .bind(ids(fences().map(|fence| *fence.session.as_uuid())))
        .bind(rows(&numbers)?)
        .fetch_one(connection)
        .await?;
    Ok(rows.into_iter().map(held).collect())
}

/// `$1` messages, `$2` transcript entries, `$3` attempts with a result, `$4` what the sessions get; `$5` the long texts, one
/// after the other, of which the rows name the place: written and read as JSON they would cost more than everything else;
/// `$6` the sessions' ids, of which the other rows name the place, `$7` the messages'. With `?1` a statement that leaves a
/// number out would get the wrong values.
macro_rules! write {
    ($usage:literal) => {
        concat!(
            "insert into messages (id, session_id, type, content, seq)
             select substr($7, m.key * 16 + 1, 16), substr($6, (m.value ->> 0) * 16 + 1, 16), m.value ->> 1,
                    cast(substr($5, m.value ->> 2, m.value ->> 3) as text), m.value ->> 4
             from json_each($1) m where true order by m.key;

             insert into transcript (session_id, attempt, seq, at, kind, parent, summary, detail)
             select substr($6, (t.value ->> 0) * 16 + 1, 16), t.value ->> 1, t.value ->> 2, t.value ->> 3, t.value ->> 4,
                    t.value ->> 5, t.value ->> 6, cast(substr($5, t.value ->> 7, t.value ->> 8) as text)
             from json_each($2) t;

             update attempts set result = w.value ->> 2
             from json_each($3) w
             where attempts.session_id = substr($6, (w.value ->> 0) * 16 + 1, 16) and attempts.number = w.value ->> 1;

             update sessions set last_event = w.value ->> 0, message_seq = w.value ->> 1, transcript_seq = w.value ->> 2",
            $usage,
            " from json_each($4) w where sessions.id = substr($6, w.key * 16 + 1, 16)"
        )
    };
}

/// Everything that the sessions get; their usage only if any of it is new.
pub(super) async fn write(
    connection: &mut SqliteConnection,
    writes: &[Write<'_>],
    with_usage: bool,
) -> Result<(), sqlx::Error> {
    let (mut messages, mut entries, mut results) = (vec![], vec![], vec![]);
    let (mut texts, mut message_ids) = (Texts::default(), vec![]);
    for (place, write) in writes.iter().enumerate() {
        for (seq, message) in (write.message_seq + 1..).zip(&write.batch.messages) {
            let (start, length) = texts.add(&message.content);
            message_ids.push(message.id);
            messages.push((place, message.kind, start, length, seq));
        }
        for (seq, entry) in (write.transcript_seq + 1..).zip(&write.batch.transcript) {
            let (start, length) = texts.add(&entry.detail);
            entries.push((
                place,
                write.fence.attempt,
                seq,
                entry.at.timestamp_micros(),
                &entry.kind,
                &entry.parent,
                &entry.summary,
                start,
                length,
            ));
        }
        if let Some(result) = write.batch.result {
            results.push((place, write.fence.attempt, result));
        }
    }
    let numbers = |write: &Write<'_>| {
        let last = bigint(write.batch.last_event);
        (last, write.messages_end(), write.transcript_end())
    };
    let (statement, sessions) = if with_usage {
        let sessions: Vec<_> = writes
            .iter()
            .map(|write| {
                let (last, message, transcript) = numbers(write);
                let usage = write.batch.usage;
                (
                    last,
                    message,
                    transcript,
                    bigint(usage.input_tokens),
                    bigint(usage.output_tokens),
                    bigint(usage.cache_read_tokens),
                    bigint(usage.cache_write_tokens),
                    usage.cost_usd,
                    usage.turns,
                )
            })
            .collect();
        let statement = write!(
            ", input_tokens = w.value ->> 3, output_tokens = w.value ->> 4, cache_read_tokens = w.value ->> 5,
               cache_write_tokens = w.value ->> 6, cost_usd = w.value ->> 7, turns = w.value ->> 8"
        );
        (statement, rows(&sessions)?)
    } else {
        let sessions: Vec<_> = writes.iter().map(numbers).collect();
        (write!(""), rows(&sessions)?)
    };
    sqlx::query(statement)
        .bind(rows(&messages)?)
        .bind(rows(&entries)?)
        .bind(rows(&results)?)
        .bind(sessions)
        .bind(texts.bytes)
        .bind(ids(writes.iter().map(|write| *write.fence.session.as_uuid())))
        .bind(ids(message_ids.into_iter()))
        .execute(&mut *connection)
        .await?;
    keep_checkpoints(connection, writes).await
}

/// Texts, one after the other.
#[derive(Default)]
struct Texts {
    bytes: Vec<u8>,
}

impl Texts {
    /// Where it begins, from 1, and how many bytes it has.
    fn add(&mut self, text: &str) -> (usize, usize) {
        let start = self.bytes.len() + 1;
        self.bytes.extend_from_slice(text.as_bytes());
        (start, text.len())
    }
}

/// Few deliveries bring one, so the others shall not pay for it.
async fn keep_checkpoints(
    connection: &mut SqliteConnection,
    writes: &[Write<'_>],
) -> Result<(), sqlx::Error> {
    let made: Vec<_> = writes
        .iter()
        .filter_map(|write| {
            let session = write.fence.session.as_uuid().simple().to_string();
            Some((session, write.batch.checkpoint?))
        })
        .collect();
    if made.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "update sessions set checkpoint = w.value ->> 1, checkpoint_attempt = attempt
         from json_each(?1) w where sessions.id = unhex(w.value ->> 0)",
    )
    .bind(rows(&made)?)
    .execute(connection)
    .await?;
    Ok(())
}

/// How far an attempt is.
pub(super) async fn ask(readers: &SqlitePool, fence: Fence) -> Result<Recorded, StoreError> {
    let (last_event, cancel_requested): (i64, bool) = sqlx::query_as(
        "select s.last_event, s.cancel_requested
         from sessions s
         where s.id = ?1 and s.attempt = ?2 and s.lease = ?3 and s.status = 'running'",
    )
    .bind(fence.session.as_uuid())
    .bind(integer(fence.attempt.get()))
    .bind(bigint(fence.lease.get()))
    .fetch_optional(readers)
    .await
    .map_err(database)?
    .ok_or(StoreError::Fenced(fence))?;
    Ok(Recorded {
        acknowledged: last_event.unsigned_abs(),
        cancel_requested,
    })
}
