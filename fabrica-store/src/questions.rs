//! Questions to people: their rows, and what both adapters decide alike.

use fabrica_core::ids::{AttemptNumber, QuestionId, SessionId};
use fabrica_core::ports::StoreError;
use fabrica_core::ports::store::{Answer, Due, NewQuestion, OnDeadline, Question};
use fabrica_core::protocol::{Escalation, Urgency};
use fabrica_core::session::SessionStatus;
use serde_json::Value;
use sqlx::types::{Json, Uuid};

use crate::rows::{broken, number};
use crate::values::{Moment, microseconds};

/// The columns of [`QuestionRow`], in both dialects.
macro_rules! question_columns {
    () => {
        "id, session_id, attempt, question, options, context, urgency, asked_at, deadline, on_deadline, answer, \
         answered_by, answered_at, closed_at"
    };
}
pub(crate) use question_columns;

/// Neither answered nor closed: the condition of the partial indexes.
macro_rules! open_question {
    () => {
        "answered_at is null and closed_at is null"
    };
}
pub(crate) use open_question;

#[derive(sqlx::FromRow)]
pub(crate) struct QuestionRow {
    id: Uuid,
    session_id: Uuid,
    attempt: i32,
    question: String,
    options: Json<Value>,
    context: String,
    urgency: String,
    asked_at: Moment,
    deadline: Option<Moment>,
    on_deadline: String,
    answer: Option<String>,
    answered_by: Option<String>,
    answered_at: Option<Moment>,
    closed_at: Option<Moment>,
}

#[derive(sqlx::FromRow)]
pub(crate) struct DueRow {
    #[sqlx(flatten)]
    question: QuestionRow,
    /// Whether the deadline has passed.
    over: bool,
}

impl QuestionRow {
    pub(crate) fn id(&self) -> Uuid {
        self.id
    }

    pub(crate) fn session(&self) -> Uuid {
        self.session_id
    }

    fn is_answered(&self) -> bool {
        self.answered_at.is_some()
    }

    fn is_open(&self) -> bool {
        self.answered_at.is_none() && self.closed_at.is_none()
    }
}

impl TryFrom<QuestionRow> for Question {
    type Error = StoreError;

    fn try_from(row: QuestionRow) -> Result<Self, StoreError> {
        let (table, id) = ("questions", row.id);
        let unknown =
            |column: &str, name: &str| broken(table, id, column, format_args!("{name:?} is unknown"));
        let urgency = [Urgency::Low, Urgency::Normal, Urgency::High]
            .into_iter()
            .find(|urgency| urgency.as_str() == row.urgency)
            .ok_or_else(|| unknown("urgency", &row.urgency))?;
        let then = [OnDeadline::Fail, OnDeadline::Proceed]
            .into_iter()
            .find(|then| then.as_str() == row.on_deadline)
            .ok_or_else(|| unknown("on_deadline", &row.on_deadline))?;
        let options =
            serde_json::from_value(row.options.0).map_err(|error| broken(table, id, "options", error))?;
        let answer = row.answer.zip(row.answered_at).map(|(text, at)| Answer {
            text,
            by: row.answered_by,
            at: at.0,
        });
        Ok(Self {
            id: QuestionId::from_uuid(id),
            session: SessionId::from_uuid(row.session_id),
            attempt: AttemptNumber::new(number(table, id, "attempt", row.attempt)?),
            escalation: Escalation {
                question: row.question,
                options,
                context: row.context,
                urgency,
            },
            asked_at: row.asked_at.0,
            deadline: row.deadline.map(|moment| moment.0),
            then,
            answer,
        })
    }
}

impl TryFrom<DueRow> for (Question, Due) {
    type Error = StoreError;

    fn try_from(row: DueRow) -> Result<Self, StoreError> {
        let due = if row.over { Due::Deadline } else { Due::Reminder };
        Ok((row.question.try_into()?, due))
    }
}

/// How long a question waits, in microseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waiting {
    /// Until somebody is reminded.
    pub(crate) reminder: Option<i64>,
    /// Until nobody waits for an answer any more.
    pub(crate) deadline: Option<i64>,
    /// What happens then.
    pub(crate) then: OnDeadline,
}

impl Waiting {
    pub(crate) fn of(question: &NewQuestion) -> Self {
        let deadline = question.deadline.map(|deadline| microseconds(deadline.after));
        Self {
            reminder: deadline.map(|after| after / 2),
            deadline,
            then: question
                .deadline
                .map_or(OnDeadline::default(), |deadline| deadline.then),
        }
    }
}

/// The question, if it was answered before; an error if it can get no answer any more.
pub(crate) fn answered_before(
    row: QuestionRow,
    session: SessionId,
    status: SessionStatus,
) -> Result<Option<Question>, StoreError> {
    if row.is_answered() {
        return row.try_into().map(Some);
    }
    if row.is_open() && status == SessionStatus::Escalated {
        Ok(None)
    } else {
        Err(StoreError::NotWaiting { session, status })
    }
}
