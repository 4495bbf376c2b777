//! What only the current attempt may do.

use chrono::{DateTime, Utc};

use super::asking;
use super::state::{Record, later};
use crate::ids::Fence;
use crate::message::NewMessage;
use crate::ports::store::{
    AttemptEnd, AttemptStart, EventRecord, MAX_UNCOUNTED_ATTEMPTS, Notice, Recorded, StoreError,
    StoredTranscript,
};
use crate::session::SessionStatus;

pub(super) fn start(record: &mut Record, start: AttemptStart) {
    record.session.branch_name = Some(start.branch.clone());
    record.session.title.get_or_insert_with(|| start.title.clone());
    record.latest().start = Some(start);
}

pub(super) fn add_messages(
    record: &mut Record,
    messages: Vec<NewMessage>,
    now: DateTime<Utc>,
) -> Vec<Notice> {
    messages
        .into_iter()
        .map(|message| record.add_message(message, now))
        .collect()
}

pub(super) fn record(
    record: &mut Record,
    fence: Fence,
    events: Vec<EventRecord>,
    now: DateTime<Utc>,
) -> Result<(Recorded, Vec<Notice>), StoreError> {
    let stored = record.latest().last_event;
    let new: Vec<_> = events.into_iter().filter(|event| event.event > stored).collect();
    for (expected, event) in (stored + 1..).zip(&new) {
        if event.event != expected {
            return Err(StoreError::EventGap { fence, expected });
        }
    }
    let mut notices = Vec::new();
    for event in new {
        notices.extend(record_one(record, event, now));
    }
    let acknowledged = record.latest().last_event;
    Ok((
        Recorded {
            acknowledged,
            cancel_requested: record.session.cancel_requested,
        },
        notices,
    ))
}

fn record_one(record: &mut Record, event: EventRecord, now: DateTime<Utc>) -> Vec<Notice> {
    if let Some((at, entry)) = event.transcript {
        record.transcript_sequence += 1;
        let sequence = record.transcript_sequence;
        let attempt = record.session.attempt;
        record.transcript.push(StoredTranscript {
            sequence,
            attempt,
            at,
            entry,
        });
    }
    if let Some(checkpoint) = event.checkpoint {
        record.checkpoint = Some((record.session.attempt, checkpoint));
    }
    if let Some(usage) = event.usage {
        record.session.usage = record.session.usage.plus(usage);
    }
    let attempt = record.latest();
    attempt.last_event = event.event;
    if event.result.is_some() {
        attempt.result = event.result;
    }
    add_messages(record, event.messages, now)
}

pub(super) fn finish(
    record: &mut Record,
    fence: Fence,
    end: AttemptEnd,
    messages: Vec<NewMessage>,
    now: DateTime<Utc>,
) -> Result<(SessionStatus, Vec<Notice>), StoreError> {
    let lost = matches!(end, AttemptEnd::Lost { .. });
    let status = match &end {
        AttemptEnd::Completed { heard } if record.notes.iter().any(|note| note.number > *heard) => {
            record.max_attempts = record.max_attempts.saturating_add(1);
            SessionStatus::Pending
        }
        AttemptEnd::Completed { .. } => SessionStatus::Completed,
        AttemptEnd::Failed(_) => SessionStatus::Failed,
        AttemptEnd::Cancelled => SessionStatus::Cancelled,
        AttemptEnd::Escalated(_) => SessionStatus::Escalated,
        AttemptEnd::Lost { counts: false, .. } if record.uncounted < MAX_UNCOUNTED_ATTEMPTS => {
            record.uncounted += 1;
            record.max_attempts += 1;
            SessionStatus::Pending
        }
        AttemptEnd::Lost { .. } if record.session.attempt.get() >= record.max_attempts => {
            return Err(StoreError::NoAttemptsLeft(fence.session));
        }
        AttemptEnd::Lost { .. } => SessionStatus::Pending,
    };
    record.run_at = match &end {
        AttemptEnd::Lost { delay, .. } if !record.session.cancel_requested => later(now, *delay),
        _ => now,
    };
    if let AttemptEnd::Escalated(question) = end {
        asking::ask(record, fence, question, now);
    }
    record.latest().finished = !lost;
    record.set_status(status, now);
    let mut notices = add_messages(record, messages, now);
    if status == SessionStatus::Pending && record.run_at <= now {
        notices.push(Notice::Claimable);
    }
    Ok((status, notices))
}
