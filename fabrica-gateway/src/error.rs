//! What can be wrong with the configuration.

use thiserror::Error;

/// Why a gateway or a forge could not be set up. All of them need somebody to change the configuration.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SetupError {
    /// The HTTP client could not be made, for example because the machine has no trust roots.
    #[error("the HTTP client cannot be set up: {0}")]
    HttpClient(#[source] reqwest::Error),
    /// An address cannot be used.
    #[error("the {what} {url:?} cannot be used: {reason}")]
    Address {
        /// What it is the address of.
        what: &'static str,
        /// The address, without credentials.
        url: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A token cannot be sent in a header.
    #[error("the token of {authority} has characters that no HTTP header can carry")]
    Token {
        /// Whose token.
        authority: String,
    },
}

impl SetupError {
    /// Stable code of this error.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::HttpClient(_) => "gateway.http_client",
            Self::Address { .. } => "gateway.address_invalid",
            Self::Token { .. } => "gateway.token_invalid",
        }
    }
}
