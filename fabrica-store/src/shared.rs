//! What both adapters decide alike.

use std::time::Duration;

use fabrica_core::clock::{IdSource, SystemClock, SystemEntropy};
use fabrica_core::failure::Failure;
use fabrica_core::ids::{MessageId, SessionId};
use fabrica_core::message::{MessageContent, MessageKind, NewMessage};
use fabrica_core::ports::StoreError;
use fabrica_core::ports::store::{AttemptEnd, MAX_UNCOUNTED_ATTEMPTS, NewQuestion, Retired};
use fabrica_core::session::SessionStatus;

/// An id for a message that the store itself writes.
fn message_id() -> MessageId {
    IdSource::new(&SystemClock, &SystemEntropy).message()
}

/// The message that tells why a claim ended the session.
pub(crate) fn retirement() -> NewMessage {
    let content = MessageContent::failure(&Retired::failure());
    NewMessage {
        id: message_id(),
        kind: MessageKind::Error,
        content,
    }
}

/// What decides how an attempt may end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Standing {
    pub(crate) attempts_left: bool,
    /// How many attempts were lost without counting.
    pub(crate) uncounted: i32,
    pub(crate) cancel_requested: bool,
}

/// What an end of an attempt writes.
pub(crate) struct Ending {
    pub(crate) status: SessionStatus,
    pub(crate) outcome: &'static str,
    pub(crate) failure: Option<Failure>,
    pub(crate) delay: Duration,
    /// How many attempts the session gets in place of this one: 0 or 1.
    pub(crate) replaced: i32,
    /// How many attempts it gets on top: 0 or 1.
    pub(crate) granted: i32,
    /// What is asked.
    pub(crate) question: Option<NewQuestion>,
}

impl Ending {
    pub(crate) fn of(session: SessionId, end: AttemptEnd, standing: Standing) -> Result<Self, StoreError> {
        let ending = |status, outcome, failure| Self {
            status,
            outcome,
            failure,
            delay: Duration::ZERO,
            replaced: 0,
            granted: 0,
            question: None,
        };
        Ok(match end {
            AttemptEnd::Completed { .. } => ending(SessionStatus::Completed, "completed", None),
            AttemptEnd::Failed(failure) => ending(SessionStatus::Failed, "failed", Some(failure)),
            AttemptEnd::Cancelled => ending(SessionStatus::Cancelled, "cancelled", None),
            AttemptEnd::Escalated(question) => Self {
                question: Some(question),
                ..ending(SessionStatus::Escalated, "escalated", None)
            },
            AttemptEnd::Lost {
                failure,
                delay,
                counts,
            } => {
                let replaced = !counts && standing.uncounted.unsigned_abs() < MAX_UNCOUNTED_ATTEMPTS;
                if !replaced && !standing.attempts_left {
                    return Err(StoreError::NoAttemptsLeft(session));
                }
                Self {
                    delay: if standing.cancel_requested {
                        Duration::ZERO
                    } else {
                        delay
                    },
                    replaced: i32::from(replaced),
                    ..ending(SessionStatus::Pending, "lost", Some(failure))
                }
            }
        })
    }
}

impl Ending {
    /// The same end of a session that goes on at once, since the agent has not heard everything.
    pub(crate) fn going_on(self) -> Self {
        Self {
            status: SessionStatus::Pending,
            granted: 1,
            ..self
        }
    }
}

/// What is said if a session's id comes again with another plan.
pub(crate) fn other_plan(id: SessionId) -> StoreError {
    StoreError::Database {
        message: format!("session {id} exists with another plan"),
        source: None,
    }
}
