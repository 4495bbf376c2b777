//! Claims, leases, fences.

use std::collections::HashSet;
use std::time::Duration;

use super::fixture::{
    LONG, SHORT, Subject, all_messages, assert_every_write_is_refused, claim, created, created_as, event,
    ids, lost, message, new_session, request, running, start,
};
use crate::ids::{AttemptNumber, Fence, LeaseNumber, WorkerId};
use crate::message::MessageKind;
use crate::ports::store::{AttemptEnd, CancelOutcome, ClaimRequest, NewSession};
use crate::session::SessionStatus;

/// A claim takes the oldest first, and says all that an attempt needs.
pub async fn claims_the_one_that_waited_longest(store: Subject) {
    let mut waiting = Vec::new();
    for _ in 0..3 {
        waiting.push(created(&store).await);
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    for id in waiting {
        let claimed = store
            .claim(&ClaimRequest {
                limit: 1,
                ..request("w1", LONG)
            })
            .await
            .unwrap();
        assert_eq!(claimed.len(), 1);
        assert_eq!(claimed[0].session.id, id);
        assert_eq!(claimed[0].session.status, SessionStatus::Running);
        assert_eq!(claimed[0].session.attempt, AttemptNumber::new(1));
        assert_eq!(
            (claimed[0].lease, &claimed[0].resumed),
            (LeaseNumber::new(1), &None)
        );
        assert_eq!(claimed[0].session.worker, Some(WorkerId::new("w1")));
        assert_eq!((claimed[0].spec.session, claimed[0].spec.version), (id, 1));
        assert_eq!(claimed[0].spec.content, new_session().content);
        assert_eq!((claimed[0].max_attempts, &claimed[0].reported), (2, &None));
        assert_eq!(
            store.session(id).await.unwrap().as_ref(),
            Some(&claimed[0].session)
        );
    }
    assert_eq!(store.claim(&request("w1", LONG)).await.unwrap(), []);
}

/// A held session is for the worker that asks for it alone, until the time is over.
pub async fn a_held_session_waits_for_its_own_worker(store: Subject) {
    let held = |held| NewSession {
        held,
        ..new_session()
    };
    let own = created_as(&store, held(LONG)).await;
    assert_eq!(store.claim(&request("w1", LONG)).await.unwrap(), []);
    let only = ClaimRequest {
        only: Some(own),
        ..request("w2", LONG)
    };
    assert_eq!(store.claim(&only).await.unwrap().len(), 1);
    let passing = created_as(&store, held(SHORT)).await;
    assert_eq!(claim(&store, LONG).await.session.id, passing);
}

/// `only` claims that session or none.
pub async fn claims_only_the_one_that_was_asked_for(store: Subject) {
    created(&store).await;
    let own = created(&store).await;
    let only = |id| ClaimRequest {
        only: Some(id),
        ..request("w1", LONG)
    };
    let claimed = store.claim(&only(own)).await.unwrap();
    assert_eq!(
        claimed
            .iter()
            .map(|claimed| claimed.session.id)
            .collect::<Vec<_>>(),
        [own]
    );
    assert_eq!(store.claim(&only(own)).await.unwrap(), []);
    assert_eq!(store.claim(&only(ids().session())).await.unwrap(), []);
}

/// Many workers that claim at once share the sessions among them.
pub async fn no_two_workers_get_the_same_session(store: Subject) {
    let mut waiting = HashSet::new();
    for _ in 0..32 {
        waiting.insert(created(&store).await);
    }
    let workers = (0..16).map(|worker| {
        let store = store.clone();
        tokio::spawn(async move {
            let (mut got, request) = (Vec::new(), request(&format!("worker {worker}"), LONG));
            // A claim may find nothing while others hold the rows that are left, so it asks again.
            for _ in 0..8 {
                let claimed = store
                    .claim(&ClaimRequest {
                        limit: 1,
                        ..request.clone()
                    })
                    .await
                    .unwrap();
                got.extend(claimed.into_iter().map(|claimed| claimed.fence()));
            }
            got
        })
    });
    let mut claimed = Vec::new();
    for got in futures::future::join_all(workers).await {
        claimed.extend(got.unwrap());
    }
    assert_eq!(claimed.len(), 32, "every session is claimed, none twice");
    assert!(claimed.iter().all(|fence| fence.attempt == AttemptNumber::new(1)));
    assert_eq!(
        claimed.iter().map(|fence| fence.session).collect::<HashSet<_>>(),
        waiting
    );
}

/// Nobody else gets a session whose lease runs.
pub async fn a_held_lease_is_not_claimed(store: Subject) {
    let fence = running(&store).await;
    assert_eq!(store.claim(&request("other", LONG)).await.unwrap(), []);
    let session = store.session(fence.session).await.unwrap().unwrap();
    assert_eq!(
        (session.attempt, session.worker),
        (fence.attempt, Some(WorkerId::new("worker")))
    );
}

/// Once there is a later attempt, nothing that the older one writes is stored.
pub async fn every_write_of_an_older_attempt_is_refused(store: Subject) {
    let id = created(&store).await;
    let old = claim(&store, LONG).await.fence();
    store.record(old, vec![event(1)]).await.unwrap();
    store
        .finish_attempt(old, lost(Duration::ZERO), vec![])
        .await
        .unwrap();
    let new = claim(&store, LONG).await.fence();
    assert_eq!((new.attempt, new.lease), (old.attempt.next(), old.lease.next()));
    let never = Fence {
        attempt: new.attempt.next(),
        ..new
    };
    let nobody = Fence {
        session: ids().session(),
        ..new
    };
    let mixed = Fence {
        attempt: old.attempt,
        ..new
    };
    assert_every_write_is_refused(&store, id, &[old, never, nobody, mixed]).await;
    assert_eq!(
        store.record(new, vec![event(1)]).await.unwrap().acknowledged,
        1,
        "the new one starts from 1"
    );
}

/// What is missing from the answer is lost.
pub async fn only_held_leases_are_renewed(store: Subject) {
    let held = running(&store).await;
    let ended = running(&store).await;
    store
        .finish_attempt(ended, AttemptEnd::Completed { heard: 0 }, vec![])
        .await
        .unwrap();
    let old = Fence {
        attempt: AttemptNumber::new(0),
        ..held
    };
    let never = Fence {
        attempt: held.attempt.next(),
        ..held
    };
    let nobody = Fence {
        session: ids().session(),
        ..held
    };
    let stale = Fence {
        lease: LeaseNumber::new(0),
        ..held
    };
    let worker = WorkerId::new("worker");
    let renewed = store
        .renew_leases(&worker, &[old, ended, held, never, nobody, stale], LONG)
        .await
        .unwrap();
    assert_eq!(renewed, [held]);
    assert_eq!(
        store
            .renew_leases(&WorkerId::new("other"), &[held], LONG)
            .await
            .unwrap(),
        []
    );
    assert_eq!(store.renew_leases(&worker, &[], LONG).await.unwrap(), []);
}

/// Renewal keeps others away.
pub async fn a_renewed_lease_does_not_expire(store: Subject) {
    created(&store).await;
    let lease = Duration::from_millis(200);
    let fence = claim(&store, lease).await.fence();
    assert_eq!(
        store
            .renew_leases(&WorkerId::new("worker"), &[fence], LONG)
            .await
            .unwrap(),
        [fence]
    );
    tokio::time::sleep(lease + Duration::from_millis(20)).await;
    assert_eq!(store.claim(&request("other", LONG)).await.unwrap(), []);
}

/// One that was lost while somebody asked for its end is ended by the store itself: nobody is left to obey.
pub async fn a_cancelled_session_is_not_run_again(store: Subject) {
    let fence = running(&store).await;
    let id = fence.session;
    assert_eq!(
        store.request_cancel(id, message("cancel")).await.unwrap(),
        CancelOutcome::Requested
    );
    store.finish_attempt(fence, lost(LONG), vec![]).await.unwrap();
    let nothing = ClaimRequest {
        limit: 0,
        takeovers: 0,
        ..request("worker", LONG)
    };
    assert_eq!(store.claim(&nothing).await.unwrap(), []);
    let session = store.session(id).await.unwrap().unwrap();
    assert_eq!(session.status, SessionStatus::Cancelled);
    assert!(session.completed_at.is_some() && session.cancel_requested);
    let last = all_messages(&store, id).await.pop().unwrap();
    assert_eq!(last.kind, MessageKind::Error);
    assert_eq!(last.content.metadata["code"], "session.cancelled");
}

/// Intent is kept before the world is changed; a title that is there stays.
pub async fn an_attempt_writes_down_what_it_is_about_to_do(store: Subject) {
    let fence = running(&store).await;
    store.start_attempt(fence, start("Other")).await.unwrap();
    store.start_attempt(fence, start("Other")).await.unwrap();
    let session = store.session(fence.session).await.unwrap().unwrap();
    assert_eq!(session.branch_name.as_deref(), Some("fabrica/x"));
    assert_eq!(session.title.as_deref(), Some("Do it"));
}
