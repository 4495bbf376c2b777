//! What is written for the sessions that a transaction holds.

use fabrica_core::ids::Fence;
use fabrica_core::ports::store::Recorded;

use crate::events::{Batch, Delivery};
use crate::group::Settled;
use crate::rows::UsageRow;

/// What has to be known of a session that is recorded for.
#[derive(sqlx::FromRow)]
pub(crate) struct Held {
    /// Its place among those that were asked for, from 0.
    pub(crate) place: i64,
    pub(crate) message_seq: i64,
    pub(crate) transcript_seq: i64,
    pub(crate) cancel_requested: bool,
    pub(crate) last_event: i64,
    #[sqlx(flatten)]
    pub(crate) usage: UsageRow,
}

/// What is written for one session.
pub(crate) struct Write<'a> {
    pub(crate) fence: Fence,
    /// The number of the last message that is stored.
    pub(crate) message_seq: i64,
    /// The number of the last transcript entry that is stored.
    pub(crate) transcript_seq: i64,
    pub(crate) batch: Batch<'a>,
}

impl Write<'_> {
    /// The number of the last message afterwards.
    pub(crate) fn messages_end(&self) -> i64 {
        self.message_seq
            .saturating_add_unsigned(self.batch.messages.len() as u64)
    }

    /// The number of the last transcript entry afterwards.
    pub(crate) fn transcript_end(&self) -> i64 {
        self.transcript_seq
            .saturating_add_unsigned(self.batch.transcript.len() as u64)
    }
}

/// Decides what is written for the sessions that are held, and what their callers are told once it is committed. The
/// others are left open.
pub(crate) fn settle<'a>(
    deliveries: &[&'a Delivery],
    held: &[Held],
) -> (Vec<Settled<Recorded>>, Vec<Write<'a>>) {
    let mut settled: Vec<_> = deliveries.iter().map(|_| None).collect();
    let mut writes = Vec::with_capacity(held.len());
    for held in held {
        let place = usize::try_from(held.place).unwrap_or(usize::MAX);
        let (Some(delivery), Some(outcome)) = (deliveries.get(place), settled.get_mut(place)) else {
            continue;
        };
        let stored = held.last_event.unsigned_abs();
        let recorded = |acknowledged| Recorded {
            acknowledged,
            cancel_requested: held.cancel_requested,
        };
        *outcome = Some(match delivery.unstored(stored) {
            Err(gap) => Err(gap),
            Ok(new) if new.is_empty() => Ok(recorded(stored)),
            Ok(new) => {
                let batch = Batch::of(new, held.usage.usage());
                let last = batch.last_event;
                writes.push(Write {
                    fence: delivery.fence,
                    message_seq: held.message_seq,
                    transcript_seq: held.transcript_seq,
                    batch,
                });
                Ok(recorded(last))
            }
        });
    }
    (settled, writes)
}
