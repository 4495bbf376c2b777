//! The forge: where pull requests are opened.

use std::fmt::Debug;

use async_trait::async_trait;
use thiserror::Error;

use super::Source;
use crate::failure::Failure;
use crate::plan::{PullRequestOptions, Repository};

/// A pull request that should exist.
#[derive(Debug, Clone, PartialEq)]
pub struct PullRequestRequest {
    /// The repository.
    pub repository: Repository,
    /// The branch with the work; it is pushed already.
    pub branch: String,
    /// The branch to merge into.
    pub base: String,
    /// One line.
    pub title: String,
    /// Markdown.
    pub body: String,
    /// Draft, labels, reviewers.
    pub options: PullRequestOptions,
}

/// A pull request that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullRequest {
    /// Where people look at it.
    pub url: String,
    /// Its number on the forge.
    pub number: u64,
    /// Whether this call opened it; otherwise it was there and was brought up to date.
    pub opened: bool,
    /// What could not be done beside it (a label or reviewer that the forge does not know), one sentence each.
    pub warnings: Vec<String>,
}

/// How the work was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Publication {
    /// In a pull request.
    PullRequest(PullRequest),
    /// The pushed branch itself is the result: the repository has no forge.
    Branch,
}

/// Publishes work on the forge that hosts a repository.
///
/// Implementations are trusted: they hold the forge token and run outside of every sandbox.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait Forge: Debug + Send + Sync {
    /// Makes sure that the branch has an open pull request with this title and body. Idempotent: an open pull request
    /// of the same branch is brought up to date instead of opening a second one. Labels and reviewers that the forge
    /// refuses become [`PullRequest::warnings`].
    ///
    /// # Errors
    ///
    /// [`ForgeError`], see its variants.
    async fn publish(&self, request: &PullRequestRequest) -> Result<Publication, ForgeError>;
}

/// Why work could not be published.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ForgeError {
    /// Nobody said which forge the repository's host is.
    #[error("no forge is configured for {0}")]
    NotConfigured(String),
    /// The token is missing, wrong, or lacks a right.
    #[error("the forge refused the credential: {0}")]
    Denied(String),
    /// The repository is not there, or is hidden from the token.
    #[error("the forge does not know the repository or hides it: {0}")]
    NotFound(String),
    /// The forge says that the request is wrong.
    #[error("the forge refused the pull request: {0}")]
    Refused(String),
    /// The forge cannot be reached, is overloaded or failed.
    #[error("the forge is unavailable: {message}")]
    Unavailable {
        /// What was seen.
        message: String,
        /// The cause.
        #[source]
        source: Option<Source>,
    },
}

impl ForgeError {
    /// Stable code of this error.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotConfigured(_) => "forge.not_configured",
            Self::Denied(_) => "forge.denied",
            Self::NotFound(_) => "forge.not_found",
            Self::Refused(_) => "forge.refused",
            Self::Unavailable { .. } => "forge.unavailable",
        }
    }

    /// Whether the same call may succeed later.
    pub const fn retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// What a person is told.
    pub fn failure(&self) -> Failure {
        let advice = match self {
            Self::NotConfigured(_) => {
                "The branch is pushed: open the pull request by hand. Name the host's forge with --forge, so that Fabrica opens the next one."
            }
            Self::Denied(_) => {
                "Give Fabrica a forge token that may read the repository and write pull requests; the branch is pushed, so the pull request can also be opened by hand."
            }
            Self::NotFound(_) => {
                "Check the repository's address and that the token may see it; the branch is pushed."
            }
            Self::Refused(_) => {
                "Read the forge's reason; the branch is pushed, so the pull request can be opened by hand."
            }
            Self::Unavailable { .. } => {
                "The branch is pushed. Open the pull request by hand, or run the plan again once the forge answers."
            }
        };
        Failure {
            retryable: self.retryable(),
            ..Failure::new(self.code(), self.to_string(), advice)
        }
    }
}
