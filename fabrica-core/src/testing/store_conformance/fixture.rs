//! What the cases are built from.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};

use crate::clock::{IdSource, SystemClock, SystemEntropy};
use crate::failure::Failure;
use crate::ids::{Fence, SessionId, WorkerId};
use crate::message::{Message, MessageContent, MessageKind, NewMessage};
use crate::ports::Store;
use crate::ports::store::{AttemptEnd, ClaimRequest, Claimed, EventRecord, NewSession, Notice};
use crate::protocol::TranscriptEntry;

/// Long enough for every case.
pub(super) const LONG: Duration = Duration::from_mins(10);
/// So short that a case can wait for its end.
pub(super) const SHORT: Duration = Duration::from_millis(30);
/// How long a case waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) type Subject = Arc<dyn Store>;

pub(super) fn ids() -> IdSource<'static> {
    IdSource::new(&SystemClock, &SystemEntropy)
}

pub(super) fn message(text: &str) -> NewMessage {
    NewMessage {
        id: ids().message(),
        kind: MessageKind::Progress,
        content: MessageContent::text(text),
    }
}

pub(super) fn new_session() -> NewSession {
    NewSession {
        id: ids().session(),
        spec: ids().spec(),
        content: "---\nrepo: https://github.com/acme/billing.git\n---\n# Do it\n".into(),
        repo_url: "https://github.com/acme/billing.git".into(),
        title: "Do it".into(),
        max_attempts: 2,
        submitter: None,
        idempotency_key: None,
        held: Duration::ZERO,
        message: message("accepted"),
    }
}

pub(super) async fn created(store: &Subject) -> SessionId {
    created_as(store, new_session()).await
}

pub(super) async fn created_as(store: &Subject, session: NewSession) -> SessionId {
    store.create_session(session).await.unwrap().session()
}

pub(super) fn request(worker: &str, lease: Duration) -> ClaimRequest {
    ClaimRequest {
        worker: WorkerId::new(worker),
        lease,
        limit: 10,
        only: None,
    }
}

/// Claims until something is claimed: for a lease to run out, for a delay to pass.
pub(super) async fn claim(store: &Subject, lease: Duration) -> Claimed {
    let claims = async {
        loop {
            if let Some(claimed) = store.claim(&request("worker", lease)).await.unwrap().pop() {
                return claimed;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, claims)
        .await
        .expect("a session becomes claimable")
}

/// Claims in vain until the session has that status.
pub(super) async fn claim_until(store: &Subject, id: SessionId, status: crate::session::SessionStatus) {
    let claims = async {
        loop {
            assert_eq!(
                store.claim(&request("worker", LONG)).await.unwrap(),
                [],
                "nothing is to be run again"
            );
            if store.session(id).await.unwrap().unwrap().status == status {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, claims)
        .await
        .expect("the session reaches its status");
}

/// A session that runs under a long lease.
pub(super) async fn running(store: &Subject) -> Fence {
    created(store).await;
    claim(store, LONG).await.fence()
}

pub(super) fn event(number: u64) -> EventRecord {
    EventRecord {
        event: number,
        messages: vec![message(&format!("event {number}"))],
        ..EventRecord::default()
    }
}

pub(super) fn entry(summary: &str) -> TranscriptEntry {
    TranscriptEntry {
        kind: "text".into(),
        parent: None,
        summary: summary.into(),
        detail: serde_json::Map::new(),
    }
}

pub(super) fn lost(delay: Duration) -> AttemptEnd {
    AttemptEnd::Lost {
        failure: Failure::new("runtime.lost", "the container is gone", "Wait."),
        delay,
    }
}

pub(super) async fn all_messages(store: &Subject, session: SessionId) -> Vec<Message> {
    store.messages(session, 0, 100_000).await.unwrap()
}

pub(super) async fn texts(store: &Subject, session: SessionId) -> Vec<String> {
    all_messages(store, session)
        .await
        .into_iter()
        .map(|message| message.content.message)
        .collect()
}

/// Asserts that the sequence is 1, 2, 3, …
pub(super) fn assert_no_gaps(messages: &[Message]) {
    let sequences: Vec<u64> = messages.iter().map(|message| message.sequence).collect();
    let expected: Vec<u64> = (1..).take(messages.len()).collect();
    assert_eq!(sequences, expected, "the sequence has no gaps");
}

/// The next notice that is wanted.
pub(super) async fn next_notice(
    stream: &mut BoxStream<'static, Notice>,
    wanted: impl Fn(&Notice) -> bool,
) -> Notice {
    let next = async {
        loop {
            let notice = stream.next().await.expect("the stream goes on");
            if wanted(&notice) {
                return notice;
            }
        }
    };
    tokio::time::timeout(PATIENCE, next)
        .await
        .expect("a notice comes")
}

/// What the stream holds by the time that a marker message comes through.
pub(super) async fn notices_until(
    stream: &mut (impl Stream<Item = Notice> + Unpin),
    marker: crate::ids::MessageId,
) -> Vec<Notice> {
    let mut seen = Vec::new();
    let collect = async {
        while let Some(notice) = stream.next().await {
            let last = matches!(notice, Notice::Message { id, .. } if id == marker);
            seen.push(notice);
            if last {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, collect)
        .await
        .expect("the marker's notice comes");
    seen
}
