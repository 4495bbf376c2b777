//! How attempts and sessions end.

use std::time::Duration;

use super::fixture::{
    LONG, Subject, all_messages, assert_no_gaps, claim, claim_until, created, created_as, event, lost,
    lost_without_counting, message, new_session, question, request, running, texts,
};
use crate::failure::Failure;
use crate::ports::StoreError;
use crate::ports::store::{AttemptEnd, CancelOutcome, MAX_UNCOUNTED_ATTEMPTS, NewSession};
use crate::session::SessionStatus;

/// Each end has its status, its messages, and the end of the lease.
pub async fn every_end_sets_its_status(store: Subject) {
    let ends = [
        (AttemptEnd::Completed { heard: 0 }, SessionStatus::Completed),
        (
            AttemptEnd::Failed(Failure::new("agent.failed", "no", "Look.")),
            SessionStatus::Failed,
        ),
        (AttemptEnd::Cancelled, SessionStatus::Cancelled),
        (AttemptEnd::Escalated(question()), SessionStatus::Escalated),
        (lost(LONG), SessionStatus::Pending),
    ];
    for (end, status) in ends {
        let fence = running(&store).await;
        let messages = vec![message("first"), message("last")];
        assert_eq!(
            store.finish_attempt(fence, end.clone(), messages).await.unwrap(),
            status
        );
        let session = store.session(fence.session).await.unwrap().unwrap();
        assert_eq!((session.status, &session.worker), (status, &None), "{end:?}");
        assert_eq!(session.completed_at.is_some(), status.is_terminal(), "{end:?}");
        assert_eq!(texts(&store, fence.session).await, ["accepted", "first", "last"]);
        assert_no_gaps(&all_messages(&store, fence.session).await);
    }
    assert_eq!(store.claim(&request("other", LONG)).await.unwrap(), []);
}

/// The second end, and whatever comes after the first, is refused.
pub async fn an_attempt_ends_once(store: Subject) {
    let fence = running(&store).await;
    store
        .finish_attempt(fence, AttemptEnd::Completed { heard: 0 }, vec![message("done")])
        .await
        .unwrap();
    let again = store
        .finish_attempt(fence, AttemptEnd::Cancelled, vec![message("no")])
        .await;
    assert!(matches!(again, Err(StoreError::Fenced(_))), "{again:?}");
    let late = store.record(fence, vec![event(1)]).await;
    assert!(matches!(late, Err(StoreError::Fenced(_))), "{late:?}");
    assert_eq!(
        store.session(fence.session).await.unwrap().unwrap().status,
        SessionStatus::Completed
    );
    assert_eq!(texts(&store, fence.session).await, ["accepted", "done"]);
}

/// A lost attempt's session comes back after its delay, not before.
pub async fn a_lost_attempt_waits_for_its_delay(store: Subject) {
    let fence = running(&store).await;
    let delay = Duration::from_millis(300);
    let before = std::time::Instant::now();
    store.finish_attempt(fence, lost(delay), vec![]).await.unwrap();
    assert_eq!(store.claim(&request("early", LONG)).await.unwrap(), []);
    let next = claim(&store, LONG).await;
    // The database's clock may count in milliseconds.
    assert!(
        before.elapsed() + Duration::from_millis(2) >= delay,
        "{:?}",
        before.elapsed()
    );
    assert_eq!(next.session.id, fence.session);
    assert_eq!(next.session.attempt, fence.attempt.next());
}

/// The caller decides what becomes of a session without attempts left.
pub async fn a_lost_last_attempt_is_refused_and_changes_nothing(store: Subject) {
    let id = created_as(
        &store,
        NewSession {
            max_attempts: 1,
            ..new_session()
        },
    )
    .await;
    let fence = claim(&store, LONG).await.fence();
    let error = store
        .finish_attempt(fence, lost(Duration::ZERO), vec![message("no")])
        .await
        .unwrap_err();
    assert!(
        matches!(error, StoreError::NoAttemptsLeft(session) if session == id),
        "{error}"
    );
    assert_eq!(
        store.session(id).await.unwrap().unwrap().status,
        SessionStatus::Running
    );
    assert_eq!(texts(&store, id).await, ["accepted"]);
    let end = AttemptEnd::Failed(Failure::new("runtime.lost", "gone", "Look."));
    assert_eq!(
        store.finish_attempt(fence, end, vec![]).await.unwrap(),
        SessionStatus::Failed
    );
}

/// An attempt that was lost before it did anything is replaced, though not for ever.
pub async fn attempts_that_do_not_count_are_replaced_a_bounded_number_of_times(store: Subject) {
    let id = created_as(
        &store,
        NewSession {
            max_attempts: 1,
            ..new_session()
        },
    )
    .await;
    for replaced in 0..MAX_UNCOUNTED_ATTEMPTS {
        let claimed = claim(&store, LONG).await;
        assert_eq!(claimed.max_attempts, 1 + replaced);
        assert_eq!(claimed.session.attempt.get(), 1 + replaced);
        let status = store
            .finish_attempt(claimed.fence(), lost_without_counting(), vec![])
            .await
            .unwrap();
        assert_eq!(status, SessionStatus::Pending);
    }
    let last = claim(&store, LONG).await;
    assert_eq!(last.max_attempts, 1 + MAX_UNCOUNTED_ATTEMPTS);
    let error = store
        .finish_attempt(last.fence(), lost_without_counting(), vec![])
        .await
        .unwrap_err();
    assert!(
        matches!(error, StoreError::NoAttemptsLeft(session) if session == id),
        "{error}"
    );
}

/// One that counts uses up an attempt, one that does not leaves it.
pub async fn attempts_that_count_are_used_up(store: Subject) {
    let first = running(&store).await;
    store
        .finish_attempt(first, lost_without_counting(), vec![])
        .await
        .unwrap();
    let second = claim(&store, LONG).await.fence();
    store
        .finish_attempt(second, lost(Duration::ZERO), vec![])
        .await
        .unwrap();
    let third = claim(&store, LONG).await;
    assert_eq!((third.session.attempt.get(), third.max_attempts), (3, 3));
    let error = store
        .finish_attempt(third.fence(), lost(Duration::ZERO), vec![])
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::NoAttemptsLeft(_)), "{error}");
    let end = lost_without_counting();
    assert_eq!(
        store.finish_attempt(third.fence(), end, vec![]).await.unwrap(),
        SessionStatus::Pending
    );
}

/// Nobody has to wait for the delay of a session that nobody wants any more.
pub async fn a_lost_attempt_of_a_cancelled_session_is_cancelled_next(store: Subject) {
    let fence = running(&store).await;
    store
        .request_cancel(fence.session, message("cancel"))
        .await
        .unwrap();
    let status = store.finish_attempt(fence, lost(LONG), vec![]).await.unwrap();
    assert_eq!(status, SessionStatus::Pending);
    claim_until(&store, fence.session, SessionStatus::Cancelled).await;
}

/// A waiting session is cancelled, a running one is asked, a finished one is left alone.
pub async fn cancelling_depends_on_the_status(store: Subject) {
    let pending = created(&store).await;
    assert_eq!(
        store.request_cancel(pending, message("cancel")).await.unwrap(),
        CancelOutcome::Cancelled
    );
    let session = store.session(pending).await.unwrap().unwrap();
    assert_eq!(session.status, SessionStatus::Cancelled);
    assert!(session.completed_at.is_some());
    assert_eq!(texts(&store, pending).await, ["accepted", "cancel"]);
    let again = store.request_cancel(pending, message("again")).await.unwrap();
    assert_eq!(again, CancelOutcome::AlreadyTerminal(SessionStatus::Cancelled));
    assert_eq!(texts(&store, pending).await, ["accepted", "cancel"]);
    assert_eq!(store.claim(&request("worker", LONG)).await.unwrap(), []);

    let runs = running(&store).await;
    for _ in 0..2 {
        let outcome = store
            .request_cancel(runs.session, message("cancel"))
            .await
            .unwrap();
        assert_eq!(outcome, CancelOutcome::Requested);
    }
    let session = store.session(runs.session).await.unwrap().unwrap();
    assert!(session.cancel_requested && session.status == SessionStatus::Running);
    assert_eq!(texts(&store, runs.session).await, ["accepted"]);

    let escalated = running(&store).await;
    store
        .finish_attempt(escalated, AttemptEnd::Escalated(question()), vec![])
        .await
        .unwrap();
    let outcome = store
        .request_cancel(escalated.session, message("cancel"))
        .await
        .unwrap();
    assert_eq!(outcome, CancelOutcome::Cancelled);

    let completed = running(&store).await;
    store
        .finish_attempt(completed, AttemptEnd::Completed { heard: 0 }, vec![])
        .await
        .unwrap();
    let outcome = store
        .request_cancel(completed.session, message("cancel"))
        .await
        .unwrap();
    assert_eq!(outcome, CancelOutcome::AlreadyTerminal(SessionStatus::Completed));
}
