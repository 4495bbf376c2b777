//! Attempts that go on under another worker.

use std::time::Duration;

use super::fixture::{
    LONG, SHORT, Subject, assert_every_write_is_refused, claim, claim_as, created, created_as, event,
    message, new_session, next_notice, request, running, start,
};
use crate::ids::WorkerId;
use crate::ports::store::{AttemptStart, CancelOutcome, ClaimLimits, ClaimRequest, NewSession, Notice};
use crate::session::SessionStatus;

fn worker() -> WorkerId {
    WorkerId::new("worker")
}

/// After its lease, a session goes to whoever asks: the same attempt under the next lease, whatever the limits are.
pub async fn an_expired_lease_is_taken_over_and_the_attempt_goes_on(store: Subject) {
    created(&store).await;
    let first = claim(&store, SHORT).await;
    let second = claim_as(&store, "other", LONG).await;
    assert_eq!(second.session.id, first.session.id);
    assert_eq!(second.session.attempt, first.session.attempt);
    assert_eq!(second.lease, first.lease.next());
    assert_eq!(second.session.worker, Some(WorkerId::new("other")));
    assert_eq!(second.session.status, SessionStatus::Running);
    assert_eq!(
        (second.max_attempts, &second.spec),
        (first.max_attempts, &first.spec)
    );
    assert_eq!(
        store.session(second.session.id).await.unwrap().as_ref(),
        Some(&second.session)
    );
    store.record(second.fence(), vec![event(1)]).await.unwrap();
}

/// Once somebody took the attempt over, nothing that its old owner writes is stored.
pub async fn every_write_under_an_older_lease_is_refused(store: Subject) {
    created(&store).await;
    let old = claim(&store, SHORT).await.fence();
    store.record(old, vec![event(1)]).await.unwrap();
    let new = claim_as(&store, "third", LONG).await.fence();
    let later = crate::ids::Fence {
        lease: new.lease.next(),
        ..new
    };
    assert_every_write_is_refused(&store, new.session, &[old, later]).await;
    let recorded = store.record(new, vec![event(1), event(2)]).await.unwrap();
    assert_eq!(recorded.acknowledged, 2, "the attempt's events are counted on");
}

/// Whoever hands over does not let others wait for the end of its leases; they are told.
pub async fn a_released_lease_can_be_taken_over_at_once(store: Subject) {
    let fence = running(&store).await;
    let mut notices = store.subscribe().await.unwrap();
    assert_eq!(
        store.release_leases(&WorkerId::new("other"), None).await.unwrap(),
        0
    );
    assert_eq!(store.claim(&request("other", LONG)).await.unwrap(), []);
    assert_eq!(store.release_leases(&worker(), None).await.unwrap(), 1);
    next_notice(&mut notices, |notice| *notice == Notice::Claimable).await;
    assert_eq!(store.release_leases(&worker(), None).await.unwrap(), 0);
    assert_eq!(store.renew_leases(&worker(), &[fence], LONG).await.unwrap(), []);
    let released = store.session(fence.session).await.unwrap().unwrap();
    assert_eq!((released.status, released.worker), (SessionStatus::Running, None));

    let taken = store.claim(&request("other", LONG)).await.unwrap();
    assert_eq!(taken.len(), 1);
    assert_eq!(taken[0].session.attempt, fence.attempt);
    assert_eq!(taken[0].lease, fence.lease.next());
    assert_every_write_is_refused(&store, fence.session, &[fence]).await;
}

/// A worker may give up some and keep the others.
pub async fn only_named_leases_are_released(store: Subject) {
    let (given, kept) = (running(&store).await, running(&store).await);
    let stale = crate::ids::Fence {
        lease: kept.lease.next(),
        ..kept
    };
    let released = store.release_leases(&worker(), Some(vec![given, stale])).await;
    assert_eq!(released.unwrap(), 1);
    assert_eq!(store.release_leases(&worker(), Some(vec![])).await.unwrap(), 0);
    let taken = store.claim(&request("other", LONG)).await.unwrap();
    assert_eq!(taken.len(), 1);
    assert_eq!(taken[0].session.id, given.session);
    assert_eq!(
        store.renew_leases(&worker(), &[kept], LONG).await.unwrap(),
        [kept]
    );
}

/// A lease that has run out can be renewed until somebody claims the session; a worker gets back what it held itself, for
/// example if the answer to its first claim was lost.
pub async fn a_worker_gets_back_what_it_held(store: Subject) {
    created(&store).await;
    let held = claim(&store, Duration::from_millis(1)).await.fence();
    let renewed = store.renew_leases(&worker(), &[held], LONG).await.unwrap();
    assert_eq!(renewed, [held], "nobody has claimed it");
    assert_eq!(store.claim(&request("worker", LONG)).await.unwrap(), []);
    store
        .renew_leases(&worker(), &[held], Duration::from_millis(1))
        .await
        .unwrap();
    let again = claim(&store, LONG).await;
    assert_eq!(
        (again.session.attempt, again.lease),
        (held.attempt, held.lease.next())
    );
    assert_eq!(store.renew_leases(&worker(), &[held], LONG).await.unwrap(), []);
}

/// The next owner learns what the attempt wrote down and how far its events are stored.
pub async fn a_takeover_tells_how_far_the_attempt_came(store: Subject) {
    let early = running(&store).await;
    store.release_leases(&worker(), None).await.unwrap();
    let taken = claim(&store, LONG).await;
    let resumed = taken.resumed.clone().expect("it goes on");
    assert_eq!(
        (taken.session.id, resumed.start, resumed.last_event),
        (early.session, None, 0)
    );
    assert_eq!(taken.reported, None);

    let fence = taken.fence();
    store.start_attempt(fence, start("Other")).await.unwrap();
    store.record(fence, vec![event(1), event(2)]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    store.release_leases(&worker(), None).await.unwrap();
    let resumed_again = claim(&store, LONG).await.resumed.expect("it goes on");
    let expected = AttemptStart {
        title: "Do it".into(),
        ..start("Other")
    };
    assert_eq!(resumed_again.start, Some(expected), "with the session's title");
    assert_eq!(resumed_again.last_event, 2);
    assert!(resumed_again.age > resumed.age && resumed_again.age < Duration::from_hours(1));
}

/// As many as are asked for, the one that waited longest first.
pub async fn the_longest_without_lease_is_taken_over_first(store: Subject) {
    let mut order = Vec::new();
    for worker in ["a", "b", "c"] {
        created(&store).await;
        order.push(claim_as(&store, worker, LONG).await.session.id);
    }
    for worker in ["b", "a", "c"] {
        store.release_leases(&WorkerId::new(worker), None).await.unwrap();
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    order.swap(0, 1);
    let take = |takeovers, limit| ClaimRequest {
        limit,
        takeovers,
        ..request("worker", LONG)
    };
    let waiting = created(&store).await;
    assert_eq!(store.claim(&take(0, 0)).await.unwrap(), []);
    for id in order {
        let taken = store.claim(&take(1, 0)).await.unwrap();
        assert_eq!(taken.iter().map(|one| one.session.id).collect::<Vec<_>>(), [id]);
    }
    assert_eq!(store.claim(&take(1, 0)).await.unwrap(), []);
    assert_eq!(store.claim(&take(0, 1)).await.unwrap()[0].session.id, waiting);
}

/// What becomes of a last attempt is for its next owner to say, not for the store: its container may still be at work.
pub async fn a_last_attempt_without_lease_is_taken_over(store: Subject) {
    let id = created_as(
        &store,
        NewSession {
            max_attempts: 1,
            ..new_session()
        },
    )
    .await;
    let fence = claim(&store, SHORT).await.fence();
    let taken = claim_as(&store, "other", LONG).await;
    assert_eq!((taken.session.id, taken.session.attempt), (id, fence.attempt));
    assert!(taken.resumed.is_some());
}

/// Its next owner learns of the cancellation with the claim, and can still save what was committed.
pub async fn a_cancelled_session_without_lease_is_taken_over(store: Subject) {
    let fence = running(&store).await;
    let outcome = store.request_cancel(fence.session, message("cancel")).await;
    assert_eq!(outcome.unwrap(), CancelOutcome::Requested);
    store.release_leases(&worker(), None).await.unwrap();
    let taken = claim_as(&store, "other", LONG).await;
    assert_eq!(taken.session.id, fence.session);
    assert!(taken.session.cancel_requested && taken.session.status == SessionStatus::Running);
}

/// However many ask, one gets it, and full limits keep nobody from it.
pub async fn one_of_many_workers_takes_over(store: Subject) {
    for _ in 0..4 {
        running(&store).await;
    }
    assert_eq!(store.release_leases(&worker(), None).await.unwrap(), 4);
    let claims = (0..8).map(|number| {
        let store = store.clone();
        let request = ClaimRequest {
            takeovers: 3,
            limits: ClaimLimits {
                global: Some(1),
                ..ClaimLimits::default()
            },
            ..request(&format!("worker {number}"), LONG)
        };
        tokio::spawn(async move {
            let mut taken = store.claim(&request).await.unwrap();
            assert!(taken.len() <= 3);
            taken.extend(store.claim(&request).await.unwrap());
            taken
        })
    });
    let mut fences = Vec::new();
    for taken in futures::future::join_all(claims).await {
        fences.extend(taken.unwrap().iter().map(|one| (one.session.id, one.lease)));
    }
    fences.sort_unstable();
    fences.dedup();
    let sessions: std::collections::HashSet<_> = fences.iter().map(|(session, _)| *session).collect();
    assert_eq!((fences.len(), sessions.len()), (4, 4), "each once: {fences:?}");
}
