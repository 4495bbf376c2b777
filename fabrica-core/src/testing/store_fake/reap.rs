//! Removing what is old.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::state::{Record, State, since};
use crate::ids::SessionId;
use crate::ports::store::{Reaped, Retention};

pub(super) fn reap(state: &mut State, retention: &Retention, limit: u32, now: DateTime<Utc>) -> Reaped {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut reaped = Reaped::default();
    if let Some(age) = retention.sessions {
        for id in ended(state, age, now).into_iter().take(limit) {
            state.sessions.remove(&id);
            reaped.sessions += 1;
        }
    }
    if let Some(age) = retention.transcripts {
        let removed = each(state, age, now, limit, |record, left| {
            let count = left.min(record.transcript.len());
            record.transcript.drain(..count);
            count
        });
        reaped.transcript_entries = removed;
    }
    if let Some(age) = retention.artifacts {
        let removed = each(state, age, now, limit, |record, left| {
            let names: Vec<String> = record.artifacts.keys().take(left).cloned().collect();
            for name in &names {
                record.artifacts.remove(name);
            }
            names.len()
        });
        reaped.artifacts = removed;
    }
    reaped
}

/// The sessions that ended longer ago, the oldest first.
fn ended(state: &State, age: Duration, now: DateTime<Utc>) -> Vec<SessionId> {
    let mut ended: Vec<_> = (state.sessions.values())
        .filter_map(|record| Some((record.session.completed_at?, record.session.id)))
        .filter(|(at, _)| since(*at, now) >= age)
        .collect();
    ended.sort_unstable();
    ended.into_iter().map(|(_, id)| id).collect()
}

/// Lets `remove` take from one session after the other, until that many are gone.
fn each(
    state: &mut State,
    age: Duration,
    now: DateTime<Utc>,
    limit: usize,
    remove: impl Fn(&mut Record, usize) -> usize,
) -> u64 {
    let mut left = limit;
    for id in ended(state, age, now) {
        if let Some(record) = state.sessions.get_mut(&id) {
            left -= remove(record, left);
        }
    }
    u64::try_from(limit - left).unwrap_or(u64::MAX)
}
