//! How many run at once.

use std::collections::HashMap;
use std::time::Duration;

use super::fixture::{LONG, Subject, created_as, lost, new_session, request};
use crate::ids::{Fence, SessionId};
use crate::ports::store::{AttemptEnd, ClaimLimits, ClaimRequest, Claimed, NewSession};

const NONE: ClaimLimits = ClaimLimits {
    global: None,
    per_repository: None,
    per_submitter: None,
};

async fn waiting(store: &Subject, submitter: Option<&str>, repository: &str) -> SessionId {
    let new = NewSession {
        submitter: submitter.map(Into::into),
        repo_url: repository.into(),
        ..new_session()
    };
    created_as(store, new).await
}

async fn claim(store: &Subject, limits: ClaimLimits) -> Vec<Claimed> {
    let request = ClaimRequest {
        limits,
        ..request("worker", LONG)
    };
    store.claim(&request).await.unwrap()
}

async fn complete(store: &Subject, fence: Fence) {
    store
        .finish_attempt(fence, AttemptEnd::Completed { heard: 0 }, vec![])
        .await
        .unwrap();
}

/// In all, no more run than that; whoever stops makes room.
pub async fn a_global_limit_is_kept(store: Subject) {
    for submitter in ["a", "b", "c", "d", "e"] {
        waiting(&store, Some(submitter), submitter).await;
    }
    let limits = ClaimLimits {
        global: Some(2),
        ..NONE
    };
    let first = claim(&store, limits).await;
    assert_eq!(first.len(), 2);
    assert_eq!(claim(&store, limits).await, []);
    complete(&store, first[0].fence()).await;
    let end = lost(Duration::ZERO);
    store.finish_attempt(first[1].fence(), end, vec![]).await.unwrap();
    assert_eq!(claim(&store, limits).await.len(), 2);
    let none = ClaimLimits {
        global: Some(0),
        ..NONE
    };
    assert_eq!(claim(&store, none).await, []);
    assert_eq!(claim(&store, NONE).await.len(), 2);
}

/// A repository that is full is passed over, however many wait for it, and whoever waits behind them is claimed.
pub async fn a_limit_for_each_repository_is_kept(store: Subject) {
    for _ in 0..12 {
        waiting(&store, Some("a"), "full").await;
    }
    let other = waiting(&store, Some("a"), "other").await;
    let limits = ClaimLimits {
        per_repository: Some(2),
        ..NONE
    };
    let claimed = claim(&store, limits).await;
    let on_full = claimed.iter().filter(|one| one.session.repo_url == "full");
    assert_eq!((claimed.len(), on_full.count()), (3, 2));
    assert!(claimed.iter().any(|one| one.session.id == other));
    let more = waiting(&store, None, "other").await;
    let claimed_more = claim(&store, limits).await;
    assert_eq!(claimed_more.len(), 1);
    assert_eq!(claimed_more[0].session.id, more);
    let full = claimed.iter().find(|one| one.session.repo_url == "full");
    complete(&store, full.unwrap().fence()).await;
    let claimed = claim(&store, limits).await;
    assert_eq!(claimed.len(), 1);
    assert_eq!(claimed[0].session.repo_url, "full");
}

/// A submitter has no more running than that; those without a name count as one.
pub async fn a_limit_for_each_submitter_is_kept(store: Subject) {
    for number in 0..4 {
        for submitter in [Some("a"), None, Some("b")] {
            waiting(&store, submitter, &format!("r{number}")).await;
        }
    }
    let limits = ClaimLimits {
        per_submitter: Some(2),
        ..NONE
    };
    let claimed = claim(&store, limits).await;
    let mut of_each: HashMap<_, usize> = HashMap::new();
    for one in &claimed {
        *of_each.entry(one.session.submitter.clone()).or_default() += 1;
    }
    assert_eq!(
        of_each,
        HashMap::from([(None, 2), (Some("a".into()), 2), (Some("b".into()), 2)])
    );
    assert_eq!(claim(&store, limits).await, []);
    let nobody = claimed.iter().find(|one| one.session.submitter.is_none());
    complete(&store, nobody.unwrap().fence()).await;
    let claimed = claim(&store, limits).await;
    assert_eq!(claimed.len(), 1);
    assert_eq!(claimed[0].session.submitter, None);
}

/// A process that works on nothing but its own is not kept from it.
pub async fn limits_do_not_keep_from_what_is_one_s_own(store: Subject) {
    let limits = ClaimLimits {
        global: Some(0),
        per_repository: Some(0),
        per_submitter: Some(0),
    };
    let own = waiting(&store, None, "r").await;
    assert_eq!(claim(&store, limits).await, []);
    let only = ClaimRequest {
        only: Some(own),
        limits,
        ..request("worker", LONG)
    };
    assert_eq!(store.claim(&only).await.unwrap().len(), 1);
}

/// Claims from many workers at once until nothing more comes, and hands each claim to `check`, of all that run.
async fn claimed_by_many(store: &Subject, limits: ClaimLimits) -> Vec<Claimed> {
    for number in 0..24 {
        let submitter = format!("submitter {}", number % 4);
        waiting(store, Some(&submitter), &format!("repository {}", number % 3)).await;
    }
    let workers = (0..8).map(|number| {
        let store = store.clone();
        tokio::spawn(async move {
            let request = ClaimRequest {
                limit: 2,
                limits,
                ..request(&format!("worker {number}"), LONG)
            };
            let mut claimed = Vec::new();
            for _ in 0..4 {
                claimed.extend(store.claim(&request).await.unwrap());
            }
            claimed
        })
    });
    let mut claimed = Vec::new();
    for got in futures::future::join_all(workers).await {
        claimed.extend(got.unwrap());
    }
    claimed
}

/// Nobody counts too few because another claims at the same moment.
pub async fn a_global_limit_is_kept_when_many_claim_at_once(store: Subject) {
    let limits = ClaimLimits {
        global: Some(7),
        ..NONE
    };
    assert_eq!(claimed_by_many(&store, limits).await.len(), 7);
}

/// Nobody counts too few because another claims at the same moment.
pub async fn a_limit_for_each_repository_is_kept_when_many_claim_at_once(store: Subject) {
    let limits = ClaimLimits {
        per_repository: Some(3),
        ..NONE
    };
    let claimed = claimed_by_many(&store, limits).await;
    let mut each: HashMap<_, usize> = HashMap::new();
    for one in &claimed {
        *each.entry(one.session.repo_url.clone()).or_default() += 1;
    }
    assert_eq!(each.into_values().collect::<Vec<_>>(), [3, 3, 3]);
}

/// Nobody counts too few because another claims at the same moment.
pub async fn a_limit_for_each_submitter_is_kept_when_many_claim_at_once(store: Subject) {
    let limits = ClaimLimits {
        per_submitter: Some(2),
        ..NONE
    };
    let claimed = claimed_by_many(&store, limits).await;
    let mut each: HashMap<_, usize> = HashMap::new();
    for one in &claimed {
        *each.entry(one.session.submitter.clone()).or_default() += 1;
    }
    assert_eq!(each.into_values().collect::<Vec<_>>(), [2, 2, 2, 2]);
}
