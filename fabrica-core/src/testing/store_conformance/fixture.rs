//! What the cases are built from.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};

use crate::clock::{IdSource, SystemClock, SystemEntropy};
use crate::failure::Failure;
use crate::ids::{Fence, SessionId, WorkerId};
use crate::message::{Message, MessageContent, MessageKind, NewMessage};
use crate::ports::store::{
    AttemptEnd, AttemptStart, ClaimLimits, ClaimRequest, Claimed, EventRecord, NewArtifact, NewQuestion,
    NewSession, Notice,
};
use crate::ports::{Store, StoreError};
use crate::protocol::{Escalation, TranscriptEntry, Urgency};
use crate::secrets::TokenHash;

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
        priority: 0,
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
        takeovers: 10,
        only: None,
        limits: ClaimLimits::default(),
    }
}

/// Claims until something is claimed: for a lease to run out, for a delay to pass.
pub(super) async fn claim(store: &Subject, lease: Duration) -> Claimed {
    claim_as(store, "worker", lease).await
}

/// Claims until that worker gets something.
pub(super) async fn claim_as(store: &Subject, worker: &str, lease: Duration) -> Claimed {
    let claims = async {
        loop {
            if let Some(claimed) = store.claim(&request(worker, lease)).await.unwrap().pop() {
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
        counts: true,
    }
}

pub(super) fn lost_without_counting() -> AttemptEnd {
    match lost(Duration::ZERO) {
        AttemptEnd::Lost { failure, delay, .. } => AttemptEnd::Lost {
            failure,
            delay,
            counts: false,
        },
        other => other,
    }
}

/// A question that waits for ever.
pub(super) fn question() -> NewQuestion {
    NewQuestion {
        id: ids().question(),
        escalation: Escalation {
            question: "Which region?".into(),
            options: vec!["eu".into(), "us".into()],
            context: "Both have room.".into(),
            urgency: Urgency::High,
        },
        deadline: None,
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

pub(super) fn start(title: &str) -> AttemptStart {
    AttemptStart {
        container: "fabrica-x-1".into(),
        branch: "fabrica/x".into(),
        title: title.into(),
        runner_token: TokenHash::of("runner"),
        agent_token: TokenHash::of("agent"),
    }
}

pub(super) fn artifact(name: &str, content: &[u8]) -> NewArtifact {
    NewArtifact {
        id: ids().artifact(),
        name: name.into(),
        content: content.to_vec(),
    }
}

/// Nothing that these write to the session is stored.
pub(super) async fn assert_every_write_is_refused(store: &Subject, id: SessionId, fences: &[Fence]) {
    let before = (store.session(id).await.unwrap(), all_messages(store, id).await);
    for fence in fences.iter().copied() {
        refused(fence, &store.start_attempt(fence, start("late")).await);
        refused(fence, &store.record(fence, vec![event(2)]).await);
        refused(fence, &store.record(fence, vec![event(1)]).await);
        refused(fence, &store.record(fence, vec![]).await);
        refused(fence, &store.add_messages(fence, vec![message("late")]).await);
        refused(fence, &store.add_messages(fence, vec![]).await);
        refused(fence, &store.store_artifact(fence, artifact("late", b"x")).await);
        refused(fence, &store.set_pull_request(fence, "https://late").await);
        let ends = [
            AttemptEnd::Completed { heard: 0 },
            AttemptEnd::Cancelled,
            AttemptEnd::Escalated(question()),
            lost(Duration::ZERO),
        ];
        for end in ends {
            let messages = vec![message("late")];
            refused(fence, &store.finish_attempt(fence, end, messages).await);
        }
        for worker in ["worker", "other"] {
            let worker = WorkerId::new(worker);
            assert_eq!(store.renew_leases(&worker, &[fence], LONG).await.unwrap(), []);
            assert_eq!(store.release_leases(&worker, Some(vec![fence])).await.unwrap(), 0);
        }
    }
    assert_eq!(
        before,
        (store.session(id).await.unwrap(), all_messages(store, id).await)
    );
    assert_eq!(store.artifact(id, "late").await.unwrap(), None);
}

fn refused<T: std::fmt::Debug>(fence: Fence, outcome: &Result<T, StoreError>) {
    assert!(
        matches!(&outcome, Err(StoreError::Fenced(refused)) if *refused == fence),
        "{outcome:?}"
    );
}
