//! Removing what is old.

use std::time::Duration;

use chrono::DateTime;

use super::fixture::{LONG, Subject, all_messages, artifact, created, entry, event, question, running};
use crate::failure::Failure;
use crate::ids::{Fence, SessionId};
use crate::ports::store::{AttemptEnd, EventRecord, Reaped, Retention, SessionFilter};

const NOTHING: Retention = Retention {
    sessions: None,
    transcripts: None,
    artifacts: None,
};
const AT_ONCE: Option<Duration> = Some(Duration::ZERO);

/// A running session with three of everything.
async fn full(store: &Subject) -> Fence {
    let fence = running(store).await;
    let events = (1..=3).map(|number| EventRecord {
        transcript: Some((DateTime::UNIX_EPOCH, entry("line"))),
        ..event(number)
    });
    store.record(fence, events.collect()).await.unwrap();
    for name in ["a", "b", "c"] {
        store
            .store_artifact(fence, artifact(name, b"content"))
            .await
            .unwrap();
    }
    fence
}

async fn ended(store: &Subject, end: AttemptEnd) -> SessionId {
    let fence = full(store).await;
    store.finish_attempt(fence, end, vec![]).await.unwrap();
    fence.session
}

fn ends() -> [AttemptEnd; 3] {
    let failure = Failure::new("agent.failed", "no", "Look.");
    [
        AttemptEnd::Completed { heard: 0 },
        AttemptEnd::Failed(failure),
        AttemptEnd::Cancelled,
    ]
}

async fn left(store: &Subject, id: SessionId) -> (usize, usize) {
    let mut artifacts = 0;
    for name in ["a", "b", "c"] {
        artifacts += usize::from(store.artifact(id, name).await.unwrap().is_some());
    }
    (store.transcript(id, 0, 9).await.unwrap().len(), artifacts)
}

/// A session goes with everything that belongs to it, the one that ended first before the others.
pub async fn old_sessions_are_reaped_in_batches(store: Subject) {
    let mut old = Vec::new();
    for end in ends() {
        old.push(ended(&store, end).await);
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    let kept = full(&store).await;
    let retention = Retention {
        sessions: AT_ONCE,
        ..NOTHING
    };
    let reaped = |sessions| Reaped {
        sessions,
        ..Reaped::default()
    };
    assert_eq!(store.reap(&retention, 0).await.unwrap(), reaped(0));
    assert_eq!(store.reap(&retention, 2).await.unwrap(), reaped(2));
    assert_eq!(
        (
            store.session(old[0]).await.unwrap(),
            store.session(old[1]).await.unwrap()
        ),
        (None, None)
    );
    assert!(store.session(old[2]).await.unwrap().is_some());
    assert_eq!(store.reap(&retention, 2).await.unwrap(), reaped(1));
    assert_eq!(store.reap(&retention, 2).await.unwrap(), reaped(0));
    for id in old {
        assert_eq!(store.session(id).await.unwrap(), None);
        assert_eq!(store.specs(id).await.unwrap(), []);
        assert_eq!(all_messages(&store, id).await, []);
        assert_eq!(left(&store, id).await, (0, 0));
        assert_eq!(store.session_states(&[id]).await.unwrap(), []);
    }
    assert_eq!(left(&store, kept.session).await, (3, 3));
    assert_eq!(all_messages(&store, kept.session).await.len(), 4);
    let list = store.sessions(&SessionFilter::default(), 9).await.unwrap();
    assert_eq!(list.len(), 1);
}

/// A transcript goes, its session and messages stay.
pub async fn old_transcripts_are_reaped_in_batches(store: Subject) {
    let mut old = Vec::new();
    for end in ends() {
        old.push(ended(&store, end).await);
    }
    let kept = full(&store).await;
    let retention = Retention {
        transcripts: AT_ONCE,
        ..NOTHING
    };
    let mut removed = Vec::new();
    for _ in 0..6 {
        let reaped = store.reap(&retention, 2).await.unwrap();
        assert_eq!((reaped.sessions, reaped.artifacts), (0, 0));
        removed.push(reaped.transcript_entries);
    }
    assert_eq!(removed, [2, 2, 2, 2, 1, 0]);
    for id in old {
        assert_eq!(left(&store, id).await, (0, 3));
        assert_eq!(all_messages(&store, id).await.len(), 4);
    }
    assert_eq!(left(&store, kept.session).await, (3, 3));
}

/// Artifacts go, their session stays.
pub async fn old_artifacts_are_reaped_in_batches(store: Subject) {
    let mut old = Vec::new();
    for end in ends() {
        old.push(ended(&store, end).await);
    }
    let kept = full(&store).await;
    let retention = Retention {
        artifacts: AT_ONCE,
        ..NOTHING
    };
    let mut removed = Vec::new();
    for _ in 0..4 {
        let reaped = store.reap(&retention, 4).await.unwrap();
        assert_eq!((reaped.sessions, reaped.transcript_entries), (0, 0));
        removed.push(reaped.artifacts);
    }
    assert_eq!(removed, [4, 4, 1, 0]);
    for id in old {
        assert_eq!(left(&store, id).await, (3, 0));
    }
    assert_eq!(left(&store, kept.session).await, (3, 3));
}

/// Only the operator's ages count, and only from the end of a session.
pub async fn what_is_young_or_not_over_is_not_reaped(store: Subject) {
    let young = ended(&store, AttemptEnd::Completed { heard: 0 }).await;
    let escalated = ended(&store, AttemptEnd::Escalated(question())).await;
    let lost = ended(&store, super::fixture::lost(LONG)).await;
    let pending = created(&store).await;
    let runs = full(&store).await.session;
    assert_eq!(store.reap(&NOTHING, 100).await.unwrap(), Reaped::default());
    let later = Retention {
        sessions: Some(LONG),
        transcripts: Some(LONG),
        artifacts: Some(LONG),
    };
    assert_eq!(store.reap(&later, 100).await.unwrap(), Reaped::default());
    assert_eq!(left(&store, young).await, (3, 3));
    let at_once = Retention {
        sessions: AT_ONCE,
        transcripts: AT_ONCE,
        artifacts: AT_ONCE,
    };
    let reaped = Reaped {
        sessions: 1,
        transcript_entries: 0,
        artifacts: 0,
    };
    assert_eq!(store.reap(&at_once, 100).await.unwrap(), reaped);
    for id in [escalated, lost, runs] {
        assert_eq!(left(&store, id).await, (3, 3));
    }
    assert!(store.session(pending).await.unwrap().is_some());
}
