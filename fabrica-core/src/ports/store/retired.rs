//! How a claim ends the sessions that are not to be run again.

use crate::failure::Failure;
use crate::session::SessionStatus;

/// Why a session that could be claimed by its time is ended instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retired {
    /// Its cancellation was asked for, and no worker lives to obey.
    Cancelled,
    /// The lease of its last attempt ran out.
    Exhausted,
}

impl Retired {
    /// The status that it gets.
    pub const fn status(self) -> SessionStatus {
        match self {
            Self::Cancelled => SessionStatus::Cancelled,
            Self::Exhausted => SessionStatus::Failed,
        }
    }

    /// What its `error` message tells.
    pub fn failure(self, attempts: u32) -> Failure {
        match self {
            Self::Cancelled => Failure::new(
                "session.cancelled",
                "The session was cancelled as requested; its worker no longer answered",
                "Submit the plan again to start over.",
            ),
            Self::Exhausted => Failure::new(
                "session.attempts_exhausted",
                format!("All {attempts} attempts were lost: the worker stopped before the last one ended"),
                "Check that the workers stay up and reach the database, then submit the plan again or raise \
                 limits.attempts.",
            ),
        }
    }
}
