//! Recovery: leases of the dead, containers without a session, and what has been kept long enough.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::asking;
use super::inner::Inner;
use crate::ids::{AttemptNumber, Fence, LeaseNumber, SessionId};
use crate::ports::runtime::{ContainerName, ContainerSummary, LABEL_ATTEMPT, LABEL_SESSION};
use crate::ports::store::{Retention, SessionState};
use crate::session::SessionStatus;

/// How often dead workers are looked for.
const PRESENCE: Duration = Duration::from_secs(1);
/// How often questions that wait are looked after.
const QUESTIONS: Duration = Duration::from_secs(5);
/// How often the database is relieved of what is old.
const RETENTION: Duration = Duration::from_mins(1);
/// How much one transaction removes.
const BATCH: u32 = 500;

/// Recovers for as long as the worker works, from its start.
pub(super) async fn run(inner: Arc<Inner>) -> Infallible {
    let mut reconcile = Instant::now();
    let mut reap = Instant::now();
    let mut questions = Instant::now();
    loop {
        release_dead(&inner).await;
        if Instant::now() >= reconcile {
            inner.reconcile().await;
            reconcile = Instant::now() + inner.options.reconcile;
        }
        if Instant::now() >= questions {
            asking::look_after(&inner).await;
            questions = Instant::now() + QUESTIONS;
        }
        if Instant::now() >= reap {
            reap_old(&inner).await;
            reap = Instant::now() + RETENTION;
        }
        sleep(PRESENCE.min(inner.options.reconcile)).await;
    }
}

/// What a dead worker held can be claimed at once.
async fn release_dead(inner: &Inner) {
    for worker in inner.presence.dead().await {
        match inner.store.release_leases(&worker, None).await {
            Ok(sessions) => {
                tracing::info!(%worker, sessions, "a worker has died; its sessions can be claimed");
                inner.presence.bury(&worker).await;
            }
            Err(error) => tracing::warn!(%error, %worker, "a dead worker's leases could not be released yet"),
        }
    }
}

async fn reap_old(inner: &Inner) {
    if inner.options.retention == Retention::default() {
        return;
    }
    loop {
        match inner.store.reap(&inner.options.retention, BATCH).await {
            Ok(reaped) => {
                let full = u64::from(BATCH);
                if reaped.sessions < full && reaped.transcript_entries < full && reaped.artifacts < full {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "what is old could not be removed; trying again");
                return;
            }
        }
    }
}

impl Inner {
    /// Compares the engine's containers with the database. A container whose session is gone, has ended, waits, or is at a
    /// later attempt is removed; one whose attempt is under way belongs to whoever holds the lease. Containers without our
    /// label are never looked at. The other direction, a session whose container is gone, is seen by its owner, or by
    /// whoever claims it after its owner.
    pub(super) async fn reconcile(&self) {
        // First the containers, then the sessions: a container that is in the list had its session before.
        let containers = match self.runtime.list(&self.options.owner).await {
            Ok(containers) => containers,
            Err(error) => {
                tracing::warn!(%error, "the engine's containers cannot be listed");
                self.engine_away.store(error.retryable(), Ordering::Relaxed);
                return;
            }
        };
        self.engine_away.store(false, Ordering::Relaxed);
        let ours: Vec<Fence> = containers.iter().filter_map(attempt_of).collect();
        if ours.is_empty() {
            return;
        }
        let mut sessions: Vec<SessionId> = ours.iter().map(|fence| fence.session).collect();
        sessions.sort_unstable();
        sessions.dedup();
        let states: HashMap<SessionId, SessionState> = match self.store.session_states(&sessions).await {
            Ok(states) => states.into_iter().map(|state| (state.id, state)).collect(),
            Err(error) => {
                tracing::warn!(%error, "the containers cannot be compared with the database");
                return;
            }
        };
        for fence in ours {
            if let Some(reason) = orphaned(fence, states.get(&fence.session), self.options.keep_failed) {
                self.remove_orphan(fence, reason).await;
            }
        }
    }

    async fn remove_orphan(&self, fence: Fence, reason: &str) {
        let name = ContainerName::of(fence);
        tracing::warn!(container = %name, reason, "an orphaned container is removed");
        if let Err(error) = self.gateway.close(fence).await {
            tracing::warn!(%error, %fence, "an orphan's gateway directory is left over");
        }
        if let Err(error) = self.runtime.remove(&name).await {
            tracing::warn!(%error, container = %name, "an orphaned container is not removed yet");
        }
    }
}

/// Which attempt a container belongs to, by its labels and its name. One where they differ is not of our making.
fn attempt_of(container: &ContainerSummary) -> Option<Fence> {
    let session = container.labels.get(LABEL_SESSION)?.parse().ok()?;
    let attempt = container.labels.get(LABEL_ATTEMPT)?.parse().ok()?;
    let fence = Fence {
        session,
        attempt: AttemptNumber::new(attempt),
        lease: LeaseNumber::new(0),
    };
    (ContainerName::of(fence) == container.name).then_some(fence)
}

/// Why a container is of no use any more; `None` if it is.
fn orphaned(fence: Fence, state: Option<&SessionState>, keep_failed: Duration) -> Option<&'static str> {
    let Some(state) = state else {
        return Some("its session is not in the database");
    };
    if state.attempt < fence.attempt {
        // Whoever made it knows more than this.
        return None;
    }
    if state.attempt > fence.attempt {
        return Some("a later attempt exists");
    }
    match state.status {
        SessionStatus::Running => None,
        SessionStatus::Failed if state.ended.is_some_and(|ended| ended < keep_failed) => None,
        SessionStatus::Pending => Some("its attempt is over, and the session waits for the next one"),
        SessionStatus::Escalated => Some("its session waits for a person"),
        SessionStatus::Completed | SessionStatus::Failed | SessionStatus::Cancelled => {
            Some("its session has ended")
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn every_pair_of_container_and_session_is_decided() {
        let id = SessionId::from_uuid(Uuid::from_u128(1));
        let fence = |attempt| Fence {
            session: id,
            attempt: AttemptNumber::new(attempt),
            lease: LeaseNumber::new(0),
        };
        let mut table = String::new();
        for status in SessionStatus::ALL {
            let state = SessionState {
                id,
                status,
                attempt: AttemptNumber::new(2),
                ended: status.is_terminal().then_some(Duration::from_mins(1)),
            };
            for attempt in 1..=3 {
                for keep in [0, 3_600] {
                    let verdict = orphaned(fence(attempt), Some(&state), Duration::from_secs(keep));
                    let verdict = verdict.unwrap_or("stays");
                    table.push_str(&format!(
                        "container of attempt {attempt}, session {status} at attempt 2, kept {keep} s: {verdict}\n"
                    ));
                }
            }
        }
        let gone = orphaned(fence(1), None, Duration::from_hours(1));
        table.push_str(&format!("no session: {}\n", gone.unwrap_or("stays")));
        insta::assert_snapshot!(table);
    }
}
