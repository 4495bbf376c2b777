//! Events of the runner, results, artifacts.

use serde_json::json;

use super::fixture::{
    LONG, Subject, all_messages, artifact, assert_no_gaps, claim, entry, event, ids, lost,
    lost_without_counting, message, running, texts,
};
use crate::ids::{SessionId, WorkerId};
use crate::ports::StoreError;
use crate::ports::store::{AttemptEnd, Claimed, EventRecord, Recorded};
use crate::protocol::Usage;

/// A batch that is delivered again changes nothing.
pub async fn events_are_recorded_once(store: Subject) {
    let fence = running(&store).await;
    let usage = Usage {
        input_tokens: 10,
        cost_usd: 0.5,
        turns: 1,
        ..Usage::default()
    };
    let batch = vec![
        EventRecord {
            messages: vec![message("one"), message("two")],
            ..event(1)
        },
        EventRecord {
            messages: vec![],
            usage: Some(usage),
            ..event(2)
        },
        EventRecord {
            messages: vec![],
            transcript: Some((chrono::DateTime::UNIX_EPOCH, entry("three"))),
            ..event(3)
        },
    ];
    for _ in 0..2 {
        let recorded = store.record(fence, batch.clone()).await.unwrap();
        assert_eq!(
            recorded,
            Recorded {
                acknowledged: 3,
                cancel_requested: false
            }
        );
    }
    assert_eq!(texts(&store, fence.session).await, ["accepted", "one", "two"]);
    assert_eq!(store.transcript(fence.session, 0, 9).await.unwrap().len(), 1);
    assert_eq!(store.session(fence.session).await.unwrap().unwrap().usage, usage);
    assert_no_gaps(&all_messages(&store, fence.session).await);
}

/// Of a batch whose beginning is stored, the rest is stored.
pub async fn an_overlapping_batch_stores_only_what_is_new(store: Subject) {
    let fence = running(&store).await;
    let events: Vec<_> = (1..=5).map(event).collect();
    assert_eq!(
        store
            .record(fence, events[..3].to_vec())
            .await
            .unwrap()
            .acknowledged,
        3
    );
    assert_eq!(
        store
            .record(fence, events[1..].to_vec())
            .await
            .unwrap()
            .acknowledged,
        5
    );
    assert_eq!(
        store
            .record(fence, events[..2].to_vec())
            .await
            .unwrap()
            .acknowledged,
        5
    );
    let expected = ["accepted", "event 1", "event 2", "event 3", "event 4", "event 5"];
    assert_eq!(texts(&store, fence.session).await, expected);
}

/// A gap refuses the whole batch.
pub async fn a_missing_event_is_refused_and_changes_nothing(store: Subject) {
    let fence = running(&store).await;
    for (batch, missing) in [(vec![event(2)], 1), (vec![event(1), event(3)], 2)] {
        let error = store.record(fence, batch).await.unwrap_err();
        assert!(
            matches!(error, StoreError::EventGap { expected, .. } if expected == missing),
            "{error}"
        );
    }
    assert_eq!(texts(&store, fence.session).await, ["accepted"]);
    assert_eq!(store.record(fence, vec![]).await.unwrap().acknowledged, 0);
}

/// A heartbeat learns of cancellation.
pub async fn an_empty_batch_only_asks(store: Subject) {
    let fence = running(&store).await;
    store.record(fence, vec![event(1)]).await.unwrap();
    let asked = store.record(fence, vec![]).await.unwrap();
    assert_eq!(
        asked,
        Recorded {
            acknowledged: 1,
            cancel_requested: false
        }
    );
    store
        .request_cancel(fence.session, message("cancel"))
        .await
        .unwrap();
    let asked = store.record(fence, vec![]).await.unwrap();
    assert_eq!(
        asked,
        Recorded {
            acknowledged: 1,
            cancel_requested: true
        }
    );
}

/// A re-delivery that overtakes its first delivery stores nothing twice.
pub async fn concurrent_deliveries_of_one_batch_store_it_once(store: Subject) {
    let fence = running(&store).await;
    let batch: Vec<_> = (1..=20).map(event).collect();
    let deliveries = (0..8).map(|_| {
        let (store, batch) = (store.clone(), batch.clone());
        tokio::spawn(async move { store.record(fence, batch).await.unwrap().acknowledged })
    });
    for acknowledged in futures::future::join_all(deliveries).await {
        assert_eq!(acknowledged.unwrap(), 20);
    }
    let messages = all_messages(&store, fence.session).await;
    assert_eq!(messages.len(), 21);
    assert_no_gaps(&messages);
}

/// However writers interleave, each session counts 1, 2, 3, …, and in the order of its events.
pub async fn sequences_have_no_gaps_under_concurrency(store: Subject) {
    let mut fences = Vec::new();
    for _ in 0..4 {
        fences.push(running(&store).await);
    }
    let writers = fences.iter().map(|fence| {
        let (store, fence) = (store.clone(), *fence);
        tokio::spawn(async move {
            for number in (1..=20).step_by(2) {
                store
                    .record(fence, vec![event(number), event(number + 1)])
                    .await
                    .unwrap();
            }
        })
    });
    for outcome in futures::future::join_all(writers).await {
        outcome.unwrap();
    }
    for fence in fences {
        let messages = all_messages(&store, fence.session).await;
        assert_no_gaps(&messages);
        let expected: Vec<_> = (1..=20).map(|number| format!("event {number}")).collect();
        assert_eq!(texts(&store, fence.session).await[1..], expected);
    }
}

/// Usage is that of all attempts; a sandbox that reports nonsense harms nobody.
pub async fn usage_adds_up_over_attempts_and_never_overflows(store: Subject) {
    let first = running(&store).await;
    let usage = Usage {
        input_tokens: 1,
        output_tokens: 2,
        cache_read_tokens: 3,
        cost_usd: 0.25,
        ..Usage::default()
    };
    let with = |usage, number| EventRecord {
        messages: vec![],
        usage: Some(usage),
        ..event(number)
    };
    store
        .record(first, vec![with(usage, 1), with(usage, 2)])
        .await
        .unwrap();
    store
        .finish_attempt(first, lost(std::time::Duration::ZERO), vec![])
        .await
        .unwrap();
    let second = claim(&store, LONG).await.fence();
    store.record(second, vec![with(usage, 1)]).await.unwrap();
    let stored = store.session(first.session).await.unwrap().unwrap().usage;
    let tokens = (
        stored.input_tokens,
        stored.output_tokens,
        stored.cache_read_tokens,
    );
    assert_eq!(tokens, (3, 6, 9));
    assert!((stored.cost_usd - 0.75).abs() < 1e-9, "{stored:?}");

    let absurd = Usage {
        input_tokens: u64::MAX,
        turns: u32::MAX,
        cost_usd: f64::MAX,
        ..Usage::default()
    };
    store
        .record(second, vec![with(absurd, 2), with(absurd, 3)])
        .await
        .unwrap();
    let stored = store.session(first.session).await.unwrap().unwrap().usage;
    assert!(
        stored.input_tokens >= u64::MAX / 2 && stored.turns == u32::MAX,
        "{stored:?}"
    );
    assert_eq!(stored.output_tokens, 6);
}

/// Work that is done and pushed is not done again: whoever takes the attempt over knows its result, and so do those that
/// come after it.
pub async fn an_unpublished_result_is_handed_on(store: Subject) {
    let first = running(&store).await;
    let result =
        json!({"summary": "done", "pushed": {"branch": "fabrica/x"}, "verification": [{"seconds": 1.5}]});
    let last = EventRecord {
        messages: vec![],
        result: Some(result.clone()),
        ..event(1)
    };
    store.record(first, vec![last]).await.unwrap();
    store
        .release_leases(&WorkerId::new("worker"), None)
        .await
        .unwrap();
    let same = claim(&store, LONG).await;
    assert_eq!(same.session.attempt, first.attempt);
    assert_eq!(same.reported.as_ref(), Some(&result));
    for _ in 0..2 {
        let fence = claim_again(&store, same.session.id).await;
        assert_eq!(
            fence.reported.as_ref(),
            Some(&result),
            "through every lost attempt"
        );
    }
}

/// An attempt that came further than an earlier one has the last word.
pub async fn the_newest_unpublished_result_counts(store: Subject) {
    let mut fence = running(&store).await;
    for number in 1..=2 {
        let result = json!({"summary": number});
        let last = EventRecord {
            result: Some(result.clone()),
            ..event(1)
        };
        store.record(fence, vec![last]).await.unwrap();
        let next = claim_again(&store, fence.session).await;
        assert_eq!(next.reported, Some(result));
        fence = next.fence();
    }
}

/// Loses the attempt that runs, without counting it, and claims the next.
async fn claim_again(store: &Subject, id: SessionId) -> Claimed {
    let session = store.session(id).await.unwrap().unwrap();
    let worker = session.worker.unwrap();
    store.release_leases(&worker, None).await.unwrap();
    let fence = claim(store, LONG).await.fence();
    let end = lost_without_counting();
    store.finish_attempt(fence, end, vec![]).await.unwrap();
    let next = claim(store, LONG).await;
    assert_eq!(
        (next.session.id, next.session.attempt),
        (id, fence.attempt.next())
    );
    next
}

/// What the orchestrator itself has to say takes its place in the sequence.
pub async fn messages_are_added_in_sequence(store: Subject) {
    let fence = running(&store).await;
    store.record(fence, vec![event(1)]).await.unwrap();
    let added = vec![message("first"), message("second")];
    store.add_messages(fence, added.clone()).await.unwrap();
    store.add_messages(fence, vec![]).await.unwrap();
    store.record(fence, vec![event(2)]).await.unwrap();
    let expected = ["accepted", "event 1", "first", "second", "event 2"];
    assert_eq!(texts(&store, fence.session).await, expected);
    let messages = all_messages(&store, fence.session).await;
    assert_no_gaps(&messages);
    assert_eq!((messages[2].id, messages[3].id), (added[0].id, added[1].id));
    assert_eq!(store.record(fence, vec![]).await.unwrap().acknowledged, 2);
}

/// What was finished is not published again, even if the session is run once more.
pub async fn a_finished_result_is_not_handed_on(store: Subject) {
    let other = running(&store).await;
    let done = EventRecord {
        messages: vec![],
        result: Some(json!({"summary": "done"})),
        ..event(1)
    };
    store.record(other, vec![done]).await.unwrap();
    store
        .finish_attempt(other, AttemptEnd::Completed { heard: 0 }, vec![])
        .await
        .unwrap();

    let first = running(&store).await;
    store
        .finish_attempt(first, lost(std::time::Duration::ZERO), vec![])
        .await
        .unwrap();
    let second = claim(&store, LONG).await;
    assert_eq!((second.session.id, second.reported), (first.session, None));
}

/// The newest artifact of a name counts, of whatever attempt.
pub async fn an_artifact_is_replaced_by_name(store: Subject) {
    let fence = running(&store).await;
    let bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    store
        .store_artifact(fence, artifact("log", b"old"))
        .await
        .unwrap();
    store
        .store_artifact(fence, artifact("log", &bytes))
        .await
        .unwrap();
    store.store_artifact(fence, artifact("empty", b"")).await.unwrap();
    assert_eq!(store.artifact(fence.session, "log").await.unwrap(), Some(bytes));
    assert_eq!(
        store.artifact(fence.session, "empty").await.unwrap(),
        Some(vec![])
    );
    assert_eq!(store.artifact(fence.session, "Log").await.unwrap(), None);
    assert_eq!(store.artifact(ids().session(), "log").await.unwrap(), None);
}

/// The pull request's address is kept.
pub async fn a_pull_request_is_kept(store: Subject) {
    let fence = running(&store).await;
    for _ in 0..2 {
        store
            .set_pull_request(fence, "https://github.com/acme/billing/pull/7")
            .await
            .unwrap();
    }
    let session = store.session(fence.session).await.unwrap().unwrap();
    assert_eq!(
        session.pr_url.as_deref(),
        Some("https://github.com/acme/billing/pull/7")
    );
}
