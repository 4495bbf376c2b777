//! What people say to the agent.

use chrono::{DateTime, Utc};

use crate::ids::{NoteId, SessionId};
use crate::message::NewMessage;

/// Something that a person says to a session's agent, about to be stored.
#[derive(Debug, Clone, PartialEq)]
pub struct NewNote {
    /// Its id.
    pub id: NoteId,
    /// The session.
    pub session: SessionId,
    /// What is said.
    pub text: String,
    /// Who says it.
    pub by: String,
    /// How many attempts the session gets if it has ended and goes on with this; at least 1.
    pub attempts: u32,
    /// What tells of it.
    pub message: NewMessage,
}

/// A note as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Its id.
    pub id: NoteId,
    /// Its session.
    pub session: SessionId,
    /// Its place among the session's notes, from 1, without gaps.
    pub number: u32,
    /// What is said.
    pub text: String,
    /// Who says it.
    pub by: String,
    /// When, in the database's time.
    pub at: DateTime<Utc>,
}

/// What became of `say`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// The agent is told at its next turn, or at its start.
    Queued(Note),
    /// The session had ended; it is `pending` again.
    Continued(Note),
}

impl Said {
    /// The note.
    pub const fn note(&self) -> &Note {
        match self {
            Self::Queued(note) | Self::Continued(note) => note,
        }
    }
}
