//! The handle and its builder.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use async_trait::async_trait;
use futures::stream::BoxStream;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use super::asking::{AnswerError, AnswerSubmission, submit_answer};
use super::inner::Inner;
use super::options::Options;
use super::pace::Pace;
use super::saying::{NoteError, NoteSubmission, submit_note};
use super::submit::{Submission, SubmitError};
use super::watch::{self, SessionUpdate};
use crate::clock::{Clock, Entropy, IdSource, SystemClock, SystemEntropy};
use crate::ids::{SessionId, WorkerId};
use crate::message::{MessageContent, MessageKind, NewMessage};
use crate::ports::forge::{Forge, ForgeError, Publication, PullRequestRequest};
use crate::ports::gateway::Gateway;
use crate::ports::presence::Presence;
use crate::ports::runtime::ContainerRuntime;
use crate::ports::store::{Answered, CancelOutcome, Created, Said, Store, StoreError};
use crate::session::SessionStatus;

/// A handle to the orchestration; cheap to clone.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use fabrica_core::ids::WorkerId;
/// use fabrica_core::orchestrator::{Options, Orchestrator, Submission};
/// use fabrica_core::testing::{FakeSandbox, FakeStore};
///
/// let sandbox = Arc::new(FakeSandbox::that_completes());
/// let options = Options::new(WorkerId::new("example"), "/usr/lib/fabrica/fabrica-runner");
/// let orchestrator =
///     Orchestrator::builder(Arc::new(FakeStore::default()), sandbox.clone(), sandbox, options).build();
/// let plan = "---\nrepo: https://example.com/acme/app.git\n---\n# Say hello\n";
/// let session = orchestrator.submit(Submission::new(plan)).await?.session();
/// let status = orchestrator.run_session(session, Default::default()).await?;
/// assert_eq!(status.as_str(), "completed");
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Orchestrator {
    pub(super) inner: Arc<Inner>,
}

/// Puts an orchestrator together.
#[derive(Debug)]
pub struct Builder {
    inner: Inner,
}

/// How a worker is asked to end.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Claim nothing more; return once what runs here has ended.
    pub drain: CancellationToken,
    /// Do not wait: end the sandboxes that run here and give their sessions back to the queue.
    pub abort: CancellationToken,
    /// Do not wait, and leave the sandboxes running: whoever works on the same store next, another worker on this machine
    /// or this one after its restart, goes on with them. Takes a few seconds at most.
    pub handover: CancellationToken,
}

impl Orchestrator {
    /// Begins with the parts that every orchestrator needs. Without [`Builder::forge`] the pushed branch is the result.
    pub fn builder(
        store: Arc<dyn Store>,
        runtime: Arc<dyn ContainerRuntime>,
        gateway: Arc<dyn Gateway>,
        options: Options,
    ) -> Builder {
        Builder {
            inner: Inner {
                store,
                runtime,
                gateway,
                forge: Arc::new(BranchOnly),
                presence: Arc::new(NobodyDies),
                clock: Arc::new(SystemClock),
                entropy: Arc::new(SystemEntropy),
                options,
                changes: broadcast::channel(256).0,
                pace: Pace::default(),
                engine_away: AtomicBool::new(false),
            },
        }
    }

    /// Checks a plan and stores it as a `pending` session. When this returns, the session is durable.
    ///
    /// # Errors
    ///
    /// [`SubmitError`]; nothing is stored then.
    pub async fn submit(&self, submission: Submission) -> Result<Created, SubmitError> {
        super::submit::submit(&self.inner, submission).await
    }

    /// What happens to a session, from its beginning, as it happens: messages and transcript entries in order, usage,
    /// statuses. The stream ends after the status that ends the session (or leaves it waiting for a person).
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be listened to; items are errors if it fails later.
    pub async fn watch(
        &self,
        session: SessionId,
    ) -> Result<BoxStream<'static, Result<SessionUpdate, StoreError>>, StoreError> {
        watch::watch(self.inner.store.clone(), session).await
    }

    /// Asks for the end of a session. What its agent committed is pushed all the same.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSuchSession`], or the store's failure.
    pub async fn cancel(&self, session: SessionId) -> Result<CancelOutcome, StoreError> {
        request_cancel(&*self.inner.store, self.inner.ids(), session).await
    }

    /// Answers the question that a session waits with: it is claimed again, and the agent goes on with the answer in a fresh
    /// sandbox. Exactly one answer to a question is accepted.
    ///
    /// # Errors
    ///
    /// [`AnswerError`]; nothing is stored then.
    pub async fn answer(&self, answer: AnswerSubmission) -> Result<Answered, AnswerError> {
        let policy = &self.inner.options.repositories;
        submit_answer(&*self.inner.store, self.inner.ids(), policy, answer).await
    }

    /// Says something to a session's agent: it hears it at its next turn. A session that has ended goes on with it, in the same
    /// conversation and on the same branch.
    ///
    /// # Errors
    ///
    /// [`NoteError`]; nothing is stored then.
    pub async fn say(&self, note: NoteSubmission) -> Result<Said, NoteError> {
        let attempts = self.inner.options.attempts;
        submit_note(&*self.inner.store, self.inner.ids(), attempts, note).await
    }

    /// Works: claims sessions and drives them, until it is asked to end.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be listened to at the start; later failures of the store are retried.
    pub async fn run(&self, shutdown: Shutdown) -> Result<(), StoreError> {
        super::dispatch::run(&self.inner, None, &shutdown).await
    }

    /// Works on one session only, until it is terminal or waits for a person, and returns its status then (or the
    /// status that it has when the shutdown ends the work).
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSuchSession`], or the store's failure.
    pub async fn run_session(
        &self,
        session: SessionId,
        shutdown: Shutdown,
    ) -> Result<SessionStatus, StoreError> {
        super::dispatch::run(&self.inner, Some(session), &shutdown).await?;
        let session_row = self.inner.store.session(session).await?;
        session_row
            .map(|row| row.status)
            .ok_or(StoreError::NoSuchSession(session))
    }

    /// The store, for reading.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.inner.store
    }

    /// The options it works under.
    pub fn options(&self) -> &Options {
        &self.inner.options
    }
}

/// Asks for the end of a session, from a process that has nothing but the store; [`Orchestrator::cancel`] for all others.
///
/// # Errors
///
/// [`StoreError::NoSuchSession`], or the store's failure.
pub async fn request_cancel(
    store: &dyn Store,
    ids: IdSource<'_>,
    session: SessionId,
) -> Result<CancelOutcome, StoreError> {
    let message = NewMessage {
        id: ids.message(),
        kind: MessageKind::Progress,
        content: MessageContent::text("Cancelled while it waited").with("code", "session.cancelled"),
    };
    store.request_cancel(session, message).await
}

impl Builder {
    /// Where pull requests are opened.
    #[must_use]
    pub fn forge(mut self, forge: Arc<dyn Forge>) -> Self {
        self.inner.forge = forge;
        self
    }

    /// Who knows which other workers have died. Without it their leases have to run out first.
    #[must_use]
    pub fn presence(mut self, presence: Arc<dyn Presence>) -> Self {
        self.inner.presence = presence;
        self
    }

    /// Another clock than the machine's.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.inner.clock = clock;
        self
    }

    /// Another source of randomness than the system's.
    #[must_use]
    pub fn entropy(mut self, entropy: Arc<dyn Entropy>) -> Self {
        self.inner.entropy = entropy;
        self
    }

    /// The orchestrator.
    pub fn build(self) -> Orchestrator {
        Orchestrator {
            inner: Arc::new(self.inner),
        }
    }
}

/// The forge of those who have none: the pushed branch is the result.
#[derive(Debug, Clone, Copy, Default)]
pub struct BranchOnly;

#[async_trait]
impl Forge for BranchOnly {
    async fn publish(&self, _: &PullRequestRequest) -> Result<Publication, ForgeError> {
        Ok(Publication::Branch)
    }
}

/// The presence of those who cannot know: leases run out by themselves.
#[derive(Debug, Clone, Copy, Default)]
struct NobodyDies;

#[async_trait]
impl Presence for NobodyDies {
    async fn dead(&self) -> Vec<WorkerId> {
        Vec::new()
    }

    async fn bury(&self, _: &WorkerId) {}
}
