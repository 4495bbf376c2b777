//! Lists, cursors, tokens.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta};

use super::fixture::{LONG, Subject, all_messages, claim, created, entry, event, ids, running, texts};
use crate::ids::{AttemptNumber, SessionId};
use crate::ports::store::{AttemptEnd, EventRecord, SessionFilter, SessionState};
use crate::secrets::TokenHash;
use crate::session::{Session, SessionStatus};

/// Pages of the list follow one another without overlap or gap.
pub async fn lists_newest_first_in_pages(store: Subject) {
    for _ in 0..7 {
        created(&store).await;
    }
    let all = store.sessions(&SessionFilter::default(), 100).await.unwrap();
    let mut sorted = all.clone();
    sorted.sort_by_key(|session: &Session| std::cmp::Reverse((session.created_at, session.id)));
    assert_eq!((all.len(), &all), (7, &sorted));

    let mut paged: Vec<SessionId> = Vec::new();
    loop {
        let filter = SessionFilter {
            before: paged.last().copied(),
            ..SessionFilter::default()
        };
        let page = store.sessions(&filter, 3).await.unwrap();
        assert!(page.len() <= 3);
        if page.is_empty() {
            break;
        }
        paged.extend(page.iter().map(|session| session.id));
    }
    assert_eq!(paged, all.iter().map(|session| session.id).collect::<Vec<_>>());
    let filter = SessionFilter {
        before: Some(ids().session()),
        ..SessionFilter::default()
    };
    assert_eq!(store.sessions(&filter, 3).await.unwrap(), []);
}

/// The list is filtered by status.
pub async fn lists_by_status(store: Subject) {
    let running = running(&store).await.session;
    let pending = created(&store).await;
    let list = |statuses: &[SessionStatus]| {
        let filter = SessionFilter {
            statuses: statuses.to_vec(),
            before: None,
        };
        let store = store.clone();
        async move {
            let mut found: Vec<_> = store
                .sessions(&filter, 9)
                .await
                .unwrap()
                .iter()
                .map(|one| one.id)
                .collect();
            found.sort_unstable();
            found
        }
    };
    let mut both = [running, pending];
    both.sort_unstable();
    assert_eq!(list(&[SessionStatus::Pending]).await, [pending]);
    assert_eq!(list(&[SessionStatus::Running]).await, [running]);
    assert_eq!(list(&[SessionStatus::Failed]).await, []);
    assert_eq!(
        list(&[SessionStatus::Pending, SessionStatus::Running]).await,
        both
    );
    assert_eq!(list(&[]).await, both);
}

/// Where sessions stand, for those who look at the engine: status, attempt, and how long ago they ended.
pub async fn the_states_of_sessions_are_told(store: Subject) {
    assert_eq!(store.session_states(&[]).await.unwrap(), []);
    let runs = running(&store).await;
    let ended = running(&store).await;
    store
        .finish_attempt(ended, AttemptEnd::Completed { heard: 0 }, vec![])
        .await
        .unwrap();
    let waits = created(&store).await;
    let before = states(&store, &[ended.session]).await[&ended.session]
        .ended
        .unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    let found = states(
        &store,
        &[waits, ended.session, ids().session(), runs.session, waits],
    )
    .await;
    assert_eq!(found.len(), 3);
    let state = |id| (found[&id].status, found[&id].attempt, found[&id].ended.is_some());
    assert_eq!(
        state(waits),
        (SessionStatus::Pending, AttemptNumber::new(0), false)
    );
    assert_eq!(state(runs.session), (SessionStatus::Running, runs.attempt, false));
    assert_eq!(
        state(ended.session),
        (SessionStatus::Completed, ended.attempt, true)
    );
    let after = found[&ended.session].ended.unwrap();
    assert!(
        before < after && after < Duration::from_hours(1),
        "{before:?} {after:?}"
    );
}

async fn states(store: &Subject, ids: &[SessionId]) -> HashMap<SessionId, SessionState> {
    let states = store.session_states(ids).await.unwrap();
    let count = states.len();
    let by_id: HashMap<_, _> = states.into_iter().map(|state| (state.id, state)).collect();
    assert_eq!(by_id.len(), count, "each once");
    by_id
}

/// Messages are read on from a sequence number.
pub async fn messages_are_read_after_a_cursor(store: Subject) {
    let fence = running(&store).await;
    store.record(fence, (1..=4).map(event).collect()).await.unwrap();
    assert_eq!(
        texts(&store, fence.session).await,
        ["accepted", "event 1", "event 2", "event 3", "event 4"]
    );
    let page = store.messages(fence.session, 2, 2).await.unwrap();
    assert_eq!(
        page.iter().map(|message| message.sequence).collect::<Vec<_>>(),
        [3, 4]
    );
    assert_eq!(store.messages(fence.session, 5, 2).await.unwrap(), []);
    assert_eq!(store.messages(fence.session, u64::MAX, 2).await.unwrap(), []);
}

/// The time of the first reading stays.
pub async fn a_message_is_marked_as_read_once(store: Subject) {
    let id = created(&store).await;
    let message = all_messages(&store, id).await.remove(0);
    assert!(store.mark_read(message.id).await.unwrap());
    let first = all_messages(&store, id).await[0].read_at.expect("it is read");
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    assert!(store.mark_read(message.id).await.unwrap());
    assert_eq!(all_messages(&store, id).await[0].read_at, Some(first));
}

/// The transcript is read on from a sequence number, over all attempts.
pub async fn transcript_is_read_after_a_cursor(store: Subject) {
    let fence = running(&store).await;
    let at = DateTime::UNIX_EPOCH + TimeDelta::microseconds(1_795_000_000_123_456);
    let events = (1..=5).map(|number| EventRecord {
        event: number,
        transcript: Some((at, entry(&format!("line {number}")))),
        ..EventRecord::default()
    });
    store.record(fence, events.collect()).await.unwrap();
    store
        .finish_attempt(fence, super::fixture::lost(std::time::Duration::ZERO), vec![])
        .await
        .unwrap();
    let second = claim(&store, LONG).await.fence();
    let event = EventRecord {
        event: 1,
        transcript: Some((at, entry("again"))),
        ..EventRecord::default()
    };
    store.record(second, vec![event]).await.unwrap();

    let all = store.transcript(fence.session, 0, 100).await.unwrap();
    let summaries: Vec<_> = all.iter().map(|stored| stored.entry.summary.as_str()).collect();
    assert_eq!(
        summaries,
        ["line 1", "line 2", "line 3", "line 4", "line 5", "again"]
    );
    assert!(all.windows(2).all(|pair| pair[0].sequence < pair[1].sequence));
    assert_eq!(
        (all[0].at, all[0].attempt, all[5].attempt),
        (at, fence.attempt, second.attempt)
    );
    let rest = store.transcript(fence.session, all[2].sequence, 2).await.unwrap();
    assert_eq!(rest, all[3..5]);
}

/// The first token under a name stays.
pub async fn a_token_is_created_once(store: Subject) {
    assert_eq!(store.token("api").await.unwrap(), None);
    let (first, second) = (TokenHash::of("first"), TokenHash::of("second"));
    assert_eq!(store.create_token("api", first).await.unwrap(), first);
    assert_eq!(store.create_token("api", second).await.unwrap(), first);
    assert_eq!(store.create_token("other", second).await.unwrap(), second);
    assert_eq!(store.token("api").await.unwrap(), Some(first));
}
