//! A session and its statuses: the state machine is a pure function.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::ids::{AttemptNumber, SessionId, SpecId, WorkerId};
use crate::protocol::Usage;

/// Where a session is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionStatus {
    /// Waits for a worker.
    Pending,
    /// A worker holds its lease and drives an attempt.
    Running,
    /// The agent asked a person and waits for the answer.
    Escalated,
    /// Done; terminal.
    Completed,
    /// Ended without success; terminal.
    Failed,
    /// Ended by request; terminal.
    Cancelled,
}

/// What can happen to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SessionEvent {
    /// A worker claimed it.
    Claimed,
    /// Its attempt ended with success, and the result is published.
    Completed,
    /// Its attempt ended for good without success, or the question's deadline passed.
    Failed,
    /// The agent asked a person.
    Escalated,
    /// It was cancelled.
    Cancelled,
    /// Its attempt was lost and attempts remain.
    AttemptLost,
    /// A person answered its question.
    Answered,
    /// A follow-up continues a finished session.
    Continued,
}

/// The event is not possible in that status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a session that is {from} cannot be {event:?}")]
pub struct InvalidTransition {
    /// The status it was in.
    pub from: SessionStatus,
    /// What should have happened.
    pub event: SessionEvent,
}

impl SessionStatus {
    /// Every status.
    pub const ALL: [Self; 6] = [
        Self::Pending,
        Self::Running,
        Self::Escalated,
        Self::Completed,
        Self::Failed,
        Self::Cancelled,
    ];

    /// The name in the database and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Escalated => "escalated",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing more happens by itself; a terminal session has a `completed_at`.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }

    /// The status after an event.
    ///
    /// # Errors
    ///
    /// [`InvalidTransition`] for every pair that the design does not name.
    pub const fn after(self, event: SessionEvent) -> Result<Self, InvalidTransition> {
        use SessionEvent as Event;
        match (self, event) {
            (Self::Pending, Event::Claimed) => Ok(Self::Running),
            (Self::Running, Event::Completed) => Ok(Self::Completed),
            (Self::Running, Event::Escalated) => Ok(Self::Escalated),
            (Self::Running | Self::Escalated, Event::Failed) => Ok(Self::Failed),
            (Self::Pending | Self::Running | Self::Escalated, Event::Cancelled) => Ok(Self::Cancelled),
            (Self::Running, Event::AttemptLost)
            | (Self::Escalated, Event::Answered)
            | (Self::Completed | Self::Failed | Self::Cancelled, Event::Continued) => Ok(Self::Pending),
            (from, event) => Err(InvalidTransition { from, event }),
        }
    }
}

impl fmt::Display for SessionStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no status.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("session status {0:?} is none of pending, running, escalated, completed, failed, cancelled")]
pub struct UnknownStatus(String);

impl FromStr for SessionStatus {
    type Err = UnknownStatus;

    fn from_str(text: &str) -> Result<Self, UnknownStatus> {
        Self::ALL
            .into_iter()
            .find(|status| status.as_str() == text)
            .ok_or_else(|| UnknownStatus(text.chars().take(64).collect()))
    }
}

/// A session as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// Where it is on its way.
    pub status: SessionStatus,
    /// The repository as the plan names it.
    pub repo_url: String,
    /// The plan's title; `None` for a session that another program inserted and no worker has read yet.
    pub title: Option<String>,
    /// The branch, once the runner pushed it or an attempt decided on it.
    pub branch_name: Option<String>,
    /// The pull request, once it is open.
    pub pr_url: Option<String>,
    /// The number of its latest attempt; 0 before the first.
    pub attempt: AttemptNumber,
    /// The worker that holds its lease.
    pub worker: Option<WorkerId>,
    /// Whether somebody asked to cancel it.
    pub cancel_requested: bool,
    /// What it used, over all attempts.
    pub usage: Usage,
    /// Who submitted it, where that is known.
    pub submitter: Option<String>,
    /// When it was submitted, in the database's time.
    pub created_at: DateTime<Utc>,
    /// When it reached its terminal status, in the database's time.
    pub completed_at: Option<DateTime<Utc>>,
}

/// One version of a session's plan, byte for byte as it was handed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// Its id.
    pub id: SpecId,
    /// The session that it belongs to.
    pub session: SessionId,
    /// From 1.
    pub version: u32,
    /// The markdown with its frontmatter.
    pub content: String,
    /// When it was stored, in the database's time.
    pub created_at: DateTime<Utc>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: [SessionEvent; 8] = [
        SessionEvent::Claimed,
        SessionEvent::Completed,
        SessionEvent::Failed,
        SessionEvent::Escalated,
        SessionEvent::Cancelled,
        SessionEvent::AttemptLost,
        SessionEvent::Answered,
        SessionEvent::Continued,
    ];

    #[test]
    fn every_pair_of_status_and_event_is_decided() {
        let mut table = String::new();
        for from in SessionStatus::ALL {
            for event in EVENTS {
                let after = from.after(event).map_or("refused", SessionStatus::as_str);
                table.push_str(&format!("{from} + {event:?} = {after}\n"));
            }
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn a_status_is_read_back_from_its_name() {
        for status in SessionStatus::ALL {
            assert_eq!(status.as_str().parse(), Ok(status));
        }
        assert!("Running".parse::<SessionStatus>().is_err());
    }
}
