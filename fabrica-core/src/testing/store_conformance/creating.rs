//! Creating sessions.

use super::fixture::{Subject, all_messages, created, ids, message, new_session};
use crate::ids::AttemptNumber;
use crate::ports::StoreError;
use crate::ports::store::{Created, NewSession, SessionFilter};
use crate::protocol::Usage;
use crate::session::SessionStatus;

/// A session, version 1 of its spec and its first message are there at once.
pub async fn creates_session_spec_and_first_message_together(store: Subject) {
    let new = NewSession {
        submitter: Some("alex".into()),
        ..new_session()
    };
    assert_eq!(
        store.create_session(new.clone()).await.unwrap(),
        Created::New(new.id)
    );

    let session = store
        .session(new.id)
        .await
        .unwrap()
        .expect("the session is there");
    assert_eq!(session.status, SessionStatus::Pending);
    assert_eq!(session.repo_url, new.repo_url);
    assert_eq!(session.title.as_deref(), Some("Do it"));
    assert_eq!(session.submitter.as_deref(), Some("alex"));
    assert_eq!(session.attempt, AttemptNumber::new(0));
    assert_eq!(session.usage, Usage::default());
    assert_eq!(
        (session.branch_name, session.pr_url, session.worker),
        (None, None, None)
    );
    assert_eq!((session.cancel_requested, session.completed_at), (false, None));

    let specs = store.specs(new.id).await.unwrap();
    assert_eq!(specs.len(), 1);
    assert_eq!(
        (specs[0].id, specs[0].session, specs[0].version),
        (new.spec, new.id, 1)
    );
    assert_eq!(specs[0].content, new.content);

    let messages = all_messages(&store, new.id).await;
    assert_eq!(messages.len(), 1);
    assert_eq!((messages[0].id, messages[0].sequence), (new.message.id, 1));
    assert_eq!(
        (messages[0].kind, &messages[0].content),
        (new.message.kind, &new.message.content)
    );
    assert_eq!(messages[0].read_at, None);
}

/// The same key with the same plan is answered with the session that is there.
pub async fn same_idempotency_key_with_same_plan_creates_one_session(store: Subject) {
    let keyed = || NewSession {
        idempotency_key: Some("key".into()),
        ..new_session()
    };
    let first = keyed();
    assert_eq!(
        store.create_session(first.clone()).await.unwrap(),
        Created::New(first.id)
    );
    assert_eq!(
        store.create_session(keyed()).await.unwrap(),
        Created::Existing(first.id)
    );
    assert_eq!(
        store.sessions(&SessionFilter::default(), 10).await.unwrap().len(),
        1
    );
    assert_eq!(all_messages(&store, first.id).await.len(), 1);
    assert_eq!(store.specs(first.id).await.unwrap().len(), 1);
}

/// The same key with another plan is refused, and names the session.
pub async fn same_idempotency_key_with_another_plan_is_a_conflict(store: Subject) {
    let first = NewSession {
        idempotency_key: Some("key".into()),
        ..new_session()
    };
    store.create_session(first.clone()).await.unwrap();
    let other = NewSession {
        content: "another".into(),
        idempotency_key: Some("key".into()),
        ..new_session()
    };
    let error = store.create_session(other.clone()).await.unwrap_err();
    assert!(
        matches!(error, StoreError::IdempotencyConflict(id) if id == first.id),
        "{error}"
    );
    assert_eq!(store.session(other.id).await.unwrap(), None);
    assert_eq!(store.specs(other.id).await.unwrap(), []);
}

/// Of many callers with the same key, one creates.
pub async fn one_session_for_one_key_under_concurrency(store: Subject) {
    let calls = (0..8).map(|_| {
        let store = store.clone();
        let new = NewSession {
            idempotency_key: Some("key".into()),
            ..new_session()
        };
        tokio::spawn(async move { store.create_session(new).await.unwrap() })
    });
    let outcomes: Vec<Created> = futures::future::join_all(calls)
        .await
        .into_iter()
        .map(|outcome| outcome.unwrap())
        .collect();
    let new = outcomes
        .iter()
        .filter(|outcome| matches!(outcome, Created::New(_)))
        .count();
    assert_eq!(new, 1, "{outcomes:?}");
    assert!(
        outcomes
            .iter()
            .all(|outcome| outcome.session() == outcomes[0].session()),
        "{outcomes:?}"
    );
}

/// A creation whose answer was lost can be repeated.
pub async fn a_repeated_creation_is_recognised_by_its_id(store: Subject) {
    let new = new_session();
    assert_eq!(
        store.create_session(new.clone()).await.unwrap(),
        Created::New(new.id)
    );
    assert_eq!(
        store.create_session(new.clone()).await.unwrap(),
        Created::Existing(new.id)
    );
    let other = NewSession {
        content: "another".into(),
        message: message("again"),
        ..new.clone()
    };
    assert!(matches!(
        store.create_session(other).await,
        Err(StoreError::Database { .. })
    ));
    assert_eq!(all_messages(&store, new.id).await.len(), 1);
}

/// What is not there is not an error.
pub async fn an_unknown_session_is_none(store: Subject) {
    created(&store).await;
    let nobody = ids().session();
    assert_eq!(store.session(nobody).await.unwrap(), None);
    assert_eq!(store.specs(nobody).await.unwrap(), []);
    assert_eq!(store.messages(nobody, 0, 10).await.unwrap(), []);
    assert_eq!(store.transcript(nobody, 0, 10).await.unwrap(), []);
    assert_eq!(store.artifact(nobody, "x").await.unwrap(), None);
    assert!(!store.mark_read(ids().message()).await.unwrap());
    let error = store.request_cancel(nobody, message("cancel")).await.unwrap_err();
    assert!(
        matches!(error, StoreError::NoSuchSession(id) if id == nobody),
        "{error}"
    );
}
