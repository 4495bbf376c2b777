//! The statements that record events.

mod next;
mod one;

use fabrica_core::ids::Fence;
use fabrica_core::ports::StoreError;
use fabrica_core::ports::store::Recorded;
use sqlx::types::Uuid;
use sqlx::types::chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};

pub(super) use self::next::write_next;
pub(super) use self::one::write_one;
use crate::error::database;
use crate::events::{Delivery, EntryText, MessageText};
use crate::settle::{Held, Write};
use crate::values::{bigint, integer};

/// Locks the sessions, and with them the numbers of their events and messages, for their current attempts and nobody else.
macro_rules! hold {
    ($patience:literal) => {
        concat!(
            "select w.place - 1 as place, s.message_seq, s.transcript_seq, s.cancel_requested, s.last_event, s.input_tokens,
                    s.output_tokens, s.cache_read_tokens, s.cache_write_tokens, s.cost_usd, s.turns
             from unnest($1::uuid[], $2::int[], $3::bigint[]) with ordinality as w (session_id, attempt, lease, place)
             join sessions s on s.id = w.session_id
             where s.attempt = w.attempt and s.lease = w.lease and s.status = 'running'
             for no key update of s",
            $patience
        )
    };
}

async fn held(
    connection: &mut PgConnection,
    statement: &'static str,
    deliveries: &[&Delivery],
) -> Result<Vec<Held>, sqlx::Error> {
    let fences = || deliveries.iter().map(|delivery| delivery.fence);
    sqlx::query_as(statement)
        .bind(fences().map(|fence| *fence.session.as_uuid()).collect::<Vec<_>>())
        .bind(
            fences()
                .map(|fence| integer(fence.attempt.get()))
                .collect::<Vec<_>>(),
        )
        .bind(
            fences()
                .map(|fence| bigint(fence.lease.get()))
                .collect::<Vec<_>>(),
        )
        .fetch_all(connection)
        .await
}

/// Those that nobody else has locked.
pub(super) async fn hold(
    connection: &mut PgConnection,
    deliveries: &[&Delivery],
) -> Result<Vec<Held>, sqlx::Error> {
    held(connection, hold!(" skip locked"), deliveries).await
}

/// Waits until nobody else has locked it.
pub(super) async fn hold_patiently(
    connection: &mut PgConnection,
    delivery: &Delivery,
) -> Result<Vec<Held>, sqlx::Error> {
    held(connection, hold!(""), &[delivery]).await
}

/// Everything that the sessions get. They are held by the transaction.
pub(super) async fn write(connection: &mut PgConnection, writes: &[Write<'_>]) -> Result<(), sqlx::Error> {
    let (mut messages, mut entries) = (Messages::default(), Entries::default());
    for write in writes {
        messages.add(write.fence, write.message_seq, &write.batch.messages);
        entries.add(write.fence, write.transcript_seq, &write.batch.transcript);
    }
    messages.insert(connection).await?;
    entries.insert(connection).await?;
    update(connection, writes).await?;
    keep_checkpoints(connection, writes).await
}

/// Few deliveries bring one, so the others shall not pay for it.
async fn keep_checkpoints(connection: &mut PgConnection, writes: &[Write<'_>]) -> Result<(), sqlx::Error> {
    let made: Vec<_> = writes
        .iter()
        .filter_map(|write| Some((write.fence, write.batch.checkpoint?)))
        .collect();
    if made.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "update sessions s set checkpoint = w.checkpoint::jsonb, checkpoint_attempt = s.attempt
         from unnest($1::uuid[], $2::text[]) as w (session_id, checkpoint) where s.id = w.session_id",
    )
    .bind(
        made.iter()
            .map(|(fence, _)| *fence.session.as_uuid())
            .collect::<Vec<_>>(),
    )
    .bind(made.iter().map(|(_, checkpoint)| *checkpoint).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

#[derive(Default)]
struct Messages<'a> {
    ids: Vec<Uuid>,
    sessions: Vec<Uuid>,
    types: Vec<&'a str>,
    contents: Vec<&'a str>,
    seqs: Vec<i64>,
}

impl<'a> Messages<'a> {
    fn add(&mut self, fence: Fence, after: i64, messages: &[&'a MessageText]) {
        for (seq, message) in (after + 1..).zip(messages) {
            self.ids.push(message.id);
            self.sessions.push(*fence.session.as_uuid());
            self.types.push(message.kind);
            self.contents.push(&message.content);
            self.seqs.push(seq);
        }
    }

    async fn insert(self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        if self.ids.is_empty() {
            return Ok(());
        }
        sqlx::query(
            "insert into messages (id, session_id, type, content, seq)
             select m.id, m.session_id, m.type, m.content::jsonb, m.seq
             from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::bigint[])
                  as m (id, session_id, type, content, seq)",
        )
        .bind(self.ids)
        .bind(self.sessions)
        .bind(self.types)
        .bind(self.contents)
        .bind(self.seqs)
        .execute(connection)
        .await?;
        Ok(())
    }
}

#[derive(Default)]
struct Entries<'a> {
    sessions: Vec<Uuid>,
    attempts: Vec<i32>,
    seqs: Vec<i64>,
    texts: EntryTexts<'a>,
}

#[derive(Default)]
struct EntryTexts<'a> {
    ats: Vec<DateTime<Utc>>,
    kinds: Vec<&'a str>,
    parents: Vec<Option<&'a str>>,
    summaries: Vec<&'a str>,
    details: Vec<&'a str>,
}

impl<'a> EntryTexts<'a> {
    fn add(&mut self, entry: &'a EntryText) {
        self.ats.push(entry.at);
        self.kinds.push(&entry.kind);
        self.parents.push(entry.parent.as_deref());
        self.summaries.push(&entry.summary);
        self.details.push(&entry.detail);
    }
}

impl<'a> Entries<'a> {
    fn add(&mut self, fence: Fence, after: i64, entries: &[&'a EntryText]) {
        for (seq, entry) in (after + 1..).zip(entries) {
            self.sessions.push(*fence.session.as_uuid());
            self.attempts.push(integer(fence.attempt.get()));
            self.seqs.push(seq);
            self.texts.add(entry);
        }
    }

    async fn insert(self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        if self.sessions.is_empty() {
            return Ok(());
        }
        sqlx::query(
            "insert into transcript (session_id, attempt, seq, at, kind, parent, summary, detail)
             select t.session_id, t.attempt, t.seq, t.at, t.kind, t.parent, t.summary, t.detail::jsonb
             from unnest($1::uuid[], $2::int[], $3::bigint[], $4::timestamptz[], $5::text[], $6::text[], $7::text[],
                         $8::text[])
                  as t (session_id, attempt, seq, at, kind, parent, summary, detail)",
        )
        .bind(self.sessions)
        .bind(self.attempts)
        .bind(self.seqs)
        .bind(self.texts.ats)
        .bind(self.texts.kinds)
        .bind(self.texts.parents)
        .bind(self.texts.summaries)
        .bind(self.texts.details)
        .execute(connection)
        .await?;
        Ok(())
    }
}

/// The sessions' and attempts' own rows.
async fn update(connection: &mut PgConnection, writes: &[Write<'_>]) -> Result<(), sqlx::Error> {
    let column = |value: fn(&Write<'_>) -> i64| -> Vec<i64> { writes.iter().map(value).collect() };
    let of_results = || writes.iter().filter(|write| write.batch.result.is_some());
    sqlx::query(
        "with attempt as (
             update attempts a set result = w.result::jsonb
             from unnest($11::uuid[], $12::int[], $13::text[]) as w (session_id, number, result)
             where a.session_id = w.session_id and a.number = w.number
         )
         update sessions s
         set last_event = w.last_event, message_seq = w.message_seq, transcript_seq = w.transcript_seq,
             input_tokens = w.input_tokens, output_tokens = w.output_tokens, cache_read_tokens = w.cache_read_tokens,
             cache_write_tokens = w.cache_write_tokens, cost_usd = w.cost_usd, turns = w.turns
         from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
                     $8::bigint[], $9::float8[], $10::bigint[])
              as w (session_id, last_event, message_seq, transcript_seq, input_tokens, output_tokens, cache_read_tokens,
                    cache_write_tokens, cost_usd, turns)
         where s.id = w.session_id",
    )
    .bind(
        writes
            .iter()
            .map(|write| *write.fence.session.as_uuid())
            .collect::<Vec<_>>(),
    )
    .bind(column(|write| bigint(write.batch.last_event)))
    .bind(writes.iter().map(Write::messages_end).collect::<Vec<_>>())
    .bind(writes.iter().map(Write::transcript_end).collect::<Vec<_>>())
    .bind(column(|write| bigint(write.batch.usage.input_tokens)))
    .bind(column(|write| bigint(write.batch.usage.output_tokens)))
    .bind(column(|write| bigint(write.batch.usage.cache_read_tokens)))
    .bind(column(|write| bigint(write.batch.usage.cache_write_tokens)))
    .bind(
        writes
            .iter()
            .map(|write| write.batch.usage.cost_usd)
            .collect::<Vec<_>>(),
    )
    .bind(column(|write| i64::from(write.batch.usage.turns)))
    .bind(
        of_results()
            .map(|write| *write.fence.session.as_uuid())
            .collect::<Vec<_>>(),
    )
    .bind(
        of_results()
            .map(|write| integer(write.fence.attempt.get()))
            .collect::<Vec<_>>(),
    )
    .bind(of_results().map(|write| write.batch.result).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// How far an attempt is.
pub(super) async fn ask(pool: &PgPool, fence: Fence) -> Result<Recorded, StoreError> {
    let (last_event, cancel_requested): (i64, bool) = sqlx::query_as(
        "select s.last_event, s.cancel_requested
         from sessions s
         where s.id = $1 and s.attempt = $2 and s.lease = $3 and s.status = 'running'",
    )
    .bind(fence.session.as_uuid())
    .bind(integer(fence.attempt.get()))
    .bind(bigint(fence.lease.get()))
    .fetch_optional(pool)
    .await
    .map_err(database)?
    .ok_or(StoreError::Fenced(fence))?;
    Ok(Recorded {
        acknowledged: last_event.unsigned_abs(),
        cancel_requested,
    })
}
