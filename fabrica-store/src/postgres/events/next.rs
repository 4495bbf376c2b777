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
/// messages, `$7` how many transcript entries, `$8` to `$13` usage. Of each message: `$14` its delivery's place, `$15` its
/// place in the delivery, `$16` to `$18` its columns.
macro_rules! write_next {
    ($entries:literal) => {
        concat!(
            "with wanted as (
                 select * from unnest($1::uuid[], $2::int[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
                                      $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[],
                                      $12::float8[], $13::bigint[]) with ordinality
                      as w (session_id, attempt, lease, before, last_event, messages, entries, input_tokens, output_tokens,
                            cache_read_tokens, cache_write_tokens, cost_usd, turns, place)
             ), locked as (
                 select s.id from wanted w join sessions s on s.id = w.session_id
                 where s.attempt = w.attempt and s.lease = w.lease and s.status = 'running' and s.last_event = w.before
                 for no key update of s skip locked
             ), session as (
                 update sessions s
                 set last_event = w.last_event, message_seq = s.message_seq + w.messages,
                     transcript_seq = s.transcript_seq + w.entries,
                     input_tokens = greatest(s.input_tokens, 0) + w.input_tokens,
                     output_tokens = greatest(s.output_tokens, 0) + w.output_tokens,
                     cache_read_tokens = greatest(s.cache_read_tokens, 0) + w.cache_read_tokens,
                     cache_write_tokens = greatest(s.cache_write_tokens, 0) + w.cache_write_tokens,
                     cost_usd = s.cost_usd + w.cost_usd, turns = greatest(s.turns, 0) + w.turns
                 from locked l join wanted w on w.session_id = l.id
                 where s.id = l.id
                 returning w.place, s.id, s.attempt, s.cancel_requested, s.message_seq - w.messages as message_seq,
                           s.transcript_seq - w.entries as transcript_seq
             ), message as (
                 insert into messages (id, session_id, type, content, seq)
                 select m.id, s.id, m.type, m.content::jsonb, s.message_seq + m.place
                 from session s
                 join unnest($14::bigint[], $15::bigint[], $16::uuid[], $17::text[], $18::text[])
                      as m (delivery, place, id, type, content) on m.delivery = s.place
             )",
            $entries,
            " select s.place - 1, s.cancel_requested from session s"
        )
    };
}

const WRITE_MESSAGES: &str = write_next!("");

/// With transcript entries: `$19` each one's delivery's place, `$20` its place in the delivery, `$21` to `$25` its columns.
const WRITE_ALL: &str = write_next!(
    ", entry as (
         insert into transcript (session_id, attempt, seq, at, kind, parent, summary, detail)
         select s.id, s.attempt, s.transcript_seq + t.place, t.at, t.kind, t.parent, t.summary, t.detail::jsonb
         from session s
         join unnest($19::bigint[], $20::bigint[], $21::timestamptz[], $22::text[], $23::text[], $24::text[], $25::text[])
              as t (delivery, place, at, kind, parent, summary, detail) on t.delivery = s.place
     )"
);

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
        let with_entries = !self.entry_places.is_empty();
        let query = sqlx::query_as(if with_entries { WRITE_ALL } else { WRITE_MESSAGES });
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
            .bind(usage(|usage| usage.input_tokens))
            .bind(usage(|usage| usage.output_tokens))
            .bind(usage(|usage| usage.cache_read_tokens))
            .bind(usage(|usage| usage.cache_write_tokens))
            .bind(self.usages.iter().map(|usage| usage.cost_usd).collect::<Vec<_>>())
            .bind(usage(|usage| u64::from(usage.turns)))
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
