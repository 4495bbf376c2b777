//! What attempts leave for the next one.

use std::time::Duration;

use serde_json::json;

use super::asking::{accepted, answer};
use super::fixture::{LONG, SHORT, Subject, claim, claim_as, created, event, lost, question, running, texts};
use crate::ports::store::{AttemptEnd, EventRecord};
use crate::protocol::{Checkpoint, Usage};

fn checkpoint(commit: &str) -> Checkpoint {
    Checkpoint {
        reference: "refs/fabrica/x/checkpoint".into(),
        commit: commit.into(),
        head: format!("{commit} head"),
        conversation: commit.len().is_multiple_of(2),
        heard: 0,
    }
}

fn checkpointed(number: u64, commit: &str) -> EventRecord {
    EventRecord {
        checkpoint: Some(checkpoint(commit)),
        ..event(number)
    }
}

/// However the attempt ended; and to whoever takes it over.
pub async fn a_checkpoint_is_handed_on_with_its_attempt(store: Subject) {
    let id = created(&store).await;
    let first = claim(&store, SHORT).await;
    assert_eq!(first.checkpoint, None);
    store
        .record(first.fence(), vec![checkpointed(1, "one")])
        .await
        .unwrap();
    let expected = Some((first.session.attempt, checkpoint("one")));
    let taken = claim_as(&store, "other", LONG).await;
    assert!(taken.resumed.is_some());
    assert_eq!((taken.session.id, &taken.checkpoint), (id, &expected));
    store
        .finish_attempt(taken.fence(), lost(Duration::ZERO), vec![])
        .await
        .unwrap();
    let next = claim(&store, LONG).await;
    assert_eq!(next.session.attempt, first.session.attempt.next());
    assert_eq!(next.checkpoint, expected, "it survives the lost attempt");
    store.record(next.fence(), vec![event(1)]).await.unwrap();
    store
        .finish_attempt(next.fence(), AttemptEnd::Escalated(question()), vec![])
        .await
        .unwrap();
    accepted(&store, answer(id, None, "eu")).await;
    let last = claim(&store, LONG).await;
    assert_eq!(last.checkpoint, expected, "whoever made none keeps the older one");
}

/// Of a batch, of an attempt, of the session.
pub async fn the_newest_checkpoint_counts(store: Subject) {
    let fence = running(&store).await;
    let batch = vec![
        checkpointed(1, "one"),
        event(2),
        checkpointed(3, "three"),
        event(4),
    ];
    store.record(fence, batch.clone()).await.unwrap();
    store.record(fence, vec![event(5)]).await.unwrap();
    store.record(fence, batch).await.unwrap();
    store
        .finish_attempt(fence, lost(Duration::ZERO), vec![])
        .await
        .unwrap();
    let second = claim(&store, LONG).await;
    assert_eq!(second.checkpoint, Some((fence.attempt, checkpoint("three"))));
    store
        .record(second.fence(), vec![checkpointed(1, "four")])
        .await
        .unwrap();
    let late = store.record(fence, vec![checkpointed(6, "late")]).await;
    assert!(late.is_err(), "{late:?}");
    store
        .finish_attempt(second.fence(), super::fixture::lost_without_counting(), vec![])
        .await
        .unwrap();
    let third = claim(&store, LONG).await;
    assert_eq!(
        third.checkpoint,
        Some((second.session.attempt, checkpoint("four")))
    );
}

/// Those of many sessions at the same time, with messages, usage and a result.
pub async fn checkpoints_are_recorded_once_beside_everything_else(store: Subject) {
    let mut fences = Vec::new();
    for _ in 0..4 {
        fences.push(running(&store).await);
    }
    let recordings = fences.iter().flat_map(|fence| [*fence; 3]).map(|fence| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut batch = vec![
                checkpointed(1, "one"),
                checkpointed(2, &fence.session.to_string()),
                event(3),
            ];
            batch[1].usage = Some(Usage {
                turns: 1,
                ..Usage::default()
            });
            batch[2].result = Some(json!({"done": true}));
            store.record(fence, batch).await.unwrap()
        })
    });
    for recorded in futures::future::join_all(recordings).await {
        assert_eq!(recorded.unwrap().acknowledged, 3);
    }
    for fence in fences {
        let session = store.session(fence.session).await.unwrap().unwrap();
        assert_eq!(session.usage.turns, 1);
        assert_eq!(
            texts(&store, fence.session).await,
            ["accepted", "event 1", "event 2", "event 3"]
        );
        store
            .finish_attempt(fence, lost(Duration::ZERO), vec![])
            .await
            .unwrap();
        let next = claim(&store, LONG).await;
        let expected = checkpoint(&fence.session.to_string());
        assert_eq!(next.checkpoint, Some((fence.attempt, expected)));
        assert_eq!(next.reported, Some(json!({"done": true})));
    }
}
