//! Whose turn it is among those that wait.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::fixture::{LONG, Subject, created_as, new_session, request};
use crate::ids::SessionId;
use crate::ports::store::{AttemptEnd, ClaimRequest, Claimed, NewSession};

/// A session of that submitter, a moment younger than the ones before it.
async fn of(store: &Subject, submitter: Option<&str>, priority: i32) -> SessionId {
    tokio::time::sleep(Duration::from_millis(3)).await;
    created_as(
        store,
        NewSession {
            submitter: submitter.map(Into::into),
            priority,
            ..new_session()
        },
    )
    .await
}

async fn claim(store: &Subject, limit: u32) -> Vec<Claimed> {
    let request = ClaimRequest {
        limit,
        ..request("worker", LONG)
    };
    store.claim(&request).await.unwrap()
}

async fn claimed_ids(store: &Subject, limit: u32) -> Vec<SessionId> {
    let claimed = claim(store, limit).await;
    claimed.into_iter().map(|claimed| claimed.session.id).collect()
}

/// Priority comes before age, and before whose turn it is.
pub async fn a_higher_priority_goes_first(store: Subject) {
    let usual = of(&store, None, 0).await;
    let least = of(&store, Some("a"), -100).await;
    let urgent = of(&store, None, 7).await;
    let also_urgent = of(&store, None, 7).await;
    let most = of(&store, None, 100).await;
    assert_eq!(claimed_ids(&store, 2).await, [most, urgent]);
    assert_eq!(claimed_ids(&store, 1).await, [also_urgent]);
    assert_eq!(claimed_ids(&store, 9).await, [usual, least]);
}

/// One who sends many plans does not keep another's one waiting: of equal priority, whoever has the fewest running is
/// next, within a claim and from one to the next.
pub async fn submitters_take_turns(store: Subject) {
    let mut many = Vec::new();
    for _ in 0..4 {
        many.push(of(&store, Some("many"), 0).await);
    }
    let few = [of(&store, Some("few"), 0).await, of(&store, Some("few"), 0).await];
    let nobody = [of(&store, None, 0).await, of(&store, None, 0).await];
    let expected = [many[0], few[0], nobody[0], many[1]];
    assert_eq!(claimed_ids(&store, 4).await, expected);
    assert_eq!(claimed_ids(&store, 1).await, [few[1]]);
    assert_eq!(claimed_ids(&store, 9).await, [nobody[1], many[2], many[3]]);
}

/// What counts is what runs now, not what ran before.
pub async fn a_busy_submitter_waits_for_others(store: Subject) {
    let mut busy = Vec::new();
    for _ in 0..4 {
        busy.push(of(&store, Some("busy"), 0).await);
    }
    let running = claim(&store, 2).await;
    let other = [
        of(&store, Some("other"), 0).await,
        of(&store, Some("other"), 0).await,
    ];
    assert_eq!(claimed_ids(&store, 1).await, [other[0]]);
    for claimed in running {
        store
            .finish_attempt(claimed.fence(), AttemptEnd::Completed { heard: 0 }, vec![])
            .await
            .unwrap();
    }
    assert_eq!(claimed_ids(&store, 9).await, [busy[2], busy[3], other[1]]);
}

/// Workers that find each other's candidates go on to the next ones: nothing is left, nobody gets one twice, and no
/// submitter waits for all of another's.
pub async fn many_workers_share_the_sessions_of_many_submitters(store: Subject) {
    const SUBMITTERS: usize = 6;
    const EACH: usize = 20;
    const WORKERS: usize = 16;
    let mut waiting = HashMap::new();
    for submitter in 0..SUBMITTERS {
        for number in 0..EACH {
            let new = NewSession {
                submitter: Some(format!("submitter {submitter}")),
                repo_url: format!("https://github.com/acme/{}.git", number % 3),
                ..new_session()
            };
            waiting.insert(created_as(&store, new).await, submitter);
        }
    }
    let (mut claimed, mut rounds) = (Vec::new(), 0);
    while claimed.len() < waiting.len() {
        rounds += 1;
        assert!(rounds < 100, "claims come to an end: {}", claimed.len());
        let workers = (0..WORKERS).map(|number| {
            let store = store.clone();
            tokio::spawn(async move {
                let request = ClaimRequest {
                    limit: 2,
                    ..request(&format!("worker {number}"), LONG)
                };
                store.claim(&request).await.unwrap()
            })
        });
        for got in futures::future::join_all(workers).await {
            claimed.extend(got.unwrap().into_iter().map(|one| one.session.id));
        }
        let mut shares = [0_usize; SUBMITTERS];
        for id in &claimed {
            shares[waiting[id]] += 1;
        }
        // Those that claim at the same moment do not see one another.
        let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
        assert!(most - least <= 2 * WORKERS, "{shares:?}");
    }
    assert_eq!(claimed.len(), waiting.len(), "none twice");
    assert_eq!(claimed.iter().collect::<HashSet<_>>().len(), waiting.len());
    assert!(rounds <= SUBMITTERS * EACH / (2 * WORKERS) + 4, "{rounds} rounds");
}
