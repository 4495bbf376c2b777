//! What goes wrong in a store.

use thiserror::Error;

use crate::ids::{Fence, SessionId};
use crate::ports::Source;
use crate::session::SessionStatus;

/// Why the store did not do what was asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The attempt is not the session's latest, or has ended.
    #[error("attempt {0} is no longer the session's current one")]
    Fenced(Fence),
    /// An event is missing.
    #[error("event {expected} of attempt {fence} is missing")]
    EventGap {
        /// The attempt.
        fence: Fence,
        /// The number that should come next.
        expected: u64,
    },
    /// The idempotency key came with other content before.
    #[error("the idempotency key was used for another plan, of session {0}")]
    IdempotencyConflict(SessionId),
    /// There is no such session.
    #[error("there is no session {0}")]
    NoSuchSession(SessionId),
    /// The attempt cannot be repeated.
    #[error("session {0} has no attempts left")]
    NoAttemptsLeft(SessionId),
    /// The session never asked that.
    #[error("session {0} has no such question")]
    NoSuchQuestion(SessionId),
    /// The session no longer waits for an answer, and has got none.
    #[error("session {session} is {status} and waits for no answer")]
    NotWaiting {
        /// The session.
        session: SessionId,
        /// Where it is now.
        status: SessionStatus,
    },
    /// The session has asked, and wants an answer instead of a note.
    #[error("session {0} has asked a question: answer it instead")]
    WaitsForAnswer(SessionId),
    /// The database cannot be reached or is busy; the same call may succeed later.
    #[error("the database is unavailable: {message}")]
    Unavailable {
        /// What was seen.
        message: String,
        /// The cause.
        #[source]
        source: Option<Source>,
    },
    /// A row that no version of Fabrica writes.
    #[error("the row {id} of table {table} is broken: {reason}")]
    BrokenRow {
        /// The table.
        table: &'static str,
        /// The row's id.
        id: String,
        /// The column and what is wrong with it.
        reason: String,
    },
    /// The database refused.
    #[error("the database refused: {message}")]
    Database {
        /// Its words.
        message: String,
        /// The cause.
        #[source]
        source: Option<Source>,
    },
}

impl StoreError {
    /// Stable code of this error.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Fenced(_) => "session.fenced",
            Self::EventGap { .. } => "session.event_gap",
            Self::IdempotencyConflict(_) => "session.idempotency_conflict",
            Self::NoSuchSession(_) => "session.not_found",
            Self::NoAttemptsLeft(_) => "session.attempts_exhausted",
            Self::NoSuchQuestion(_) => "question.not_found",
            Self::NotWaiting { .. } => "question.not_open",
            Self::WaitsForAnswer(_) => "session.waits_for_answer",
            Self::Unavailable { .. } => "database.unavailable",
            Self::BrokenRow { .. } => "database.broken_row",
            Self::Database { .. } => "database.refused",
        }
    }

    /// Whether the same call may succeed later.
    pub const fn retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}
