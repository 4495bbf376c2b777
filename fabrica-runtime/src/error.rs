//! Who an engine is, and how what it says becomes a [`RuntimeError`].

use std::fmt;
use std::time::Duration;

use fabrica_core::ports::{RuntimeError, Source};

/// An engine's kind and address: what errors call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EngineName {
    pub(crate) kind: &'static str,
    pub(crate) address: String,
}

impl fmt::Display for EngineName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.kind, self.address)
    }
}

impl EngineName {
    pub(crate) fn unavailable(&self, message: impl Into<String>, source: Option<Source>) -> RuntimeError {
        RuntimeError::Unavailable {
            engine: self.to_string(),
            message: message.into(),
            source,
        }
    }

    /// For a client's error: the message is the innermost cause, which is the one that tells something.
    pub(crate) fn unreachable(&self, error: impl std::error::Error + Send + Sync + 'static) -> RuntimeError {
        self.unavailable(innermost(&error), Some(Box::new(error)))
    }

    pub(crate) fn silent(&self, action: &str, patience: Duration) -> RuntimeError {
        self.unavailable(
            format!(
                "no answer within {} s when asked to {action}",
                patience.as_secs_f32()
            ),
            None,
        )
    }

    pub(crate) fn garbage(&self, error: impl std::error::Error + Send + Sync + 'static) -> RuntimeError {
        self.unavailable(
            format!("what answers there does not speak its protocol: {error}"),
            Some(Box::new(error)),
        )
    }

    pub(crate) fn denied(
        &self,
        action: &str,
        message: impl Into<String>,
        source: Option<Source>,
    ) -> RuntimeError {
        RuntimeError::Denied {
            engine: self.to_string(),
            action: action.to_owned(),
            message: message.into().trim().trim_end_matches(':').to_owned(),
            source,
        }
    }

    pub(crate) fn unsupported(&self, capability: impl Into<String>) -> RuntimeError {
        RuntimeError::Unsupported {
            engine: self.to_string(),
            capability: capability.into(),
        }
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_engine_its_address_and_the_innermost_cause() {
        let engine = EngineName {
            kind: "docker",
            address: "unix:///run/x.sock".to_owned(),
        };
        let inner = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let error = engine.unreachable(std::io::Error::other(inner));
        assert_eq!(
            error.to_string(),
            "docker at unix:///run/x.sock does not answer: connection refused"
        );
        assert!(error.retryable());
    }
}
