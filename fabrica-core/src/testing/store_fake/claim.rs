//! Claiming and keeping leases.

use std::cmp::Reverse;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::state::{Record, State, later, since};
use crate::clock::IdSource;
use crate::ids::{Fence, SessionId, WorkerId};
use crate::message::{MessageContent, MessageKind, NewMessage};
use crate::ports::store::{
    AttemptStart, ClaimLimits, ClaimRequest, Claimed, Notice, Resumed, Retired, Storable as _,
};
use crate::session::SessionStatus;

pub(super) fn claim(
    state: &mut State,
    request: &ClaimRequest,
    now: DateTime<Utc>,
    ids: IdSource<'_>,
) -> (Vec<Claimed>, Vec<Notice>) {
    let worker = request.worker.clone().storable();
    let mut claimed = take_over(state, request, &worker, now);
    let notices = retire(state, request.only, now, ids);
    for _ in 0..request.limit {
        let Some(id) = next(state, request, now) else {
            break;
        };
        let record = state.sessions.get_mut(&id);
        claimed.extend(record.and_then(|record| take(record, &worker, request.lease, now)));
    }
    (claimed, notices)
}

/// Running sessions that nobody holds, the one that waited longest first.
fn take_over(
    state: &mut State,
    request: &ClaimRequest,
    worker: &WorkerId,
    now: DateTime<Utc>,
) -> Vec<Claimed> {
    let mut due: Vec<&mut Record> = (state.sessions.values_mut())
        .filter(|record| request.only.is_none_or(|only| only == record.session.id))
        .filter(|record| record.session.status == SessionStatus::Running && record.run_at <= now)
        .collect();
    due.sort_by_key(|record| (record.run_at, record.session.id));
    due.truncate(usize::try_from(request.takeovers).unwrap_or(usize::MAX));
    due.into_iter()
        .filter_map(|record| {
            let title = record.session.title.clone().unwrap_or_default();
            let attempt = record.latest();
            let resumed = Resumed {
                start: attempt.start.clone().map(|start| AttemptStart { title, ..start }),
                last_event: attempt.last_event,
                age: since(attempt.started_at, now),
            };
            hold(record, worker, request.lease, now, Some(resumed))
        })
        .collect()
}

/// Ends the sessions that are not to be run again.
fn retire(state: &mut State, only: Option<SessionId>, now: DateTime<Utc>, ids: IdSource<'_>) -> Vec<Notice> {
    (state.sessions.values_mut())
        .filter(|record| only.is_none_or(|only| only == record.session.id))
        .filter(|record| record.session.status == SessionStatus::Pending && record.run_at <= now)
        .filter(|record| record.session.cancel_requested)
        .map(|record| {
            record.set_status(Retired::STATUS, now);
            let message = NewMessage {
                id: ids.message(),
                kind: MessageKind::Error,
                content: MessageContent::failure(&Retired::failure()),
            };
            record.add_message(message, now)
        })
        .collect()
}

/// Whose turn it is among those that wait.
fn next(state: &State, request: &ClaimRequest, now: DateTime<Utc>) -> Option<SessionId> {
    let running = |same: &dyn Fn(&Record) -> bool| {
        let running = (state.sessions.values())
            .filter(|record| record.session.status == SessionStatus::Running && same(record))
            .count();
        u32::try_from(running).unwrap_or(u32::MAX)
    };
    let of_submitter = |one: &Record| running(&|other| other.submitter() == one.submitter());
    let on_repository = |one: &Record| running(&|other| other.session.repo_url == one.session.repo_url);
    let room = |count: u32, limit: Option<u32>| limit.is_none_or(|limit| count < limit);
    let ClaimLimits {
        global,
        per_repository,
        per_submitter,
    } = request.limits;
    (state.sessions.values())
        .filter(|record| record.session.status == SessionStatus::Pending && !record.session.cancel_requested)
        .filter(|record| !record.specs.is_empty())
        .filter(|record| match request.only {
            Some(only) => {
                only == record.session.id && (record.run_at <= now || record.session.attempt.get() == 0)
            }
            None => {
                record.run_at <= now
                    && room(running(&|_| true), global)
                    && room(on_repository(record), per_repository)
                    && room(of_submitter(record), per_submitter)
            }
        })
        .min_by_key(|record| {
            (
                Reverse(record.priority),
                of_submitter(record),
                record.run_at,
                record.session.id,
            )
        })
        .map(|record| record.session.id)
}

/// A new attempt.
fn take(record: &mut Record, worker: &WorkerId, lease: Duration, now: DateTime<Utc>) -> Option<Claimed> {
    record.session.attempt = record.session.attempt.next();
    record.set_status(SessionStatus::Running, now);
    record.latest().started_at = now;
    hold(record, worker, lease, now, None)
}

fn hold(
    record: &mut Record,
    worker: &WorkerId,
    lease: Duration,
    now: DateTime<Utc>,
    resumed: Option<Resumed>,
) -> Option<Claimed> {
    record.lease = record.lease.next();
    record.session.worker = Some(worker.clone());
    record.run_at = later(now, lease);
    Some(Claimed {
        session: record.session.clone(),
        spec: record.specs.last()?.clone(),
        max_attempts: record.max_attempts,
        lease: record.lease,
        resumed,
        reported: reported(record),
        checkpoint: record.checkpoint.clone(),
        answered: record.answered(),
    })
}

/// The result of the latest attempt that has one or was finished, unless it was finished.
fn reported(record: &Record) -> Option<Value> {
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

/// Ends leases; returns a notice for each.
pub(super) fn release(
    state: &mut State,
    worker: &WorkerId,
    only: Option<&[Fence]>,
    now: DateTime<Utc>,
) -> Vec<Notice> {
    let worker = worker.clone().storable();
    (state.sessions.values_mut())
        .filter(|record| record.session.worker.as_ref() == Some(&worker))
        .filter(|record| only.is_none_or(|only| only.contains(&record.fence())))
        .map(|record| {
            record.session.worker = None;
            record.run_at = now;
            Notice::Claimable
        })
        .collect()
}
