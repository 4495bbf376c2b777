//! How a claim ends a session that is not to be run again.

use crate::failure::Failure;
use crate::session::SessionStatus;

/// A pending session whose cancellation was asked for while its last attempt ran: that attempt was lost before it could
/// obey, and no worker is left to do so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retired;

impl Retired {
    /// The status that it gets.
    pub const STATUS: SessionStatus = SessionStatus::Cancelled;

    /// What its `error` message tells.
    pub fn failure() -> Failure {
        Failure::new(
            "session.cancelled",
            "The session was cancelled as requested; its worker no longer answered",
            "Submit the plan again to start over.",
        )
    }
}
