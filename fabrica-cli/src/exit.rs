//! Exit codes. They are part of the command's contract and stand in `fabrica run --help`.

use fabrica_core::session::SessionStatus;

/// How the command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done; for a session: completed.
    Success,
    /// The session failed, or a check did.
    Failure,
    /// The command or the plan is wrong.
    Usage,
    /// The session was cancelled.
    Cancelled,
    /// The session waits for a person.
    Escalated,
    /// Another code of `sysexits.h`: 69 engine or database unavailable, 78 something is not set up.
    Other(u8),
}

impl Exit {
    pub(crate) const UNAVAILABLE: Self = Self::Other(fabrica_cli::assembly::EXIT_UNAVAILABLE);
    pub(crate) const CONFIGURATION: Self = Self::Other(fabrica_cli::assembly::EXIT_CONFIGURATION);

    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failure => 1,
            Self::Usage => 2,
            Self::Cancelled => 3,
            Self::Escalated => 4,
            Self::Other(code) => code,
        }
    }

    /// What a session's status says about the command that ran it. One that is still on its way was given back to the
    /// queue, which only an interruption does.
    pub(crate) const fn of_session(status: SessionStatus) -> Self {
        match status {
            SessionStatus::Completed => Self::Success,
            SessionStatus::Failed => Self::Failure,
            SessionStatus::Cancelled | SessionStatus::Pending | SessionStatus::Running => Self::Cancelled,
            SessionStatus::Escalated => Self::Escalated,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_its_code() {
        let codes: Vec<String> = SessionStatus::ALL
            .map(|status| format!("{status} {}", Exit::of_session(status).code()))
            .into();
        insta::assert_snapshot!(codes.join("\n"), @r"
        pending 3
        running 3
        escalated 4
        completed 0
        failed 1
        cancelled 3
        ");
        assert_eq!(Exit::UNAVAILABLE.code(), 69);
        assert_eq!(Exit::CONFIGURATION.code(), 78);
    }
}
