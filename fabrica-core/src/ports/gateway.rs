//! The gateway: the sandbox's only way out.

use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use thiserror::Error;

use super::Source;
use crate::failure::Failure;
use crate::ids::Fence;
use crate::plan::Repository;
use crate::protocol::{Acknowledgement, Envelope, Job, Usage};
use crate::secrets::TokenHash;

/// What one attempt may do through the gateway.
#[derive(Debug, Clone)]
pub struct GatewayAccess {
    /// Who it is for. A later attempt of the same session replaces an earlier one.
    pub fence: Fence,
    /// Opens `/session/…` and pushing.
    pub runner_token: TokenHash,
    /// Opens `/model/…`, fetching and signatures.
    pub agent_token: TokenHash,
    /// What `GET /session/job` answers.
    pub job: Job,
    /// The one repository that `/git/repository.git` leads to, and the only one that may be pushed to.
    pub repository: Repository,
    /// The repositories that `/git/submodules/1.git` and so on lead to, for fetching.
    pub submodules: Vec<Repository>,
    /// Where the sandbox's reports go.
    pub sink: Arc<dyn SessionSink>,
}

/// Where the sandbox reaches the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayEndpoint {
    /// The directory on the host that holds the session's socket. The container mounts the directory, not the socket,
    /// so that a restarted Fabrica can put a new socket in its place.
    pub directory: PathBuf,
}

/// Opens and closes the way out of one sandbox.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait Gateway: Debug + Send + Sync {
    /// Lets an attempt in, and returns once its socket accepts connections. Idempotent for the same attempt; an
    /// earlier attempt's access ends. Where a process before this one left the attempt's directory, the new socket takes
    /// the place of the old one in it, so that a sandbox that still runs finds it.
    ///
    /// # Errors
    ///
    /// [`GatewayError`] if the socket cannot be made.
    async fn open(&self, access: GatewayAccess) -> Result<GatewayEndpoint, GatewayError>;

    /// Ends an attempt's access: requests under way are cut off, its tokens are refused from now on, and its socket
    /// and directory are removed. Idempotent; the access of a later attempt is left alone.
    ///
    /// # Errors
    ///
    /// [`GatewayError`] if the directory cannot be removed.
    async fn close(&self, fence: Fence) -> Result<(), GatewayError>;

    /// Ends what this process has of an attempt's access, as `close` does, but leaves the directory and the socket in
    /// it, for the process that goes on with the sandbox: it may have put its own socket in place already.
    async fn release(&self, fence: Fence);
}

/// Takes what one attempt reports. The gateway calls it; the orchestrator implements it.
#[async_trait]
pub trait SessionSink: Debug + Send + Sync {
    /// Whether the attempt's lease is known to be held at this moment. While it is not, the gateway answers nothing: the
    /// sandbox may come again (status 503). It costs nothing to ask.
    fn holds_lease(&self) -> bool;

    /// Makes sure, in the store, that the attempt is still the session's current one. The gateway asks before it lets
    /// anything out that cannot be taken back: a push.
    ///
    /// # Errors
    ///
    /// [`SinkError::Fenced`], [`SinkError::Unavailable`].
    async fn authorize(&self) -> Result<(), SinkError>;

    /// Stores a batch of events and returns what is stored for good, with instructions. An empty batch only asks for
    /// instructions. Events that were stored before are acknowledged again and do nothing.
    ///
    /// # Errors
    ///
    /// [`SinkError`]; nothing of the batch is acknowledged then.
    async fn deliver(&self, events: Vec<Envelope>) -> Result<Acknowledgement, SinkError>;

    /// Stores an artifact under a name; the same name replaces the content.
    ///
    /// # Errors
    ///
    /// [`SinkError`].
    async fn store_artifact(&self, name: String, content: Vec<u8>) -> Result<(), SinkError>;

    /// An artifact of the session, of this or of an earlier attempt; `None` if there is none of that name.
    ///
    /// # Errors
    ///
    /// [`SinkError`].
    async fn artifact(&self, name: &str) -> Result<Option<Vec<u8>>, SinkError>;

    /// Whether the session may ask this model now. The gateway asks before every request to the model; it costs nothing.
    ///
    /// # Errors
    ///
    /// [`ModelRefusal`], which the agent is told and must not try again.
    fn may_ask(&self, model: &str) -> Result<(), ModelRefusal>;

    /// Adds what a request to the model used, as far as its answer told. The gateway waits for this before it ends the
    /// answer, so that the next request is only asked for once this one is counted. What cannot be stored now is kept and
    /// stored with the next.
    async fn used(&self, used: ModelUse);
}

/// What one request to the model used, as the provider's answer says.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelUse {
    /// The model that answered, as the provider names it.
    pub model: String,
    /// The tokens; neither cost nor turns.
    pub usage: Usage,
    /// How many of the tokens that were written to the provider's cache are kept for an hour instead of five minutes.
    pub hour_cache_write_tokens: u64,
}

/// Why the model may not be asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{detail}")]
pub struct ModelRefusal {
    /// Stable code: `budget.reached`, `budget.price_unknown`.
    pub code: &'static str,
    /// What happened and what to do.
    pub detail: String,
}

/// Why a report was not taken.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SinkError {
    /// A later attempt exists, or this one has ended.
    #[error("this attempt is no longer the session's current one")]
    Fenced,
    /// An event is missing before the first one of the batch.
    #[error("event {expected} is missing")]
    Gap {
        /// The number that should come next.
        expected: u64,
    },
    /// The report cannot be stored now; send it again.
    #[error("the report cannot be stored now: {0}")]
    Unavailable(#[source] Source),
}

/// Why a way out could not be opened or closed.
#[derive(Debug, Error)]
#[error("the gateway cannot {action} {}: {source}", directory.display())]
pub struct GatewayError {
    /// What should have been done: `create`, `listen in`, `remove`.
    pub action: &'static str,
    /// The session's directory.
    pub directory: PathBuf,
    /// The cause.
    #[source]
    pub source: std::io::Error,
}

impl GatewayError {
    /// Stable code of this error.
    pub const fn code(&self) -> &'static str {
        "gateway.unavailable"
    }

    /// What a person is told.
    pub fn failure(&self) -> Failure {
        Failure::new(
            self.code(),
            self.to_string(),
            "Check that the directory's parent exists, belongs to the user who runs Fabrica, has free space, and that its path is short (a socket's path has at most 108 bytes).",
        )
        .retryable()
    }
}
