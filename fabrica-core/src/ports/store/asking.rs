//! Questions to people, and their answers.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::ids::{AttemptNumber, QuestionId, SessionId, SpecId};
use crate::message::NewMessage;
use crate::protocol::Escalation;

/// A question that is about to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewQuestion {
    /// Its id.
    pub id: QuestionId,
    /// What is asked.
    pub escalation: Escalation,
    /// How long it waits for an answer, and what happens then; `None` waits for ever.
    pub deadline: Option<Deadline>,
}

/// How long a question waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    /// From when the question is stored, in the database's time.
    pub after: Duration,
    /// What happens then.
    pub then: OnDeadline,
}

/// What happens to a session whose question nobody answered in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDeadline {
    /// It fails.
    #[default]
    Fail,
    /// The agent goes on and decides by itself.
    Proceed,
}

impl OnDeadline {
    /// The name in the database and in plans.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fail => "fail",
            Self::Proceed => "proceed",
        }
    }
}

/// A question as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// Its id.
    pub id: QuestionId,
    /// Its session.
    pub session: SessionId,
    /// The attempt that asked.
    pub attempt: AttemptNumber,
    /// What is asked.
    pub escalation: Escalation,
    /// When it was stored, in the database's time.
    pub asked_at: DateTime<Utc>,
    /// Until when an answer is waited for.
    pub deadline: Option<DateTime<Utc>>,
    /// What happens then.
    pub then: OnDeadline,
    /// The answer, once there is one.
    pub answer: Option<Answer>,
}

/// The answer to a question.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// What was answered.
    pub text: String,
    /// Who answered; `None` if nobody did before the deadline.
    pub by: Option<String>,
    /// When, in the database's time.
    pub at: DateTime<Utc>,
}

/// An answer that is about to be stored.
#[derive(Debug, Clone, PartialEq)]
pub struct NewAnswer {
    /// The session that waits.
    pub session: SessionId,
    /// The question that is answered; `None` is the one that is open.
    pub question: Option<QuestionId>,
    /// What is answered.
    pub text: String,
    /// Who answers; `None` if nobody did before the deadline.
    pub by: Option<String>,
    /// A new version of the plan.
    pub plan: Option<(SpecId, String)>,
    /// What tells of it.
    pub message: NewMessage,
}

/// What became of `answer`.
#[derive(Debug, Clone, PartialEq)]
pub enum Answered {
    /// The session is `pending` again.
    Accepted(Question),
    /// The question had an answer before, which stands; nothing was changed.
    Already(Question),
}

/// What an open question is due for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Half of its time is over, and nobody has been reminded yet.
    Reminder,
    /// Its deadline has passed.
    Deadline,
}
