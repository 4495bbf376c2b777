//! Notes of people to agents.

use futures::future::join_all;

use super::fixture::{
    LONG, Subject, all_messages, assert_no_gaps, claim, created, ids, message, question, running, texts,
};
use crate::ids::SessionId;
use crate::ports::StoreError;
use crate::ports::store::{AttemptEnd, NewNote, Note, Said};
use crate::session::SessionStatus;

fn note(session: SessionId, text: &str) -> NewNote {
    NewNote {
        id: ids().note(),
        session,
        text: text.into(),
        by: "ada".into(),
        attempts: 2,
        message: message(&format!("ada said {text}")),
    }
}

async fn queued(store: &Subject, new: NewNote) -> Note {
    match store.say(new).await.unwrap() {
        Said::Queued(note) => note,
        continued @ Said::Continued(_) => panic!("{continued:?}"),
    }
}

/// Notes come back as they were, in order, after a number; each has its message.
pub async fn a_note_is_kept_and_told(store: Subject) {
    let id = created(&store).await;
    let first = note(id, "before it runs");
    let stored = queued(&store, first.clone()).await;
    let expected = Note {
        id: first.id,
        session: id,
        number: 1,
        text: first.text,
        by: "ada".into(),
        at: stored.at,
    };
    assert_eq!(stored, expected);
    let claimed = claim(&store, LONG).await;
    assert_eq!(claimed.session.id, id);
    let second = queued(&store, note(id, "while it runs")).await;
    assert_eq!(second.number, 2);
    assert_eq!(store.notes(id, 0).await.unwrap(), [stored, second.clone()]);
    assert_eq!(store.notes(id, 1).await.unwrap(), [second]);
    assert_eq!(store.notes(id, 2).await.unwrap(), []);
    assert_eq!(
        texts(&store, id).await,
        ["accepted", "ada said before it runs", "ada said while it runs"]
    );
    let status = store.session(id).await.unwrap().unwrap().status;
    assert_eq!(status, SessionStatus::Running);
}

/// Of many who speak at once everyone is heard, each with a number of its own.
pub async fn notes_are_numbered_without_gaps_under_concurrency(store: Subject) {
    let id = created(&store).await;
    let said = (0..12).map(|n| store.say(note(id, &n.to_string())));
    for said in join_all(said).await {
        assert!(matches!(said.unwrap(), Said::Queued(_)));
    }
    let numbers: Vec<_> = (store.notes(id, 0).await.unwrap().iter())
        .map(|note| note.number)
        .collect();
    assert_eq!(numbers, (1..=12).collect::<Vec<_>>());
    assert_no_gaps(&all_messages(&store, id).await);
}

/// A session that has ended goes on, with attempts of its own, whatever its end was.
pub async fn a_session_that_has_ended_goes_on(store: Subject) {
    for end in [
        AttemptEnd::Completed { heard: 0 },
        AttemptEnd::Failed(crate::failure::Failure::new("x", "x", "x")),
        AttemptEnd::Cancelled,
    ] {
        let fence = running(&store).await;
        let id = fence.session;
        store.request_cancel(id, message("unused")).await.unwrap();
        store
            .finish_attempt(fence, end, vec![message("ended")])
            .await
            .unwrap();
        let said = store.say(note(id, "go on")).await.unwrap();
        assert!(
            matches!(&said, Said::Continued(note) if note.number == 1),
            "{said:?}"
        );
        let session = store.session(id).await.unwrap().unwrap();
        assert_eq!(session.status, SessionStatus::Pending);
        assert_eq!(session.completed_at, None);
        assert!(!session.cancel_requested);
        let claimed = claim(&store, LONG).await;
        assert_eq!((claimed.session.id, claimed.session.attempt.get()), (id, 2));
        assert_eq!(claimed.max_attempts, 3);
        assert_eq!(claimed.reported, None);
        let end = AttemptEnd::Completed { heard: 1 };
        let status = store.finish_attempt(claimed.fence(), end, vec![]).await.unwrap();
        assert_eq!(status, SessionStatus::Completed);
        assert_eq!(texts(&store, id).await, ["accepted", "ended", "ada said go on"]);
    }
}

/// Nothing that was said is lost because the agent ended at the same time.
pub async fn a_completion_that_has_not_heard_everything_goes_on(store: Subject) {
    let fence = running(&store).await;
    let id = fence.session;
    for text in ["first", "second"] {
        queued(&store, note(id, text)).await;
    }
    let end = AttemptEnd::Completed { heard: 1 };
    let status = store
        .finish_attempt(fence, end, vec![message("completed")])
        .await
        .unwrap();
    assert_eq!(status, SessionStatus::Pending);
    let session = store.session(id).await.unwrap().unwrap();
    assert_eq!(
        (session.status, session.completed_at),
        (SessionStatus::Pending, None)
    );
    let claimed = claim(&store, LONG).await;
    assert_eq!(claimed.session.attempt.get(), 2);
    let end = AttemptEnd::Completed { heard: 2 };
    let status = store.finish_attempt(claimed.fence(), end, vec![]).await.unwrap();
    assert_eq!(status, SessionStatus::Completed);
}

/// Who has asked wants an answer; who is not there hears nothing.
pub async fn nothing_is_said_to_who_waits_for_an_answer_or_is_not_there(store: Subject) {
    let fence = running(&store).await;
    let id = fence.session;
    let end = AttemptEnd::Escalated(question());
    store.finish_attempt(fence, end, vec![]).await.unwrap();
    let refused = store.say(note(id, "hello")).await.unwrap_err();
    assert!(
        matches!(refused, StoreError::WaitsForAnswer(session) if session == id),
        "{refused:?}"
    );
    assert_eq!(store.notes(id, 0).await.unwrap(), []);
    assert_eq!(texts(&store, id).await, ["accepted"]);
    let unknown = ids().session();
    let refused = store.say(note(unknown, "hello")).await.unwrap_err();
    assert!(
        matches!(refused, StoreError::NoSuchSession(session) if session == unknown),
        "{refused:?}"
    );
}
