//! The statements that record events. Rows come as JSON: each call costs a change of threads.

use fabrica_core::ids::Fence;
use fabrica_core::ports::StoreError;
use fabrica_core::ports::store::Recorded;
use serde::Serialize;
use sqlx::types::{Json, Uuid};
use sqlx::{SqliteConnection, SqlitePool};

use crate::error::database;
use crate::events::Delivery;
use crate::settle::{Held, Write};
use crate::values::{bigint, integer};

fn rows<T: Serialize>(rows: &[T]) -> Result<String, sqlx::Error> {
    serde_json::to_string(rows).map_err(|error| sqlx::Error::Encode(Box::new(error)))
}

fn hex(id: Uuid) -> String {
    id.simple().to_string()
}

/// Those that are held by their current attempts under their current leases. The caller holds the write lock. They come in
/// one row: each row wakes another thread, which would cost more than everything else. The digits keep each amount of money
/// exactly as it is.
pub(super) async fn hold(
    connection: &mut SqliteConnection,
    deliveries: &[&Delivery],
) -> Result<Vec<Held>, sqlx::Error> {
    let fences: Vec<_> = deliveries
        .iter()
        .map(|delivery| delivery.fence)
        .map(|fence| {
            let session = hex(*fence.session.as_uuid());
            (session, integer(fence.attempt.get()), bigint(fence.lease.get()))
        })
        .collect();
    let Json(held) = sqlx::query_scalar(
        "select json_group_array(json_object(
                    'place', w.key, 'message_seq', s.message_seq, 'transcript_seq', s.transcript_seq,
                    'cancel_requested', json(iif(s.cancel_requested, 'true', 'false')), 'last_event', s.last_event,
                    'input_tokens', s.input_tokens, 'output_tokens', s.output_tokens,
                    'cache_read_tokens', s.cache_read_tokens, 'cache_write_tokens', s.cache_write_tokens,
                    'cost_usd', json(format('%!.17g', s.cost_usd)), 'turns', s.turns))
         from json_each(?1) w
         cross join sessions s on s.id = unhex(w.value ->> 0)
         where s.attempt = w.value ->> 1 and s.lease = w.value ->> 2 and s.status = 'running'",
    )
    .bind(rows(&fences)?)
    .fetch_one(connection)
    .await?;
    Ok(held)
}

/// `$1` messages, `$2` transcript entries, `$3` attempts with a result, `$4` sessions, in the order of [`session_row`]; `$5`
/// the long texts, one after the other, of which the rows name the place: written and read as JSON they would cost more than
/// everything else. With `?1` a statement that leaves a number out would get the wrong values.
const WRITE: &str = "
    insert into messages (id, session_id, type, content, seq)
    select unhex(m.value ->> 0), unhex(m.value ->> 1), m.value ->> 2,
           cast(substr($5, m.value ->> 3, m.value ->> 4) as text), m.value ->> 5
    from json_each($1) m where true order by m.key;

    insert into transcript (session_id, attempt, seq, at, kind, parent, summary, detail)
    select unhex(t.value ->> 0), t.value ->> 1, t.value ->> 2, t.value ->> 3, t.value ->> 4, t.value ->> 5, t.value ->> 6,
           cast(substr($5, t.value ->> 7, t.value ->> 8) as text)
    from json_each($2) t;

    update attempts set result = w.value ->> 2
    from json_each($3) w
    where attempts.session_id = unhex(w.value ->> 0) and attempts.number = w.value ->> 1;

    update sessions
    set last_event = w.value ->> 1, message_seq = w.value ->> 2, transcript_seq = w.value ->> 3,
        input_tokens = w.value ->> 4, output_tokens = w.value ->> 5, cache_read_tokens = w.value ->> 6,
        cache_write_tokens = w.value ->> 7, cost_usd = w.value ->> 8, turns = w.value ->> 9
    from json_each($4) w where sessions.id = unhex(w.value ->> 0)";

/// Everything that the sessions get.
pub(super) async fn write(
    connection: &mut SqliteConnection,
    writes: &[Write<'_>],
) -> Result<(), sqlx::Error> {
    let (mut messages, mut entries, mut results, mut sessions) = (vec![], vec![], vec![], vec![]);
    let mut texts = Texts::default();
    for write in writes {
        let session = hex(*write.fence.session.as_uuid());
        for (seq, message) in (write.message_seq + 1..).zip(&write.batch.messages) {
            let (start, length) = texts.add(&message.content);
            messages.push((hex(message.id), session.clone(), message.kind, start, length, seq));
        }
        for (seq, entry) in (write.transcript_seq + 1..).zip(&write.batch.transcript) {
            let (start, length) = texts.add(&entry.detail);
            entries.push((
                session.clone(),
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
            results.push((session.clone(), write.fence.attempt, result));
        }
        sessions.push(session_row(write, session));
    }
    sqlx::query(WRITE)
        .bind(rows(&messages)?)
        .bind(rows(&entries)?)
        .bind(rows(&results)?)
        .bind(rows(&sessions)?)
        .bind(texts.bytes)
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
        .filter_map(|write| Some((hex(*write.fence.session.as_uuid()), write.batch.checkpoint?)))
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

fn session_row(write: &Write<'_>, session: String) -> impl Serialize {
    let usage = write.batch.usage;
    (
        session,
        bigint(write.batch.last_event),
        write.messages_end(),
        write.transcript_end(),
        bigint(usage.input_tokens),
        bigint(usage.output_tokens),
        bigint(usage.cache_read_tokens),
        bigint(usage.cache_write_tokens),
        usage.cost_usd,
        usage.turns,
    )
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
