//! Deliveries that are exactly what comes next, which most are: one statement for everything that they bring.

use fabrica_core::ids::Fence;
use fabrica_core::ports::store::Recorded;
use fabrica_core::protocol::Usage;
use sqlx::PgConnection;

use super::EntryTexts;
use crate::events::{Batch, Delivery, MessageText};
use crate::group::Settled;
use crate::values::{bigint, integer};

/// Deliveries in one statement, and so in one round trip: everything is given as a difference, and the statement meets
/// only sessions of which the delivery is exactly what comes next, and which nobody else has locked.
///
/// Of each delivery: `$1` session, `$2` attempt, `$3` lease, `$4` the event before it, `$5` its last event, `$6` how many
/// messages, `$7` how many transcript entries. Of each message: `$8` its delivery's place, `$9` its place in the delivery,
/// `$10` to `$12` its columns. What costs time even where there is none of it is only there if any delivery has it: of each
/// delivery its usage, and transcript entries.
macro_rules! write_next {
    ($usage:literal, $names:literal, $sums:literal, $entries:expr) => {
        concat!(
            "with wanted as (
                 select w.*
                 from unnest($1::uuid[], $2::int[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[]",
            $usage,
            ") with ordinality as w (session_id, attempt, lease, before, last_event, messages, entries",
            $names,
            ", place)
                 join sessions s on s.id = w.session_id
                 where s.attempt = w.attempt and s.lease = w.lease and s.status = 'running' and s.last_event = w.before
                 for no key update of s skip locked
             ), session as (
                 update sessions s
                 set last_event = w.last_event, message_seq = s.message_seq + w.messages,
                     transcript_seq = s.transcript_seq + w.entries",
            $sums,
            " from wanted w
                 where s.id = w.session_id
                 returning w.place, s.id, s.attempt, s.cancel_requested, s.message_seq - w.messages as message_seq,
                           s.transcript_seq - w.entries as transcript_seq
             ), message as (
                 insert into messages (id, session_id, type, content, seq)
                 select m.id, s.id, m.type, m.content::jsonb, s.message_seq + m.place
                 from session s
                 join unnest($8::bigint[], $9::bigint[], $10::uuid[], $11::text[], $12::text[])
                      as m (delivery, place, id, type, content) on m.delivery = s.place
             )",
            $entries,
            " select s.place - 1, s.cancel_requested from session s"
        )
    };
}

/// With `$13` to `$18` each delivery's usage.
macro_rules! write_next_and_usage {
    ($entries:expr) => {
        write_next!(
            ", $13::bigint[], $14::bigint[], $15::bigint[], $16::bigint[], $17::float8[], $18::bigint[]",
            ", input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, cost_usd, turns",
            ", input_tokens = greatest(s.input_tokens, 0) + w.input_tokens,
               output_tokens = greatest(s.output_tokens, 0) + w.output_tokens,
               cache_read_tokens = greatest(s.cache_read_tokens, 0) + w.cache_read_tokens,
               cache_write_tokens = greatest(s.cache_write_tokens, 0) + w.cache_write_tokens,
               cost_usd = s.cost_usd + w.cost_usd, turns = greatest(s.turns, 0) + w.turns",
            $entries
        )
    };
}

/// Transcript entries: their deliveries' places, their places in the delivery, and their columns.
macro_rules! entries {
    ($of:literal, $place:literal, $at:literal, $kind:literal, $parent:literal, $summary:literal, $detail:literal) => {
        concat!(
            ", entry as (
                 insert into transcript (session_id, attempt, seq, at, kind, parent, summary, detail)
                 select s.id, s.attempt, s.transcript_seq + t.place, t.at, t.kind, t.parent, t.summary, t.detail::jsonb
                 from session s
                 join unnest(",
            $of, "::bigint[], ", $place, "::bigint[], ", $at, "::timestamptz[], ", $kind, "::text[], ", $parent,
            "::text[], ", $summary, "::text[], ", $detail,
            "::text[]) as t (delivery, place, at, kind, parent, summary, detail) on t.delivery = s.place
             )"
        )
    };
}

const WRITE_MESSAGES: &str = write_next!("", "", "", "");
const WRITE_ENTRIES: &str = write_next!(
    "",
    "",
    "",
    entries!("$13", "$14", "$15", "$16", "$17", "$18", "$19")
);
const WRITE_USAGE: &str = write_next_and_usage!("");
const WRITE_ALL: &str = write_next_and_usage!(entries!("$19", "$20", "$21", "$22", "$23", "$24", "$25"));

/// Writes those deliveries that are exactly what comes next, under the current lease, bring nothing rare, and whose sessions
/// nobody else has locked; the others are left open.
pub(in crate::postgres) async fn write_next(
    connection: &mut PgConnection,
    deliveries: &[&Delivery],
) -> Result<Vec<Settled<Recorded>>, sqlx::Error> {
    let mut next = Next::default();
    let mut settled: Vec<Settled<Recorded>> = deliveries.iter().map(|_| None).collect();
    for (index, delivery) in deliveries.iter().enumerate() {
        next.add(index, delivery);
    }
    if next.places.is_empty() {
        return Ok(settled);
    }
    let (places, lasts) = (next.places.clone(), next.lasts.clone());
    for (place, cancel_requested) in next.execute(connection).await? {
        let place = usize::try_from(place).unwrap_or(usize::MAX);
        if let (Some(index), Some(last)) = (places.get(place), lasts.get(place))
            && let Some(settled) = settled.get_mut(*index)
        {
            *settled = Some(Ok(Recorded {
                acknowledged: last.unsigned_abs(),
                cancel_requested,
            }));
        }
    }
    Ok(settled)
}

/// The parameters of [`write_next!`].
#[derive(Default)]
struct Next<'a> {
    /// Of each delivery, its place among all.
    places: Vec<usize>,
    fences: Vec<Fence>,
    befores: Vec<i64>,
    lasts: Vec<i64>,
    messages: Vec<i64>,
    entries: Vec<i64>,
    usages: Vec<Usage>,
    message_texts: Vec<(i64, i64, &'a MessageText)>,
    entry_places: Vec<(i64, i64)>,
    entry_texts: EntryTexts<'a>,
}

impl<'a> Next<'a> {
    fn add(&mut self, place: usize, delivery: &'a Delivery) {
        let Some((first, last)) = delivery.range() else {
            return;
        };
        let batch = Batch::of(&delivery.events, Usage::default());
        if batch.is_rare() {
            return;
        }
        self.places.push(place);
        self.fences.push(delivery.fence);
        self.befores.push(bigint(first - 1));
        self.lasts.push(bigint(last));
        self.messages.push(bigint(batch.messages.len() as u64));
        self.entries.push(bigint(batch.transcript.len() as u64));
        self.usages.push(batch.usage);
        let of = bigint(self.places.len() as u64);
        for (place, message) in (1..).zip(batch.messages) {
            self.message_texts.push((of, place, message));
        }
        for (place, entry) in (1..).zip(batch.transcript) {
            self.entry_places.push((of, place));
            self.entry_texts.add(entry);
        }
    }

    /// The places, from 0, of the deliveries that were written, and whether their sessions shall be cancelled.
    async fn execute(self, connection: &mut PgConnection) -> Result<Vec<(i64, bool)>, sqlx::Error> {
        let fences = &self.fences;
        let usage = |value: fn(&Usage) -> u64| -> Vec<i64> {
            self.usages.iter().map(|usage| bigint(value(usage))).collect()
        };
        let with_usage = self.usages.iter().any(|usage| *usage != Usage::default());
        let with_entries = !self.entry_places.is_empty();
        let query = sqlx::query_as(match (with_usage, with_entries) {
            (false, false) => WRITE_MESSAGES,
            (false, true) => WRITE_ENTRIES,
            (true, false) => WRITE_USAGE,
            (true, true) => WRITE_ALL,
        });
        let query = query
            .bind(
                fences
                    .iter()
                    .map(|fence| *fence.session.as_uuid())
                    .collect::<Vec<_>>(),
            )
            .bind(
                fences
                    .iter()
                    .map(|fence| integer(fence.attempt.get()))
                    .collect::<Vec<_>>(),
            )
            .bind(
                fences
                    .iter()
                    .map(|fence| bigint(fence.lease.get()))
                    .collect::<Vec<_>>(),
            )
            .bind(self.befores)
            .bind(self.lasts)
            .bind(self.messages)
            .bind(self.entries)
            .bind(
                self.message_texts
                    .iter()
                    .map(|(of, _, _)| *of)
                    .collect::<Vec<_>>(),
            )
            .bind(
                self.message_texts
                    .iter()
                    .map(|(_, place, _)| *place)
                    .collect::<Vec<_>>(),
            )
            .bind(
                self.message_texts
                    .iter()
                    .map(|(_, _, message)| message.id)
                    .collect::<Vec<_>>(),
            )
            .bind(
                self.message_texts
                    .iter()
                    .map(|(_, _, message)| message.kind)
                    .collect::<Vec<_>>(),
            )
            .bind(
                self.message_texts
                    .iter()
                    .map(|(_, _, message)| message.content.as_str())
                    .collect::<Vec<_>>(),
            );
        let query = if with_usage {
            query
                .bind(usage(|usage| usage.input_tokens))
                .bind(usage(|usage| usage.output_tokens))
                .bind(usage(|usage| usage.cache_read_tokens))
                .bind(usage(|usage| usage.cache_write_tokens))
                .bind(self.usages.iter().map(|usage| usage.cost_usd).collect::<Vec<_>>())
                .bind(usage(|usage| u64::from(usage.turns)))
        } else {
            query
        };
        let query = if with_entries {
            query
                .bind(self.entry_places.iter().map(|(of, _)| *of).collect::<Vec<_>>())
                .bind(
                    self.entry_places
                        .iter()
                        .map(|(_, place)| *place)
                        .collect::<Vec<_>>(),
                )
                .bind(self.entry_texts.ats)
                .bind(self.entry_texts.kinds)
                .bind(self.entry_texts.parents)
                .bind(self.entry_texts.summaries)
                .bind(self.entry_texts.details)
        } else {
            query
        };
        query.fetch_all(connection).await
    }
}
