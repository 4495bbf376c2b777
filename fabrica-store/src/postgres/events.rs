//! The statements that record events.

use fabrica_core::ids::Fence;
use fabrica_core::ports::StoreError;
use fabrica_core::ports::store::Recorded;
use fabrica_core::protocol::Usage;
use sqlx::types::Uuid;
use sqlx::types::chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};

use crate::error::database;
use crate::events::{Batch, Delivery, EntryText, MessageText};
use crate::settle::{Held, Write};
use crate::values::{bigint, integer};

/// Locks the sessions, and with them the numbers of their messages, for their current attempts and nobody else. The
/// attempts' rows are locked too: otherwise `last_event` would be the one from before a wait.
macro_rules! hold {
    ($patience:literal) => {
        concat!(
            "select w.place - 1 as place, s.message_seq, s.transcript_seq, s.cancel_requested, a.last_event, s.input_tokens,
                    s.output_tokens, s.cache_read_tokens, s.cache_write_tokens, s.cost_usd, s.turns
             from unnest($1::uuid[], $2::int[], $3::bigint[]) with ordinality as w (session_id, attempt, lease, place)
             join sessions s on s.id = w.session_id
             join attempts a on a.session_id = w.session_id and a.number = w.attempt
             where s.attempt = w.attempt and s.lease = w.lease and s.status = 'running'
             for no key update of s, a",
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
    update(connection, writes).await
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
    let column = |value: fn(&Usage) -> u64| -> Vec<i64> {
        writes
            .iter()
            .map(|write| bigint(value(&write.batch.usage)))
            .collect()
    };
    sqlx::query(
        "with attempt as (
             update attempts a set last_event = w.last_event, result = coalesce(w.result::jsonb, a.result)
             from unnest($1::uuid[], $2::int[], $3::bigint[], $4::text[]) as w (session_id, number, last_event, result)
             where a.session_id = w.session_id and a.number = w.number
         )
         update sessions s
         set message_seq = w.message_seq, transcript_seq = w.transcript_seq, input_tokens = w.input_tokens,
             output_tokens = w.output_tokens, cache_read_tokens = w.cache_read_tokens,
             cache_write_tokens = w.cache_write_tokens, cost_usd = w.cost_usd, turns = w.turns
         from unnest($1::uuid[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[],
                     $11::float8[], $12::bigint[])
              as w (session_id, message_seq, transcript_seq, input_tokens, output_tokens, cache_read_tokens,
                    cache_write_tokens, cost_usd, turns)
         where s.id = w.session_id",
    )
    .bind(
        writes
            .iter()
            .map(|write| *write.fence.session.as_uuid())
            .collect::<Vec<_>>(),
    )
    .bind(
        writes
            .iter()
            .map(|write| integer(write.fence.attempt.get()))
            .collect::<Vec<_>>(),
    )
    .bind(
        writes
            .iter()
            .map(|write| bigint(write.batch.last_event))
            .collect::<Vec<_>>(),
    )
    .bind(writes.iter().map(|write| write.batch.result).collect::<Vec<_>>())
    .bind(
        writes
            .iter()
            .map(Write::messages_end)
            .collect::<Vec<_>>(),
    )
    .bind(
        writes
            .iter()
            .map(Write::transcript_end)
            .collect::<Vec<_>>(),
    )
    .bind(column(|usage| usage.input_tokens))
    .bind(column(|usage| usage.output_tokens))
    .bind(column(|usage| usage.cache_read_tokens))
    .bind(column(|usage| usage.cache_write_tokens))
    .bind(
        writes
            .iter()
            .map(|write| write.batch.usage.cost_usd)
            .collect::<Vec<_>>(),
    )
    .bind(column(|usage| u64::from(usage.turns)))
    .execute(connection)
    .await?;
    Ok(())
}

/// One delivery in one statement, and so in one round trip: everything is given as a difference, and the statement meets
/// no row unless the delivery is exactly what comes next. The attempt's row is looked at again when the session is
/// locked; should it have changed in between, the division by zero takes everything back.
macro_rules! write_one {
    ($messages:expr, $entries:expr) => {
        concat!(
            "with session as (
                 update sessions s
                 set message_seq = s.message_seq + $6, transcript_seq = s.transcript_seq + $7,
                     input_tokens = greatest(s.input_tokens, 0) + $8,
                     output_tokens = greatest(s.output_tokens, 0) + $9,
                     cache_read_tokens = greatest(s.cache_read_tokens, 0) + $10,
                     cache_write_tokens = greatest(s.cache_write_tokens, 0) + $11,
                     cost_usd = s.cost_usd + $12, turns = greatest(s.turns, 0) + $13
                 from attempts a
                 where s.id = $1 and s.attempt = $2 and s.lease = $3 and s.status = 'running'
                   and a.session_id = $1 and a.number = $2 and a.last_event = $4
                 returning s.id, s.cancel_requested, s.message_seq - $6 as message_seq,
                           s.transcript_seq - $7 as transcript_seq
             ), attempt as (
                 update attempts a set last_event = $5, result = coalesce($14::jsonb, a.result)
                 from session s where a.session_id = s.id and a.number = $2 and a.last_event = $4
                 returning a.number
             )",
            $messages,
            $entries,
            " select s.cancel_requested, 1 / (select count(*) from attempt) from session s"
        )
    };
}

macro_rules! one_messages {
    () => {
        ", message as (
             insert into messages (id, session_id, type, content, seq)
             select m.id, s.id, m.type, m.content::jsonb, s.message_seq + m.place
             from session s, unnest($15::uuid[], $16::text[], $17::text[]) with ordinality as m (id, type, content, place)
         )"
    };
}

macro_rules! one_entries {
    ($at:literal, $kind:literal, $parent:literal, $summary:literal, $detail:literal) => {
        concat!(
            ", entry as (
                 insert into transcript (session_id, attempt, seq, at, kind, parent, summary, detail)
                 select s.id, $2, s.transcript_seq + t.place, t.at, t.kind, t.parent, t.summary, t.detail::jsonb
                 from session s, unnest(",
            $at, "::timestamptz[], ", $kind, "::text[], ", $parent, "::text[], ", $summary, "::text[], ", $detail,
            "::text[]) with ordinality as t (at, kind, parent, summary, detail, place)
             )"
        )
    };
}

/// `None` if it is not exactly what comes next, or not under the current lease.
pub(super) async fn write_one(
    connection: &mut PgConnection,
    delivery: &Delivery,
) -> Result<Option<Recorded>, sqlx::Error> {
    let Some((first, last)) = delivery.range() else {
        return Ok(None);
    };
    let Batch {
        messages,
        transcript,
        usage,
        result,
        ..
    } = Batch::of(&delivery.events, Usage::default());
    let statement = match (messages.is_empty(), transcript.is_empty()) {
        (true, true) => write_one!("", ""),
        (false, true) => write_one!(one_messages!(), ""),
        (true, false) => write_one!("", one_entries!("$15", "$16", "$17", "$18", "$19")),
        (false, false) => {
            write_one!(one_messages!(), one_entries!("$18", "$19", "$20", "$21", "$22"))
        }
    };
    let mut query = sqlx::query_scalar(statement)
        .bind(delivery.fence.session.as_uuid())
        .bind(integer(delivery.fence.attempt.get()))
        .bind(bigint(delivery.fence.lease.get()))
        .bind(bigint(first - 1))
        .bind(bigint(last))
        .bind(bigint(messages.len() as u64))
        .bind(bigint(transcript.len() as u64))
        .bind(bigint(usage.input_tokens))
        .bind(bigint(usage.output_tokens))
        .bind(bigint(usage.cache_read_tokens))
        .bind(bigint(usage.cache_write_tokens))
        .bind(usage.cost_usd)
        .bind(i64::from(usage.turns))
        .bind(result);
    if !messages.is_empty() {
        query = query
            .bind(messages.iter().map(|message| message.id).collect::<Vec<_>>())
            .bind(messages.iter().map(|message| message.kind).collect::<Vec<_>>())
            .bind(
                messages
                    .iter()
                    .map(|message| message.content.as_str())
                    .collect::<Vec<_>>(),
            );
    }
    if !transcript.is_empty() {
        let mut texts = EntryTexts::default();
        for entry in transcript {
            texts.add(entry);
        }
        query = query
            .bind(texts.ats)
            .bind(texts.kinds)
            .bind(texts.parents)
            .bind(texts.summaries)
            .bind(texts.details);
    }
    let cancel_requested: Option<bool> = query.fetch_optional(connection).await?;
    Ok(cancel_requested.map(|cancel_requested| Recorded {
        acknowledged: last,
        cancel_requested,
    }))
}

/// How far an attempt is.
pub(super) async fn ask(pool: &PgPool, fence: Fence) -> Result<Recorded, StoreError> {
    let (last_event, cancel_requested): (i64, bool) = sqlx::query_as(
        "select a.last_event, s.cancel_requested
         from sessions s join attempts a on a.session_id = s.id and a.number = s.attempt
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
