//! Whose turn it is: which of the sessions that wait are claimed, and in which order. Submitters and repositories are only
//! compared, so an adapter may give anything that tells them apart.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};

use chrono::{DateTime, Utc};
use fabrica_core::ids::SessionId;
use fabrica_core::ports::store::ClaimLimits;
use sqlx::types::Uuid;

use crate::values::Moment;

/// A session that waits. The order is that of the fields: by submitter, then as that submitter's own are claimed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Waiting {
    /// The same for all those without one.
    pub(crate) submitter: String,
    priority: Reverse<i32>,
    run_at: DateTime<Utc>,
    pub(crate) id: SessionId,
    repository: String,
}

#[derive(sqlx::FromRow)]
pub(crate) struct WaitingRow {
    id: Uuid,
    submitter: String,
    repository: String,
    priority: i32,
    run_at: Moment,
}

impl From<WaitingRow> for Waiting {
    fn from(row: WaitingRow) -> Self {
        Self {
            submitter: row.submitter,
            priority: Reverse(row.priority),
            run_at: row.run_at.0,
            id: SessionId::from_uuid(row.id),
            repository: row.repository,
        }
    }
}

/// How many sessions of one submitter run on one repository.
#[derive(sqlx::FromRow)]
pub(crate) struct RunningRow {
    submitter: String,
    repository: String,
    sessions: i64,
}

/// How many sessions run.
#[derive(Debug, Default)]
pub(crate) struct Running {
    total: u64,
    of_submitter: HashMap<String, u64>,
    on_repository: HashMap<String, u64>,
}

impl Running {
    pub(crate) fn of(rows: Vec<RunningRow>) -> Self {
        let mut running = Self::default();
        for row in rows {
            running.add(row.submitter, row.repository, row.sessions.unsigned_abs());
        }
        running
    }

    fn add(&mut self, submitter: String, repository: String, sessions: u64) {
        self.total += sessions;
        *self.of_submitter.entry(submitter).or_default() += sessions;
        *self.on_repository.entry(repository).or_default() += sessions;
    }

    fn of_submitter(&self, submitter: &str) -> u64 {
        self.of_submitter.get(submitter).copied().unwrap_or(0)
    }

    fn on_repository(&self, repository: &str) -> u64 {
        self.on_repository.get(repository).copied().unwrap_or(0)
    }
}

/// Whether one more would be too many.
fn full(running: u64, limit: Option<u32>) -> bool {
    limit.is_some_and(|limit| running >= u64::from(limit))
}

/// Whose turn it is, of at most that many: by priority; then by how many sessions of the submitter run, with those that
/// were chosen before it; then by how long it has waited.
pub(crate) fn choose(
    waiting: Vec<Waiting>,
    mut running: Running,
    limits: &ClaimLimits,
    wanted: usize,
) -> Vec<SessionId> {
    let mut queues: BTreeMap<String, VecDeque<Waiting>> = BTreeMap::new();
    for one in waiting {
        queues.entry(one.submitter.clone()).or_default().push_back(one);
    }
    for queue in queues.values_mut() {
        queue.make_contiguous().sort_unstable();
    }
    let turn = |one: &Waiting, running: &Running| {
        Reverse((
            one.priority,
            running.of_submitter(&one.submitter),
            one.run_at,
            one.id,
            one.submitter.clone(),
        ))
    };
    let mut turns: BinaryHeap<_> = queues
        .values()
        .filter_map(|queue| queue.front())
        .map(|first| turn(first, &running))
        .collect();
    let mut chosen = Vec::new();
    while chosen.len() < wanted && !full(running.total, limits.global) {
        let Some(Reverse((.., submitter))) = turns.pop() else {
            break;
        };
        if full(running.of_submitter(&submitter), limits.per_submitter) {
            continue;
        }
        let Some(queue) = queues.get_mut(&submitter) else {
            continue;
        };
        if let Some(first) = queue.pop_front()
            && !full(running.on_repository(&first.repository), limits.per_repository)
        {
            chosen.push(first.id);
            running.add(first.submitter, first.repository, 1);
        }
        turns.extend(queue.front().map(|next| turn(next, &running)));
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(id: u128, submitter: &str, repository: &str, priority: i32) -> Waiting {
        Waiting {
            submitter: submitter.into(),
            priority: Reverse(priority),
            run_at: DateTime::UNIX_EPOCH,
            id: SessionId::from_uuid(Uuid::from_u128(id)),
            repository: repository.into(),
        }
    }

    fn chosen(waiting: Vec<Waiting>, running: &[(&str, &str, i64)], limits: ClaimLimits) -> Vec<u128> {
        let rows = running
            .iter()
            .map(|(submitter, repository, sessions)| RunningRow {
                submitter: (*submitter).into(),
                repository: (*repository).into(),
                sessions: *sessions,
            })
            .collect();
        choose(waiting, Running::of(rows), &limits, usize::MAX)
            .into_iter()
            .map(|id| id.as_uuid().as_u128())
            .collect()
    }

    #[test]
    fn submitters_take_turns_within_a_priority() {
        let all = vec![
            waiting(1, "a", "r", 0),
            waiting(2, "a", "r", 0),
            waiting(3, "a", "r", 0),
            waiting(4, "b", "r", 0),
            waiting(5, "a", "r", 1),
        ];
        assert_eq!(chosen(all.clone(), &[], ClaimLimits::default()), [5, 4, 1, 2, 3]);
        assert_eq!(
            chosen(all, &[("b", "x", 2)], ClaimLimits::default()),
            [5, 1, 2, 4, 3]
        );
    }

    #[test]
    fn what_is_full_is_passed_over() {
        let all = || {
            vec![
                waiting(1, "a", "r", 0),
                waiting(2, "a", "q", 0),
                waiting(3, "b", "r", 0),
                waiting(4, "b", "q", 0),
            ]
        };
        let limits = ClaimLimits::default();
        let global = ClaimLimits {
            global: Some(3),
            ..limits
        };
        assert_eq!(chosen(all(), &[("c", "x", 1)], global), [1, 3]);
        let per_submitter = ClaimLimits {
            per_submitter: Some(1),
            ..limits
        };
        assert_eq!(chosen(all(), &[("b", "x", 1)], per_submitter), [1]);
        let per_repository = ClaimLimits {
            per_repository: Some(1),
            ..limits
        };
        assert_eq!(chosen(all(), &[], per_repository), [1, 4]);
    }
}
