//! bollard's errors in the words of the port.

use bollard::errors::Error;
use fabrica_core::ports::RuntimeError;

use crate::error::EngineName;

/// The daemon answered with that status.
pub(super) fn is_status(error: &Error, status: u16) -> bool {
    matches!(error, Error::DockerResponseServerError { status_code, .. } if *status_code == status)
}

pub(super) fn translate(name: &EngineName, action: &str, error: Error) -> RuntimeError {
    match error {
        Error::DockerResponseServerError {
            status_code: 502..=504,
            ref message,
        } => name.unavailable(message.clone(), Some(Box::new(error))),
        Error::DockerResponseServerError { ref message, .. }
        | Error::DockerStreamError { error: ref message } => {
            name.denied(action, message.clone(), Some(Box::new(error)))
        }
        Error::JsonDataError { .. }
        | Error::JsonSerdeError { .. }
        | Error::StrParseError { .. }
        | Error::APIVersionParseError {}
        | Error::HttpHeaderNotFoundError(_) => name.garbage(error),
        error => name.unreachable(error),
    }
}
