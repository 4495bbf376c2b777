//! Questions that nobody answers in time.

use std::time::Duration;

use super::asking::{accepted, answer, asked};
use super::fixture::{
    LONG, Subject, all_messages, assert_no_gaps, claim, created, event, message, question, request, texts,
};
use crate::ids::QuestionId;
use crate::ports::StoreError;
use crate::ports::store::{Answered, AttemptEnd, Deadline, Due, NewQuestion, OnDeadline, Question};
use crate::session::SessionStatus;

/// So short that a case can wait for it.
const SOON: Duration = Duration::from_millis(300);
/// How long a case waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(20);

fn waiting_for(after: Duration, then: OnDeadline) -> NewQuestion {
    NewQuestion {
        deadline: Some(Deadline { after, then }),
        ..question()
    }
}

/// Asks what is due until something is.
async fn due(store: &Subject) -> Vec<(Question, Due)> {
    let asks = async {
        loop {
            let due = store.due_questions(10).await.unwrap();
            if !due.is_empty() {
                return due;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asks)
        .await
        .expect("something is due")
}

/// Asks until that is due for the question.
async fn due_for(store: &Subject, wanted: QuestionId, what: Due) -> Question {
    let asks = async {
        loop {
            let due = store.due_questions(100).await.unwrap();
            let found = due
                .into_iter()
                .find(|(question, due)| question.id == wanted && *due == what);
            if let Some((question, _)) = found {
                return question;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asks).await.expect("it is due")
}

/// After half of the time the reminder, after all of it the deadline, whether anybody was reminded or not.
pub async fn a_reminder_is_due_after_half_the_time(store: Subject) {
    let before = std::time::Instant::now();
    let new = waiting_for(SOON * 2, OnDeadline::Proceed);
    asked(&store, new.clone()).await;
    let (reminded, what) = due(&store).await.remove(0);
    // The database's clock may count in milliseconds.
    let slack = Duration::from_millis(2);
    assert!(before.elapsed() + slack >= SOON, "{:?}", before.elapsed());
    assert_eq!(
        (reminded.id, what, reminded.then),
        (new.id, Due::Reminder, OnDeadline::Proceed)
    );
    let waits = (reminded.deadline.unwrap() - reminded.asked_at).to_std().unwrap();
    assert!(
        waits <= SOON * 2 + slack && waits + slack >= SOON * 2,
        "{waits:?}"
    );
    assert_eq!(due_for(&store, new.id, Due::Deadline).await, reminded);
    assert!(before.elapsed() + slack >= SOON * 2, "{:?}", before.elapsed());
}

/// With its message, by whoever comes first; then nothing is due until the deadline.
pub async fn a_reminder_is_sent_once(store: Subject) {
    let new = waiting_for(SOON, OnDeadline::Fail);
    let fence = asked(&store, new.clone()).await;
    due(&store).await;
    let reminders = (0..8).map(|_| {
        let store = store.clone();
        tokio::spawn(async move { store.remind(new.id, message("remember")).await.unwrap() })
    });
    let sent = futures::future::join_all(reminders).await;
    assert_eq!(sent.into_iter().filter(|sent| *sent.as_ref().unwrap()).count(), 1);
    assert_eq!(
        texts(&store, fence.session).await,
        ["accepted", "asked", "remember"]
    );
    let next = due(&store).await;
    assert_eq!((next.len(), next[0].0.id, next[0].1), (1, new.id, Due::Deadline));
    assert!(!store.remind(new.id, message("no")).await.unwrap());
    accepted(&store, answer(fence.session, None, "late, but not too late")).await;
    assert_eq!(store.due_questions(10).await.unwrap(), []);
    assert_no_gaps(&all_messages(&store, fence.session).await);
    assert!(
        !store
            .remind(super::fixture::ids().question(), message("no"))
            .await
            .unwrap()
    );
}

/// Before the deadline, after it, and once more.
pub async fn a_question_is_given_up_once_and_only_after_its_deadline(store: Subject) {
    let new = waiting_for(SOON, OnDeadline::Fail);
    let id = asked(&store, new.clone()).await.session;
    assert!(!store.give_up(new.id, message("early")).await.unwrap());
    let patient = question();
    asked(&store, patient.clone()).await;
    assert!(!store.give_up(patient.id, message("never")).await.unwrap());
    assert_eq!(due(&store).await[0].1, Due::Reminder);
    assert!(!store.give_up(new.id, message("half")).await.unwrap());
    due_for(&store, new.id, Due::Deadline).await;
    let given_up = (0..8).map(|_| {
        let store = store.clone();
        tokio::spawn(async move { store.give_up(new.id, message("over")).await.unwrap() })
    });
    let given_up = futures::future::join_all(given_up).await;
    assert_eq!(
        given_up.into_iter().filter(|one| *one.as_ref().unwrap()).count(),
        1
    );
    let session = store.session(id).await.unwrap().unwrap();
    assert_eq!(session.status, SessionStatus::Failed);
    assert!(session.completed_at.is_some());
    assert_eq!(texts(&store, id).await, ["accepted", "asked", "over"]);
    let error = store.answer(answer(id, None, "eu")).await.unwrap_err();
    assert!(
        matches!(error, StoreError::NotWaiting { session, status: SessionStatus::Failed } if session == id),
        "{error}"
    );
    assert_eq!(store.due_questions(10).await.unwrap(), []);
    assert_eq!(store.claim(&request("worker", LONG)).await.unwrap(), []);
    assert!(
        !store
            .give_up(super::fixture::ids().question(), message("no"))
            .await
            .unwrap()
    );
}

/// One of them, never both.
pub async fn an_answer_or_the_deadline_wins(store: Subject) {
    for _ in 0..8 {
        let new = waiting_for(Duration::ZERO, OnDeadline::Fail);
        let id = asked(&store, new.clone()).await.session;
        due_for(&store, new.id, Due::Deadline).await;
        let (answered, given_up) = tokio::join!(
            tokio::spawn({
                let store = store.clone();
                async move { store.answer(answer(id, Some(new.id), "eu")).await }
            }),
            tokio::spawn({
                let store = store.clone();
                async move { store.give_up(new.id, message("over")).await.unwrap() }
            })
        );
        let status = store.session(id).await.unwrap().unwrap().status;
        let stored = store.questions(id).await.unwrap().remove(0);
        match (answered.unwrap(), given_up.unwrap()) {
            (Ok(Answered::Accepted(question)), false) => {
                assert_eq!((status, stored), (SessionStatus::Pending, question));
                assert_eq!(texts(&store, id).await, ["accepted", "asked", "answered eu"]);
                assert_eq!(claim(&store, LONG).await.session.id, id);
            }
            (Err(StoreError::NotWaiting { .. }), true) => {
                assert_eq!((status, stored.answer), (SessionStatus::Failed, None));
                assert_eq!(texts(&store, id).await, ["accepted", "asked", "over"]);
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Answered, cancelled, or running again.
pub async fn what_no_longer_waits_is_not_due(store: Subject) {
    let new = || waiting_for(Duration::ZERO, OnDeadline::Fail);
    let (answered, cancelled) = (new(), new());
    let first = asked(&store, answered.clone()).await.session;
    accepted(&store, answer(first, None, "eu")).await;
    let claimed = claim(&store, LONG).await;
    assert_eq!(claimed.session.id, first);
    let second = asked(&store, cancelled.clone()).await.session;
    store.request_cancel(second, message("cancel")).await.unwrap();
    created(&store).await;
    assert_eq!(store.due_questions(10).await.unwrap(), []);
    for id in [answered.id, cancelled.id] {
        assert!(!store.remind(id, message("no")).await.unwrap());
        assert!(!store.give_up(id, message("no")).await.unwrap());
    }
    store.record(claimed.fence(), vec![event(1)]).await.unwrap();
    let again = new();
    store
        .finish_attempt(claimed.fence(), AttemptEnd::Escalated(again.clone()), vec![])
        .await
        .unwrap();
    due_for(&store, again.id, Due::Deadline).await;
    assert_eq!(store.due_questions(10).await.unwrap().len(), 1);
    assert!(store.give_up(again.id, message("over")).await.unwrap());
}

/// At most as many as are asked for.
pub async fn the_earliest_deadline_is_due_first(store: Subject) {
    let mut expected = Vec::new();
    for after in [40, 20, 0, 60] {
        let new = waiting_for(Duration::from_millis(after), OnDeadline::Fail);
        asked(&store, new.clone()).await;
        expected.push(new.id);
    }
    asked(&store, waiting_for(LONG, OnDeadline::Fail)).await;
    asked(&store, question()).await;
    for id in &expected {
        due_for(&store, *id, Due::Deadline).await;
    }
    let all = store.due_questions(10).await.unwrap();
    let deadlines: Vec<_> = all
        .iter()
        .map(|(question, _)| question.deadline.unwrap())
        .collect();
    assert!(deadlines.is_sorted(), "{deadlines:?}");
    let mut found: Vec<_> = all.iter().map(|(question, _)| question.id).collect();
    assert_eq!(store.due_questions(2).await.unwrap(), all[..2]);
    assert_eq!(store.due_questions(0).await.unwrap(), []);
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
}
