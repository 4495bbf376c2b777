//! The store: what is durable. Its methods are atomic use cases, not table access.

mod asking;
mod attempts;
mod error;
mod retired;
mod saying;
mod storable;

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures::stream::BoxStream;

pub use self::asking::{Answer, Answered, Deadline, Due, NewAnswer, NewQuestion, OnDeadline, Question};
pub use self::attempts::{
    AttemptEnd, AttemptStart, ClaimLimits, ClaimRequest, Claimed, EventRecord, MAX_UNCOUNTED_ATTEMPTS,
    Recorded, Resumed,
};
pub use self::error::StoreError;
pub use self::retired::Retired;
pub use self::saying::{NewNote, Note, Said};
pub use self::storable::Storable;
use crate::ids::{ArtifactId, AttemptNumber, Fence, MessageId, QuestionId, SessionId, SpecId, WorkerId};
use crate::message::{Message, MessageKind, NewMessage};
use crate::protocol::TranscriptEntry;
use crate::secrets::TokenHash;
use crate::session::{Session, SessionStatus, Spec};

/// A session that is about to be created.
#[derive(Debug, Clone, PartialEq)]
pub struct NewSession {
    /// Its id.
    pub id: SessionId,
    /// The id of its spec, version 1.
    pub spec: SpecId,
    /// The plan, byte for byte.
    pub content: String,
    /// The repository as the plan names it.
    pub repo_url: String,
    /// The plan's title.
    pub title: String,
    /// How many attempts it has, from 1.
    pub max_attempts: u32,
    /// How much it matters: those with a higher number are claimed first. From -100 to 100.
    pub priority: i32,
    /// Who submits it.
    pub submitter: Option<String>,
    /// The same key with the same content creates one session only, for [`IDEMPOTENCY_WINDOW`].
    pub idempotency_key: Option<String>,
    /// How long it waits for a worker that asks for it alone, before any worker may claim it.
    pub held: Duration,
    /// Its first message.
    pub message: NewMessage,
}

/// What became of `create_session`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// A new session.
    New(SessionId),
    /// The session that the same idempotency key created before.
    Existing(SessionId),
}

impl Created {
    /// The session, new or not.
    pub const fn session(self) -> SessionId {
        match self {
            Self::New(id) | Self::Existing(id) => id,
        }
    }
}

/// How long an idempotency key stands for the session that it created; afterwards it is as if it had never been used.
pub const IDEMPOTENCY_WINDOW: Duration = Duration::from_hours(24);

/// Where a session stands, for those who compare it with what the engine shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionState {
    /// The session.
    pub id: SessionId,
    /// Its status.
    pub status: SessionStatus,
    /// Its latest attempt.
    pub attempt: AttemptNumber,
    /// How long ago it became terminal, in the database's time; `None` if it is not.
    pub ended: Option<Duration>,
}

/// How long what belongs to terminal sessions is kept after their end. `None` is for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// The sessions themselves, with everything that belongs to them.
    pub sessions: Option<Duration>,
    /// Their transcripts.
    pub transcripts: Option<Duration>,
    /// Their artifacts.
    pub artifacts: Option<Duration>,
}

/// How much a call of `reap` removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reaped {
    /// Sessions.
    pub sessions: u64,
    /// Transcript entries of sessions that are kept.
    pub transcript_entries: u64,
    /// Artifacts of sessions that are kept.
    pub artifacts: u64,
}

/// What became of a request to cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelOutcome {
    /// The session waited; it is `cancelled` now.
    Cancelled,
    /// The session runs; its worker is told.
    Requested,
    /// The session had reached this terminal status before; nothing was changed.
    AlreadyTerminal(SessionStatus),
}

/// Which sessions are listed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SessionFilter {
    /// Only those in one of these statuses; empty is all.
    pub statuses: Vec<SessionStatus>,
    /// Only those created before this one: where the last page ended.
    pub before: Option<SessionId>,
}

/// A transcript entry as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredTranscript {
    /// Its place in the session: growing, may have gaps. The cursor.
    pub sequence: u64,
    /// The attempt that it belongs to.
    pub attempt: AttemptNumber,
    /// When it happened, by the sandbox's clock.
    pub at: DateTime<Utc>,
    /// The entry.
    pub entry: TranscriptEntry,
}

/// An artifact that is about to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewArtifact {
    /// Its id.
    pub id: ArtifactId,
    /// Its name, unique within the session.
    pub name: String,
    /// Its bytes, at most [`MAX_ARTIFACT_BYTES`].
    pub content: Vec<u8>,
}

/// The largest artifact, in bytes.
pub const MAX_ARTIFACT_BYTES: usize = 16 * 1024 * 1024;

/// Something happened in the store. Notices may be lost; every reader also reads on from its cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A message was stored.
    Message {
        /// The message.
        id: MessageId,
        /// Its session.
        session: SessionId,
        /// What it is about.
        kind: MessageKind,
    },
    /// A session can be claimed.
    Claimable,
    /// A session's cancellation was asked for.
    CancelRequested(SessionId),
    /// Notices may have been lost: read on from the cursors.
    Missed,
}

/// The durable state, over PostgreSQL or SQLite.
///
/// Times are the database's. Every method is one transaction. A write with a [`Fence`] is refused with
/// [`StoreError::Fenced`] unless its attempt and its lease are the session's latest and the session is `running`. NUL characters in
/// text become U+FFFD ([`Storable`]).
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait Store: Debug + Send + Sync {
    /// Stores a session (`pending`), version 1 of its spec, and its first message, in one transaction. A repeated call
    /// with the same session id and content is answered with [`Created::Existing`].
    ///
    /// # Errors
    ///
    /// [`StoreError::IdempotencyConflict`] if the key came with other content before.
    async fn create_session(&self, session: NewSession) -> Result<Created, StoreError>;

    /// One session, if it is there.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    async fn session(&self, id: SessionId) -> Result<Option<Session>, StoreError>;

    /// Sessions, newest first (by `created_at`, then id), at most `limit`. None if there is no session `before`.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    async fn sessions(&self, filter: &SessionFilter, limit: u32) -> Result<Vec<Session>, StoreError>;

    /// All versions of a session's plan, oldest first.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    async fn specs(&self, session: SessionId) -> Result<Vec<Spec>, StoreError>;

    /// Claims sessions (only the one named by `only`, if it is set) for a worker, each under a lease of that
    /// length with the next [`LeaseNumber`](crate::ids::LeaseNumber). No two callers get the same session.
    ///
    /// First come up to `takeovers` running sessions without a lease (it has run out, or was
    /// [released](Self::release_leases)), the one that waited longest first, however many run: the attempt goes on under its number, [`Claimed::resumed`] tells how far it
    /// got, and the worker has to find out what became of its container. A worker may get
    /// back what it held itself, under a new lease: for example if the answer to its first claim was lost.
    ///
    /// Then up to `limit` pending sessions that have a spec and whose time has come (one that was never claimed need not wait for
    /// `only`), each with the next attempt number, as long as the limits have room: those of the highest priority first;
    /// among them those whose submitter has the fewest running (counting those that this call has claimed already); among
    /// them the one whose time came first, then by id. So a submitter with many sessions does not keep others waiting.
    ///
    /// A pending session whose cancellation was asked for is ended instead: it becomes `cancelled`, with an `error` message
    /// (code `session.cancelled`), and does not count towards the limit.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be written.
    async fn claim(&self, request: &ClaimRequest) -> Result<Vec<Claimed>, StoreError>;

    /// Extends the leases that this worker still holds under those numbers, and returns them; one that is missing from the
    /// answer is lost. A lease that has run out can be renewed until somebody else claims the session.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be written.
    async fn renew_leases(
        &self,
        worker: &WorkerId,
        attempts: &[Fence],
        lease: Duration,
    ) -> Result<Vec<Fence>, StoreError>;

    /// Ends leases of a worker that hands over, or whose process is known to be dead: those sessions can be claimed at
    /// once, and [`Notice::Claimable`] says so. `None` means all that the worker holds. Returns how many there were.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be written.
    async fn release_leases(&self, worker: &WorkerId, only: Option<Vec<Fence>>) -> Result<u64, StoreError>;

    /// Where those sessions stand; one that is not there is missing from the answer.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    async fn session_states(&self, ids: &[SessionId]) -> Result<Vec<SessionState>, StoreError>;

    /// Writes down what an attempt is about to do; sets the session's `branch_name` and, if it has none, its title.
    ///
    /// # Errors
    ///
    /// [`StoreError::Fenced`].
    async fn start_attempt(&self, fence: Fence, start: AttemptStart) -> Result<(), StoreError>;

    /// Stores events of an attempt, in order, each exactly once: those with a number that is stored already are
    /// skipped. An empty list only asks.
    ///
    /// # Errors
    ///
    /// [`StoreError::Fenced`]; [`StoreError::EventGap`] if a number is missing.
    async fn record(&self, fence: Fence, events: Vec<EventRecord>) -> Result<Recorded, StoreError>;

    /// Adds messages to a session, in order.
    ///
    /// # Errors
    ///
    /// [`StoreError::Fenced`].
    async fn add_messages(&self, fence: Fence, messages: Vec<NewMessage>) -> Result<(), StoreError>;

    /// Stores an artifact; the same name in the same session replaces it.
    ///
    /// # Errors
    ///
    /// [`StoreError::Fenced`].
    async fn store_artifact(&self, fence: Fence, artifact: NewArtifact) -> Result<(), StoreError>;

    /// An artifact's bytes, if it is there.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    async fn artifact(&self, session: SessionId, name: &str) -> Result<Option<Vec<u8>>, StoreError>;

    /// Sets the session's `pr_url`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Fenced`].
    async fn set_pull_request(&self, fence: Fence, url: &str) -> Result<(), StoreError>;

    /// Ends an attempt with its messages, in one transaction: the session gets the status of `end`, and `completed_at`
    /// if that is terminal. The lease ends. A lost attempt of a session whose cancellation was asked for has no delay:
    /// the next claim cancels it.
    ///
    /// # Errors
    ///
    /// [`StoreError::Fenced`], also if the attempt was ended before; [`StoreError::NoAttemptsLeft`].
    async fn finish_attempt(
        &self,
        fence: Fence,
        end: AttemptEnd,
        messages: Vec<NewMessage>,
    ) -> Result<SessionStatus, StoreError>;

    /// Answers a session's question, once: the session is `pending` again, with one attempt more and the plan's new version,
    /// if there is one, in one transaction. Of several that answer at the same time exactly one is
    /// [`Answered::Accepted`]; a question that was answered before keeps its answer.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSuchSession`]; [`StoreError::NoSuchQuestion`] if the session has no such question, or, for
    /// `question: None`, has never asked; [`StoreError::NotWaiting`] if the question was closed without an answer (the
    /// session was cancelled, or failed at the deadline).
    async fn answer(&self, answer: NewAnswer) -> Result<Answered, StoreError>;

    /// A session's questions, oldest first.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    async fn questions(&self, session: SessionId) -> Result<Vec<Question>, StoreError>;

    /// Open questions for which something is due now, of escalated sessions: at most `limit`, those with the earliest deadline
    /// first.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    async fn due_questions(&self, limit: u32) -> Result<Vec<(Question, Due)>, StoreError>;

    /// Notes that a reminder was sent, with its message; `false` if somebody else did so before, or the question is no
    /// longer open.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be written.
    async fn remind(&self, question: QuestionId, message: NewMessage) -> Result<bool, StoreError>;

    /// Ends the session of an open question whose deadline has passed as `failed`, with its message; `false` if the question is
    /// no longer open, or its deadline has not passed.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be written.
    async fn give_up(&self, question: QuestionId, message: NewMessage) -> Result<bool, StoreError>;

    /// Says something to a session's agent. One that is pending or running is told; one that has ended goes on: it is
    /// `pending` again, without `completed_at`, with that many attempts left and no longer to be cancelled. The notes of a
    /// session are numbered in the order in which they are stored.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSuchSession`]; [`StoreError::WaitsForAnswer`] if the session is `escalated`.
    async fn say(&self, note: NewNote) -> Result<Said, StoreError>;

    /// A session's notes after a number, in order.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    async fn notes(&self, session: SessionId, after: u32) -> Result<Vec<Note>, StoreError>;

    /// Asks for the end of a session. A pending or escalated one is `cancelled` at once, with the message.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSuchSession`].
    async fn request_cancel(&self, id: SessionId, message: NewMessage) -> Result<CancelOutcome, StoreError>;

    /// A session's messages after a sequence number, in order, at most `limit`. A type that another program made up is
    /// read as `progress`, with its name under `metadata.type`.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    async fn messages(&self, session: SessionId, after: u64, limit: u32) -> Result<Vec<Message>, StoreError>;

    /// Marks a message as read, once: the first time stays; `false` if there is no such message.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be written.
    async fn mark_read(&self, message: MessageId) -> Result<bool, StoreError>;

    /// A session's transcript after a sequence number, in order, at most `limit`.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    async fn transcript(
        &self,
        session: SessionId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<StoredTranscript>, StoreError>;

    /// Removes what terminal sessions have left longer ago than the retention allows: at most `limit` sessions, `limit`
    /// transcript entries and `limit` artifacts, so that no call takes long. Less than `limit` of each means that nothing
    /// more is due.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be written.
    async fn reap(&self, retention: &Retention, limit: u32) -> Result<Reaped, StoreError>;

    /// Notices from now on: what is stored after this call returned is noticed, or [`Notice::Missed`] is. The stream
    /// ends when it is dropped or the store is closed.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be listened to.
    async fn subscribe(&self) -> Result<BoxStream<'static, Notice>, StoreError>;

    /// The hash of a secret of the installation, such as the API token, stored under a name.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    async fn token(&self, name: &str) -> Result<Option<TokenHash>, StoreError>;

    /// Stores the hash of a secret under a name unless there is one; returns the one that is stored afterwards.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be written.
    async fn create_token(&self, name: &str, hash: TokenHash) -> Result<TokenHash, StoreError>;
}
