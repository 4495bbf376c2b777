//! Claiming and keeping leases.

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::state::{Record, State, later};
use crate::clock::IdSource;
use crate::ids::{Fence, SessionId, WorkerId};
use crate::message::{MessageContent, MessageKind, NewMessage};
use crate::ports::store::{ClaimRequest, Claimed, Notice, Retired, Storable as _};
use crate::session::SessionStatus;

pub(super) fn claim(
    state: &mut State,
    request: &ClaimRequest,
    now: DateTime<Utc>,
    ids: IdSource<'_>,
) -> (Vec<Claimed>, Vec<Notice>) {
    let mut due: Vec<(DateTime<Utc>, SessionId)> = (state.sessions.iter())
        .filter(|(id, _)| request.only.is_none_or(|only| only == **id))
        .filter(|(_, record)| is_due(record, request.only.is_some(), now))
        .map(|(id, record)| (record.run_at, *id))
        .collect();
    due.sort_unstable();
    let limit = usize::try_from(request.limit).unwrap_or(usize::MAX);
    let (mut claimed, mut notices) = (Vec::new(), Vec::new());
    for (_, id) in due {
        let Some(record) = state.sessions.get_mut(&id) else {
            continue;
        };
        if let Some(retired) = retired(record) {
            notices.push(retire(record, retired, now, ids));
        } else if claimed.len() < limit {
            claimed.extend(take(record, request, now));
        }
    }
    (claimed, notices)
}

pub(super) fn renew(
    state: &mut State,
    worker: &WorkerId,
    fences: &[Fence],
    until: DateTime<Utc>,
) -> Vec<Fence> {
    let worker = worker.clone().storable();
    let mut held = Vec::new();
    for fence in fences {
        let Ok(record) = state.fenced(*fence) else {
            continue;
        };
        if record.session.worker.as_ref() == Some(&worker) {
            record.run_at = until;
            held.push(*fence);
        }
    }
    held
}

fn is_due(record: &Record, alone: bool, now: DateTime<Utc>) -> bool {
    let new = record.session.status == SessionStatus::Pending && record.session.attempt.get() == 0;
    matches!(
        record.session.status,
        SessionStatus::Pending | SessionStatus::Running
    ) && (record.run_at <= now || (alone && new))
        && !record.specs.is_empty()
}

fn retired(record: &Record) -> Option<Retired> {
    let running = record.session.status == SessionStatus::Running;
    if record.session.cancel_requested {
        Some(Retired::Cancelled)
    } else if running && record.session.attempt.get() >= record.max_attempts {
        Some(Retired::Exhausted)
    } else {
        None
    }
}

fn retire(record: &mut Record, retired: Retired, now: DateTime<Utc>, ids: IdSource<'_>) -> Notice {
    record.set_status(retired.status(), now);
    let content = MessageContent::failure(&retired.failure(record.session.attempt.get()));
    record.add_message(
        NewMessage {
            id: ids.message(),
            kind: MessageKind::Error,
            content,
        },
        now,
    )
}

fn take(record: &mut Record, request: &ClaimRequest, now: DateTime<Utc>) -> Option<Claimed> {
    let spec = record.specs.last()?.clone();
    let unpublished = unpublished(record);
    record.session.attempt = record.session.attempt.next();
    record.session.worker = Some(request.worker.clone().storable());
    record.set_status(SessionStatus::Running, now);
    record.run_at = later(now, request.lease);
    record.latest();
    Some(Claimed {
        session: record.session.clone(),
        spec,
        max_attempts: record.max_attempts,
        unpublished,
    })
}

/// The result of the latest attempt that has one or was finished, unless it was finished.
fn unpublished(record: &Record) -> Option<Value> {
    let latest = record
        .attempts
        .iter()
        .rev()
        .find(|attempt| attempt.finished || attempt.result.is_some())?;
    if latest.finished {
        None
    } else {
        latest.result.clone()
    }
}
