//! One delivery that is exactly what comes next, alone: one statement, which waits for whoever has locked the session.

use fabrica_core::ports::store::Recorded;
use fabrica_core::protocol::Usage;
use sqlx::PgConnection;

use super::EntryTexts;
use crate::events::{Batch, Delivery, EntryText, MessageText};
use crate::values::{bigint, integer};

/// What most deliveries are, one message or one transcript entry and nothing else: the server needs less time for a statement
/// without lists, and without additions of zero.
macro_rules! write_single {
    ($counter:literal, $insert:literal) => {
        concat!(
            "with session as (
                 update sessions s set last_event = $5, ", $counter, " = s.", $counter, " + 1
                 where s.id = $1 and s.attempt = $2 and s.lease = $3 and s.status = 'running' and s.last_event = $4
                 returning s.id, s.cancel_requested, s.", $counter, " as seq
             ), inserted as (",
            $insert,
            ") select s.cancel_requested from session s"
        )
    };
}

const WRITE_MESSAGE: &str = write_single!(
    "message_seq",
    "insert into messages (id, session_id, type, content, seq)
     select $6::uuid, s.id, $7::text, $8::text::jsonb, s.seq from session s"
);

const WRITE_ENTRY: &str = write_single!(
    "transcript_seq",
    "insert into transcript (session_id, attempt, seq, at, kind, parent, summary, detail)
     select s.id, $2, s.seq, $6::timestamptz, $7::text, $8::text, $9::text, $10::text::jsonb from session s"
);

/// One delivery without anything rare in one statement, and so in one round trip: everything is given as a difference, and the
/// statement meets no row unless the delivery is exactly what comes next.
macro_rules! write_one {
    ($messages:expr, $entries:expr) => {
        concat!(
            "with session as (
                 update sessions s
                 set last_event = $5, message_seq = s.message_seq + $6, transcript_seq = s.transcript_seq + $7,
                     input_tokens = greatest(s.input_tokens, 0) + $8,
                     output_tokens = greatest(s.output_tokens, 0) + $9,
                     cache_read_tokens = greatest(s.cache_read_tokens, 0) + $10,
                     cache_write_tokens = greatest(s.cache_write_tokens, 0) + $11,
                     cost_usd = s.cost_usd + $12, turns = greatest(s.turns, 0) + $13
                 where s.id = $1 and s.attempt = $2 and s.lease = $3 and s.status = 'running' and s.last_event = $4
                 returning s.id, s.cancel_requested, s.message_seq - $6 as message_seq,
                           s.transcript_seq - $7 as transcript_seq
             )",
            $messages,
            $entries,
            " select s.cancel_requested from session s"
        )
    };
}

macro_rules! one_messages {
    () => {
        ", message as (
             insert into messages (id, session_id, type, content, seq)
             select m.id, s.id, m.type, m.content::jsonb, s.message_seq + m.place
             from session s, unnest($14::uuid[], $15::text[], $16::text[]) with ordinality as m (id, type, content, place)
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

/// `None` if it is not exactly what comes next, or not under the current lease, or brings something rare.
pub(in crate::postgres) async fn write_one(
    connection: &mut PgConnection,
    delivery: &Delivery,
) -> Result<Option<Recorded>, sqlx::Error> {
    let Some((first, last)) = delivery.range() else {
        return Ok(None);
    };
    let batch = Batch::of(&delivery.events, Usage::default());
    if batch.is_rare() {
        return Ok(None);
    }
    let Batch {
        messages,
        transcript,
        usage,
        ..
    } = batch;
    let single = match (messages.as_slice(), transcript.as_slice()) {
        _ if usage != Usage::default() => None,
        ([message], []) => Some(Single::Message(message)),
        ([], [entry]) => Some(Single::Entry(entry)),
        _ => None,
    };
    if let Some(single) = single {
        let cancel_requested = write_single(connection, delivery, (first, last), single).await?;
        return Ok(recorded(last, cancel_requested));
    }
    let statement = match (messages.is_empty(), transcript.is_empty()) {
        (true, true) => write_one!("", ""),
        (false, true) => write_one!(one_messages!(), ""),
        (true, false) => write_one!("", one_entries!("$14", "$15", "$16", "$17", "$18")),
        (false, false) => {
            write_one!(one_messages!(), one_entries!("$17", "$18", "$19", "$20", "$21"))
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
        .bind(i64::from(usage.turns));
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
    Ok(recorded(last, query.fetch_optional(connection).await?))
}

/// What a delivery has alone.
enum Single<'a> {
    Message(&'a MessageText),
    Entry(&'a EntryText),
}

async fn write_single(
    connection: &mut PgConnection,
    delivery: &Delivery,
    (first, last): (u64, u64),
    single: Single<'_>,
) -> Result<Option<bool>, sqlx::Error> {
    let query = sqlx::query_scalar(match single {
        Single::Message(_) => WRITE_MESSAGE,
        Single::Entry(_) => WRITE_ENTRY,
    })
    .bind(delivery.fence.session.as_uuid())
    .bind(integer(delivery.fence.attempt.get()))
    .bind(bigint(delivery.fence.lease.get()))
    .bind(bigint(first - 1))
    .bind(bigint(last));
    match single {
        Single::Message(message) => query.bind(message.id).bind(message.kind).bind(&message.content),
        Single::Entry(entry) => query
            .bind(entry.at)
            .bind(&entry.kind)
            .bind(&entry.parent)
            .bind(&entry.summary)
            .bind(&entry.detail),
    }
    .fetch_optional(connection)
    .await
}

fn recorded(last: u64, cancel_requested: Option<bool>) -> Option<Recorded> {
    cancel_requested.map(|cancel_requested| Recorded {
        acknowledged: last,
        cancel_requested,
    })
}
