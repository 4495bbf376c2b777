//! What both adapters decide alike.

use fabrica_core::clock::{IdSource, SystemClock, SystemEntropy};
use fabrica_core::failure::Failure;
use fabrica_core::ids::{Fence, MessageId, SessionId};
use fabrica_core::message::{MessageContent, MessageKind, NewMessage};
use fabrica_core::ports::StoreError;
use fabrica_core::ports::store::{AttemptEnd, EventRecord, Retired};
use fabrica_core::protocol::{TranscriptEntry, Usage};
use fabrica_core::session::SessionStatus;

use crate::values::plus;

/// An id for a message that the store itself writes.
fn message_id() -> MessageId {
    IdSource::new(&SystemClock, &SystemEntropy).message()
}

/// The message that tells why a claim ended the session.
pub(crate) fn retirement(retired: Retired, attempts: u32) -> NewMessage {
    let content = MessageContent::failure(&retired.failure(attempts));
    NewMessage {
        id: message_id(),
        kind: MessageKind::Error,
        content,
    }
}

/// The events after those that are stored; none of them may be missing.
pub(crate) fn unstored(
    fence: Fence,
    stored: u64,
    events: Vec<EventRecord>,
) -> Result<Vec<EventRecord>, StoreError> {
    let new: Vec<_> = events.into_iter().filter(|event| event.event > stored).collect();
    match (stored + 1..)
        .zip(&new)
        .find(|(expected, event)| *expected != event.event)
    {
        Some((expected, _)) => Err(StoreError::EventGap { fence, expected }),
        None => Ok(new),
    }
}

/// New events, taken apart by the table that they go to.
pub(crate) struct Batch {
    pub(crate) last_event: u64,
    pub(crate) messages: Vec<NewMessage>,
    pub(crate) transcript: Vec<(chrono::DateTime<chrono::Utc>, TranscriptEntry)>,
    pub(crate) usage: Usage,
    pub(crate) result: Option<serde_json::Value>,
}

impl Batch {
    /// Of at least one event.
    pub(crate) fn of(events: Vec<EventRecord>, stored: u64, usage: Usage) -> Self {
        let mut batch = Self {
            last_event: stored,
            messages: vec![],
            transcript: vec![],
            usage,
            result: None,
        };
        for event in events {
            batch.last_event = event.event;
            batch.messages.extend(event.messages);
            batch.transcript.extend(event.transcript);
            batch.usage = event.usage.map_or(batch.usage, |more| plus(batch.usage, more));
            batch.result = event.result.or(batch.result);
        }
        batch
    }
}

/// What an end of an attempt writes.
pub(crate) struct Ending {
    pub(crate) status: SessionStatus,
    pub(crate) outcome: &'static str,
    pub(crate) failure: Option<Failure>,
    pub(crate) delay: std::time::Duration,
}

impl Ending {
    pub(crate) fn of(
        session: SessionId,
        end: AttemptEnd,
        attempts_left: bool,
        cancel_requested: bool,
    ) -> Result<Self, StoreError> {
        let now = std::time::Duration::ZERO;
        let (status, outcome, failure, delay) = match end {
            AttemptEnd::Completed => (SessionStatus::Completed, "completed", None, now),
            AttemptEnd::Failed(failure) => (SessionStatus::Failed, "failed", Some(failure), now),
            AttemptEnd::Cancelled => (SessionStatus::Cancelled, "cancelled", None, now),
            AttemptEnd::Escalated => (SessionStatus::Escalated, "escalated", None, now),
            AttemptEnd::Lost { .. } if !attempts_left => return Err(StoreError::NoAttemptsLeft(session)),
            AttemptEnd::Lost { failure, delay } => (
                SessionStatus::Pending,
                "lost",
                Some(failure),
                if cancel_requested { now } else { delay },
            ),
        };
        Ok(Self {
            status,
            outcome,
            failure,
            delay,
        })
    }
}

/// What is said if a session's id comes again with another plan.
pub(crate) fn other_plan(id: SessionId) -> StoreError {
    StoreError::Database {
        message: format!("session {id} exists with another plan"),
        source: None,
    }
}
