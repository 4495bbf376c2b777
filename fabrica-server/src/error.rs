//! Why the server did not start or ended.

use fabrica_core::ports::store::StoreError;
use thiserror::Error;

/// Why the server did not start, or ended without being asked to.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}. Choose another address with --listen")]
    Listen {
        /// The address as it was configured.
        address: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The listening address has no host and port.
    #[error(
        "{address:?} is not an address to listen on: expected host:port, such as 127.0.0.1:8080 or [::1]:8080"
    )]
    InvalidAddress {
        /// The address as it was configured.
        address: String,
    },
    /// The configured token cannot serve.
    #[error(
        "FABRICA_API_TOKEN {0}. `openssl rand -hex 32` makes a good one; without the variable the server makes one itself"
    )]
    UnusableToken(&'static str),
    /// The new token could not be shown.
    #[error("the new API token could not be printed: {0}. Set FABRICA_API_TOKEN to a token of your own")]
    TokenNotShown(#[source] std::io::Error),
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The worker ended although nobody asked it to.
    #[error("the worker ended unexpectedly: {0}")]
    Worker(String),
    /// The HTTP side ended although nobody asked it to.
    #[error("the HTTP server ended unexpectedly: {0}")]
    Http(String),
}

impl ServerError {
    /// Stable code of this error.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Listen { .. } => "server.cannot_listen",
            Self::InvalidAddress { .. } => "server.invalid_address",
            Self::UnusableToken(_) => "server.unusable_token",
            Self::TokenNotShown(_) => "server.token_not_shown",
            Self::Store(error) => error.code(),
            Self::Worker(_) => "server.worker_ended",
            Self::Http(_) => "server.http_ended",
        }
    }

    /// Whether the same call may succeed later.
    pub const fn retryable(&self) -> bool {
        match self {
            Self::Store(error) => error.retryable(),
            Self::Worker(_) | Self::Http(_) => true,
            _ => false,
        }
    }
}
