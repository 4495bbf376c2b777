//! Questions to people, and their answers.

use std::time::Duration;

use super::fixture::{
    LONG, SHORT, Subject, all_messages, assert_no_gaps, claim, claim_as, claim_until, created_as, ids, lost,
    message, new_session, next_notice, question, request, running, texts,
};
use crate::ids::{Fence, LeaseNumber, QuestionId, SessionId};
use crate::ports::StoreError;
use crate::ports::store::{
    Answer, Answered, AttemptEnd, CancelOutcome, NewAnswer, NewQuestion, NewSession, Notice, Question,
    Retention,
};
use crate::protocol::{Escalation, Urgency};
use crate::session::SessionStatus;

/// The session runs, asks, and waits.
pub(super) async fn asked(store: &Subject, new: NewQuestion) -> Fence {
    let fence = running(store).await;
    ask(store, fence, new).await;
    fence
}

async fn ask(store: &Subject, fence: Fence, new: NewQuestion) {
    let status = store
        .finish_attempt(fence, AttemptEnd::Escalated(new), vec![message("asked")])
        .await
        .unwrap();
    assert_eq!(status, SessionStatus::Escalated);
}

pub(super) fn answer(session: SessionId, question: Option<QuestionId>, text: &str) -> NewAnswer {
    NewAnswer {
        session,
        question,
        text: text.into(),
        by: Some("ada".into()),
        plan: None,
        message: message(&format!("answered {text}")),
    }
}

/// The question, if the answer was accepted.
pub(super) async fn accepted(store: &Subject, new: NewAnswer) -> Question {
    match store.answer(new).await.unwrap() {
        Answered::Accepted(question) => question,
        already @ Answered::Already(_) => panic!("{already:?}"),
    }
}

async fn refused(store: &Subject, new: NewAnswer) -> StoreError {
    store.answer(new).await.unwrap_err()
}

async fn status(store: &Subject, id: SessionId) -> SessionStatus {
    store.session(id).await.unwrap().unwrap().status
}

/// What is asked comes back as it was, in the order of the attempts; a question without a deadline waits for ever.
pub async fn a_question_is_stored_with_the_end_of_its_attempt(store: Subject) {
    let new = question();
    let fence = asked(&store, new.clone()).await;
    let id = fence.session;
    let stored = store.questions(id).await.unwrap();
    let expected = Question {
        id: new.id,
        session: id,
        attempt: fence.attempt,
        escalation: new.escalation,
        asked_at: stored[0].asked_at,
        deadline: None,
        then: stored[0].then,
        answer: None,
    };
    assert_eq!(stored, [expected]);
    assert_eq!(texts(&store, id).await, ["accepted", "asked"]);
    assert_eq!(store.due_questions(10).await.unwrap(), []);
    assert_eq!(store.claim(&request("worker", LONG)).await.unwrap(), []);

    accepted(&store, answer(id, None, "eu")).await;
    let plain = NewQuestion {
        escalation: Escalation {
            question: "And now?".into(),
            options: vec![],
            context: String::new(),
            urgency: Urgency::Low,
        },
        ..question()
    };
    ask(&store, claim(&store, LONG).await.fence(), plain.clone()).await;
    let stored = store.questions(id).await.unwrap();
    assert_eq!(stored.len(), 2);
    assert_eq!(
        (stored[0].id, stored[0].answer.is_some()),
        (new.id, true),
        "oldest first"
    );
    assert_eq!(
        (stored[1].id, &stored[1].escalation),
        (plain.id, &plain.escalation)
    );
    assert_eq!(stored[1].attempt, fence.attempt.next());
    assert!(stored[1].asked_at >= stored[0].asked_at);
    assert_eq!(store.questions(ids().session()).await.unwrap(), []);
}

/// Neither the question without the end of the attempt, nor the other way round.
pub async fn a_refused_end_stores_no_question(store: Subject) {
    let fence = running(&store).await;
    let stale = Fence {
        lease: LeaseNumber::new(fence.lease.get() + 1),
        ..fence
    };
    let end = AttemptEnd::Escalated(question());
    let refused = store.finish_attempt(stale, end, vec![]).await;
    assert!(matches!(refused, Err(StoreError::Fenced(_))), "{refused:?}");
    assert_eq!(store.questions(fence.session).await.unwrap(), []);

    // A database refuses the message, whose id is there already, after it has taken in other parts of the end.
    let twice = message("twice");
    store.add_messages(fence, vec![twice.clone()]).await.unwrap();
    let end = AttemptEnd::Escalated(question());
    if store.finish_attempt(fence, end, vec![twice]).await.is_err() {
        assert_eq!(status(&store, fence.session).await, SessionStatus::Running);
        assert_eq!(store.questions(fence.session).await.unwrap(), []);
    } else {
        assert_eq!(store.questions(fence.session).await.unwrap().len(), 1);
    }
}

/// The first answer stands, whatever comes later, also after the session went on.
pub async fn an_answer_is_accepted_once(store: Subject) {
    let new = question();
    let id = asked(&store, new.clone()).await.session;
    let first = accepted(&store, answer(id, Some(new.id), "eu")).await;
    let given = first.answer.clone().unwrap();
    assert_eq!(
        given,
        Answer {
            text: "eu".into(),
            by: Some("ada".into()),
            at: given.at,
        }
    );
    assert_eq!(
        (first.id, first.session, &first.escalation),
        (new.id, id, &new.escalation)
    );
    assert_eq!(store.questions(id).await.unwrap(), std::slice::from_ref(&first));
    let session = store.session(id).await.unwrap().unwrap();
    assert_eq!(
        (session.status, session.completed_at),
        (SessionStatus::Pending, None)
    );
    for _ in 0..2 {
        for which in [None, Some(new.id)] {
            let again = store.answer(answer(id, which, "us")).await.unwrap();
            assert_eq!(again, Answered::Already(first.clone()));
        }
        store.claim(&request("worker", LONG)).await.unwrap();
    }
    assert_eq!(texts(&store, id).await, ["accepted", "asked", "answered eu"]);
    assert_no_gaps(&all_messages(&store, id).await);
}

/// All others are told of the one that was accepted.
pub async fn one_of_many_answers_is_accepted(store: Subject) {
    for _ in 0..3 {
        let new = question();
        let id = asked(&store, new.clone()).await.session;
        let answers = (0..16).map(|number| {
            let store = store.clone();
            let which = (number % 2 == 0).then_some(new.id);
            let mut new = answer(id, which, &number.to_string());
            new.plan = Some((ids().spec(), format!("# Plan {number}")));
            tokio::spawn(async move { store.answer(new).await.unwrap() })
        });
        let (mut accepted, mut told) = (Vec::new(), Vec::new());
        for answered in futures::future::join_all(answers).await {
            match answered.unwrap() {
                Answered::Accepted(question) => accepted.push(question),
                Answered::Already(question) => told.push(question),
            }
        }
        assert_eq!((accepted.len(), told.len()), (1, 15));
        assert!(told.iter().all(|question| *question == accepted[0]), "{told:?}");
        assert_eq!(store.questions(id).await.unwrap(), accepted);
        let text = accepted[0].answer.clone().unwrap().text;
        let expected = format!("answered {text}");
        assert_eq!(texts(&store, id).await, ["accepted", "asked", &expected]);
        let claimed = claim(&store, LONG).await;
        assert_eq!(
            (claimed.spec.version, claimed.max_attempts),
            (2, 3),
            "one answer was at work"
        );
        assert_eq!(claimed.spec.content, format!("# Plan {text}"));
    }
}

/// Another session's question is not this one's.
pub async fn an_answer_meets_only_questions_that_were_asked(store: Subject) {
    let nobody = ids().session();
    let error = refused(&store, answer(nobody, None, "eu")).await;
    assert!(
        matches!(error, StoreError::NoSuchSession(id) if id == nobody),
        "{error}"
    );
    let other = question();
    asked(&store, other.clone()).await;
    let runs = running(&store).await.session;
    for which in [None, Some(other.id), Some(ids().question())] {
        let error = refused(&store, answer(runs, which, "eu")).await;
        assert!(
            matches!(error, StoreError::NoSuchQuestion(id) if id == runs),
            "{error}"
        );
    }
    let waits = asked(&store, question()).await.session;
    let error = refused(&store, answer(waits, Some(other.id), "eu")).await;
    assert!(
        matches!(error, StoreError::NoSuchQuestion(id) if id == waits),
        "{error}"
    );
    assert_eq!(status(&store, waits).await, SessionStatus::Escalated);
    assert_eq!(texts(&store, waits).await, ["accepted", "asked"]);
}

/// Its question stays, without an answer.
pub async fn a_cancelled_session_waits_for_no_answer(store: Subject) {
    let new = question();
    let id = asked(&store, new.clone()).await.session;
    let outcome = store.request_cancel(id, message("cancel")).await.unwrap();
    assert_eq!(outcome, CancelOutcome::Cancelled);
    for which in [None, Some(new.id)] {
        let error = refused(&store, answer(id, which, "eu")).await;
        assert!(
            matches!(error, StoreError::NotWaiting { session, status: SessionStatus::Cancelled } if session == id),
            "{error}"
        );
    }
    let stored = store.questions(id).await.unwrap();
    assert_eq!((stored.len(), &stored[0].answer), (1, &None));
    assert_eq!(texts(&store, id).await, ["accepted", "asked", "cancel"]);
    assert_eq!(status(&store, id).await, SessionStatus::Cancelled);
}

/// Whichever comes first.
pub async fn an_answer_loses_or_wins_against_a_cancellation(store: Subject) {
    for _ in 0..8 {
        let id = asked(&store, question()).await.session;
        let (answered, cancelled) = tokio::join!(
            tokio::spawn({
                let store = store.clone();
                async move { store.answer(answer(id, None, "eu")).await }
            }),
            tokio::spawn({
                let store = store.clone();
                async move { store.request_cancel(id, message("cancel")).await }
            })
        );
        assert_eq!(cancelled.unwrap().unwrap(), CancelOutcome::Cancelled);
        assert_eq!(status(&store, id).await, SessionStatus::Cancelled);
        let answer = store.questions(id).await.unwrap().remove(0).answer;
        match answered.unwrap() {
            Ok(Answered::Accepted(question)) => assert_eq!(answer, question.answer),
            Err(StoreError::NotWaiting { .. }) => assert_eq!(answer, None),
            other => panic!("{other:?}"),
        }
        claim_until(&store, id, SessionStatus::Cancelled).await;
    }
}

/// Earlier versions stay, and the session's own columns too.
pub async fn an_amended_plan_is_the_next_version(store: Subject) {
    let id = asked(&store, question()).await.session;
    let before = store.session(id).await.unwrap().unwrap();
    let first = store.specs(id).await.unwrap().remove(0);
    let mut last = first.clone();
    for (version, content) in [
        (2, "---\nrepo: https://elsewhere\n---\n# Other\n"),
        (3, "# Third"),
    ] {
        let spec = ids().spec();
        let new = NewAnswer {
            plan: Some((spec, content.into())),
            ..answer(id, None, "eu")
        };
        accepted(&store, new).await;
        let claimed = claim(&store, LONG).await;
        assert_eq!(
            (
                claimed.spec.id,
                claimed.spec.version,
                claimed.spec.content.as_str()
            ),
            (spec, version, content)
        );
        assert_eq!(claimed.session.repo_url, before.repo_url);
        assert_eq!(claimed.session.title, before.title);
        let specs = store.specs(id).await.unwrap();
        assert_eq!((&specs[0], specs.len()), (&first, claimed.spec.version as usize));
        assert_eq!(specs[specs.len() - 2], last);
        last = claimed.spec.clone();
        ask(&store, claimed.fence(), question()).await;
    }
    accepted(&store, answer(id, None, "as it is")).await;
    assert_eq!(claim(&store, LONG).await.spec, last);
}

/// Asking costs no attempt: neither the last one, nor one that could still be lost.
pub async fn an_answer_brings_an_attempt_of_its_own(store: Subject) {
    let new = NewSession {
        max_attempts: 1,
        ..new_session()
    };
    let id = created_as(&store, new).await;
    for asked in 1..=3 {
        let claimed = claim(&store, LONG).await;
        assert_eq!(
            (claimed.session.attempt.get(), claimed.max_attempts),
            (asked, asked)
        );
        ask(&store, claimed.fence(), question()).await;
        accepted(&store, answer(id, None, "eu")).await;
    }
    let last = claim(&store, LONG).await.fence();
    let error = store
        .finish_attempt(last, lost(Duration::ZERO), vec![])
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::NoAttemptsLeft(_)), "{error}");
    let status = store
        .finish_attempt(last, AttemptEnd::Completed { heard: 0 }, vec![])
        .await
        .unwrap();
    assert_eq!(status, SessionStatus::Completed);
}

/// To the attempt that goes on with it, to whoever takes it over, and to the attempt after a lost one.
pub async fn an_answered_question_is_handed_on(store: Subject) {
    let fence = asked(&store, question()).await;
    let question = accepted(&store, answer(fence.session, None, "eu")).await;
    let claimed = claim(&store, SHORT).await;
    assert_eq!(claimed.session.attempt, fence.attempt.next());
    assert_eq!(claimed.answered.as_ref(), Some(&question));
    assert_eq!((claimed.resumed, claimed.reported), (None, None));
    let taken = claim_as(&store, "other", LONG).await;
    assert!(taken.resumed.is_some());
    assert_eq!(taken.answered.as_ref(), Some(&question));
    store
        .finish_attempt(taken.fence(), lost(Duration::ZERO), vec![])
        .await
        .unwrap();
    let next = claim(&store, LONG).await;
    assert_eq!(next.session.attempt, fence.attempt.next().next());
    assert_eq!(next.answered, Some(question));
    // Others have nothing to do with it.
    running(&store).await;
    store
        .release_leases(&crate::ids::WorkerId::new("worker"), None)
        .await
        .unwrap();
    for taken in store.claim(&request("worker", LONG)).await.unwrap() {
        assert_eq!(taken.answered.is_some(), taken.session.id == fence.session);
    }
}

/// An older answer is no answer to a question that nobody answered.
pub async fn only_the_newest_question_counts(store: Subject) {
    let (first, second) = (question(), question());
    let id = asked(&store, first.clone()).await.session;
    accepted(&store, answer(id, None, "eu")).await;
    ask(&store, claim(&store, LONG).await.fence(), second.clone()).await;
    let old = store.answer(answer(id, Some(first.id), "us")).await.unwrap();
    assert!(
        matches!(old, Answered::Already(question) if question.id == first.id && question.answer.is_some())
    );
    assert_eq!(status(&store, id).await, SessionStatus::Escalated);
    let question = accepted(&store, answer(id, None, "us")).await;
    assert_eq!((question.id, question.attempt.get()), (second.id, 2));
    assert_eq!(claim(&store, LONG).await.answered, Some(question));
}

/// A worker need not wait until it looks again.
pub async fn an_answer_makes_the_session_claimable(store: Subject) {
    let fence = asked(&store, question()).await;
    let mut stream = store.subscribe().await.unwrap();
    accepted(&store, answer(fence.session, None, "eu")).await;
    next_notice(&mut stream, |notice| *notice == Notice::Claimable).await;
    let claimed = store.claim(&request("worker", LONG)).await.unwrap();
    assert_eq!((claimed.len(), claimed[0].session.id), (1, fence.session));
}

/// Nothing is left of a session that is reaped.
pub async fn questions_go_with_their_session(store: Subject) {
    let gone = asked(&store, question()).await.session;
    accepted(&store, answer(gone, None, "eu")).await;
    ask(&store, claim(&store, LONG).await.fence(), question()).await;
    store.request_cancel(gone, message("cancel")).await.unwrap();
    let kept = asked(&store, question()).await.session;
    let retention = Retention {
        sessions: Some(Duration::ZERO),
        ..Retention::default()
    };
    assert_eq!(store.reap(&retention, 10).await.unwrap().sessions, 1);
    assert_eq!(store.questions(gone).await.unwrap(), []);
    let error = refused(&store, answer(gone, None, "eu")).await;
    assert!(matches!(error, StoreError::NoSuchSession(_)), "{error}");
    assert_eq!(store.questions(kept).await.unwrap().len(), 1);
}
