//! Subscriptions.

use std::time::Duration;

use super::fixture::{
    LONG, Subject, claim, created, event, lost, message, new_session, next_notice, notices_until, running,
};
use crate::ports::store::{AttemptEnd, EventRecord, NewSession, Notice};

/// Every subscriber gets one notice for each message that is stored after it subscribed.
pub async fn every_message_is_noticed_once(store: Subject) {
    let fence = running(&store).await;
    let (mut first, mut second) = (store.subscribe().await.unwrap(), store.subscribe().await.unwrap());
    let batch: Vec<EventRecord> = (1..=30).map(event).collect();
    let created = NewSession { ..new_session() };
    let end = message("done");
    let mut expected: Vec<_> = batch.iter().map(|event| event.messages[0].id).collect();
    expected.extend([created.message.id, end.id]);

    store.record(fence, batch[..10].to_vec()).await.unwrap();
    store.record(fence, batch.clone()).await.unwrap();
    store.create_session(created).await.unwrap();
    store
        .finish_attempt(fence, AttemptEnd::Completed { heard: 0 }, vec![end.clone()])
        .await
        .unwrap();

    for stream in [&mut first, &mut second] {
        let mut noticed = Vec::new();
        for notice in notices_until(stream, end.id).await {
            if let Notice::Message { id, session, kind } = notice {
                if id == end.id {
                    assert_eq!((session, kind), (fence.session, end.kind));
                }
                noticed.push(id);
            }
        }
        // What was stored before the call may still be noticed.
        noticed.retain(|id| expected.contains(id));
        assert_eq!(noticed, expected);
    }
}

/// Workers learn of sessions to claim: new ones, and those that come back at once.
pub async fn claimable_sessions_are_noticed(store: Subject) {
    let mut stream = store.subscribe().await.unwrap();
    created(&store).await;
    next_notice(&mut stream, |notice| *notice == Notice::Claimable).await;
    let fence = claim(&store, LONG).await.fence();
    let mut stream = store.subscribe().await.unwrap();
    store
        .finish_attempt(fence, lost(Duration::ZERO), vec![])
        .await
        .unwrap();
    next_notice(&mut stream, |notice| *notice == Notice::Claimable).await;
}

/// A worker learns that it has to stop.
pub async fn a_request_to_cancel_is_noticed(store: Subject) {
    let fence = running(&store).await;
    let mut stream = store.subscribe().await.unwrap();
    store
        .request_cancel(fence.session, message("cancel"))
        .await
        .unwrap();
    next_notice(&mut stream, |notice| {
        *notice == Notice::CancelRequested(fence.session)
    })
    .await;
}
