//! Questions to people, and their answers.

use chrono::{DateTime, Utc};

use super::state::{Record, State, later};
use crate::ids::{Fence, QuestionId, SessionId};
use crate::message::NewMessage;
use crate::ports::store::{
    Answer, Answered, Due, NewAnswer, NewQuestion, Notice, OnDeadline, Question, StoreError,
};
use crate::session::{SessionStatus, Spec};

/// A question, and what only the store knows of it.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) question: Question,
    remind_at: Option<DateTime<Utc>>,
    reminded: bool,
    /// Without an answer.
    pub(super) closed: bool,
}

impl Asked {
    fn is_open(&self) -> bool {
        self.question.answer.is_none() && !self.closed
    }

    fn due(&self, now: DateTime<Utc>) -> Option<Due> {
        if self.question.deadline? <= now {
            return Some(Due::Deadline);
        }
        (!self.reminded && self.remind_at? <= now).then_some(Due::Reminder)
    }
}

pub(super) fn ask(record: &mut Record, fence: Fence, new: NewQuestion, now: DateTime<Utc>) {
    record.close_questions();
    let NewQuestion {
        id,
        escalation,
        deadline,
    } = new;
    record.questions.push(Asked {
        question: Question {
            id,
            session: fence.session,
            attempt: fence.attempt,
            escalation,
            asked_at: now,
            deadline: deadline.map(|deadline| later(now, deadline.after)),
            then: deadline.map_or(OnDeadline::default(), |deadline| deadline.then),
            answer: None,
        },
        remind_at: deadline.map(|deadline| later(now, deadline.after / 2)),
        reminded: false,
        closed: false,
    });
}

pub(super) fn answer(
    state: &mut State,
    new: NewAnswer,
    now: DateTime<Utc>,
) -> Result<(Answered, Vec<Notice>), StoreError> {
    let session = new.session;
    let record = (state.sessions.get_mut(&session)).ok_or(StoreError::NoSuchSession(session))?;
    let status = record.session.status;
    let asked = match new.question {
        Some(id) => (record.questions.iter_mut()).find(|asked| asked.question.id == id),
        None => record.questions.last_mut(),
    };
    let asked = asked.ok_or(StoreError::NoSuchQuestion(session))?;
    if asked.question.answer.is_some() {
        return Ok((Answered::Already(asked.question.clone()), Vec::new()));
    }
    if !asked.is_open() || status != SessionStatus::Escalated {
        return Err(StoreError::NotWaiting { session, status });
    }
    asked.question.answer = Some(Answer {
        text: new.text,
        by: new.by,
        at: now,
    });
    let accepted = Answered::Accepted(asked.question.clone());
    if let Some((id, content)) = new.plan {
        record.specs.push(Spec {
            id,
            session,
            version: record.specs.last().map_or(1, |spec| spec.version + 1),
            content,
            created_at: now,
        });
    }
    record.max_attempts = record.max_attempts.saturating_add(1);
    record.run_at = now;
    record.set_status(SessionStatus::Pending, now);
    let notices = vec![record.add_message(new.message, now), Notice::Claimable];
    Ok((accepted, notices))
}

pub(super) fn questions(state: &State, session: SessionId) -> Vec<Question> {
    (state.sessions.get(&session).into_iter())
        .flat_map(|record| &record.questions)
        .map(|asked| asked.question.clone())
        .collect()
}

pub(super) fn due(state: &State, limit: u32, now: DateTime<Utc>) -> Vec<(Question, Due)> {
    let mut due: Vec<_> = (state.sessions.values())
        .filter_map(Record::waits_for)
        .filter_map(|asked| Some((asked.question.clone(), asked.due(now)?)))
        .collect();
    due.sort_by_key(|(question, _)| (question.deadline, question.id));
    due.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    due
}

/// The session that waits for the answer to that question.
fn waiting(state: &mut State, question: QuestionId) -> Option<&mut Record> {
    (state.sessions.values_mut()).find(|record| {
        record
            .waits_for()
            .is_some_and(|asked| asked.question.id == question)
    })
}

/// None if nothing was changed.
pub(super) fn remind(
    state: &mut State,
    question: QuestionId,
    message: NewMessage,
    now: DateTime<Utc>,
) -> Option<Notice> {
    let record = waiting(state, question)?;
    let asked = record.questions.last_mut()?;
    (!std::mem::replace(&mut asked.reminded, true)).then(|| record.add_message(message, now))
}

/// None if nothing was changed.
pub(super) fn give_up(
    state: &mut State,
    question: QuestionId,
    message: NewMessage,
    now: DateTime<Utc>,
) -> Option<Notice> {
    let record = waiting(state, question)?;
    if record.waits_for()?.due(now)? != Due::Deadline {
        return None;
    }
    record.close_questions();
    record.set_status(SessionStatus::Failed, now);
    Some(record.add_message(message, now))
}

impl Record {
    /// The open question of a session that waits for its answer.
    fn waits_for(&self) -> Option<&Asked> {
        let escalated = self.session.status == SessionStatus::Escalated;
        (self.questions.last()).filter(|asked| escalated && asked.is_open())
    }

    /// Nobody waits for an answer any more.
    pub(super) fn close_questions(&mut self) {
        for asked in &mut self.questions {
            asked.closed |= asked.is_open();
        }
    }

    /// The newest question, if it has an answer.
    pub(super) fn answered(&self) -> Option<Question> {
        let newest = &self.questions.last()?.question;
        newest.answer.is_some().then(|| newest.clone())
    }
}
