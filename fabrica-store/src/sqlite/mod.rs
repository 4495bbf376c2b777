//! The store over SQLite.

mod asking;
mod claim;
mod create;
mod events;
mod fenced;
mod finish;
mod leases;
mod open;
mod read;
mod reap;
mod record;
mod saying;
mod tail;
mod tokens;
mod write;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use fabrica_core::ids::{Fence, MessageId, QuestionId, SessionId, WorkerId};
use fabrica_core::message::{Message, NewMessage};
use fabrica_core::ports::store::{
    Answered, AttemptEnd, AttemptStart, CancelOutcome, ClaimRequest, Claimed, Created, Due, EventRecord,
    NewAnswer, NewArtifact, NewNote, NewSession, Note, Notice, Question, Reaped, Recorded, Retention, Said,
    SessionFilter, SessionState, Storable as _, StoredTranscript,
};
use fabrica_core::ports::{Store, StoreError};
use fabrica_core::secrets::TokenHash;
use fabrica_core::session::{Session, SessionStatus, Spec};
use futures::stream::BoxStream;
use sqlx::{Sqlite, SqlitePool, Transaction};

use self::record::Recording;
use self::tail::Tail;
use crate::error::database;
use crate::notices;

/// The present in microseconds, by the database, in a form that the oldest SQLite understands.
macro_rules! now {
    () => {
        "(cast(round((julianday('now') - 2440587.5) * 86400000) as integer) * 1000)"
    };
}
use now;

/// A [`Store`] in one file, for one machine; a few processes may share it.
pub struct SqliteStore {
    path: PathBuf,
    /// One connection: writers wait for one another here, not in the database.
    writer: SqlitePool,
    readers: SqlitePool,
    tail: Tail,
    recording: Recording,
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl SqliteStore {
    /// A transaction that holds the database's only write lock from its beginning: one that reads first could not get
    /// it any more.
    async fn write(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        self.writer.begin_with("begin immediate").await.map_err(database)
    }

    async fn commit(&self, transaction: Transaction<'static, Sqlite>) -> Result<(), StoreError> {
        transaction.commit().await.map_err(database)?;
        self.tail.wake();
        Ok(())
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn create_session(&self, session: NewSession) -> Result<Created, StoreError> {
        create::create_session(self, session.storable()).await
    }

    async fn session(&self, id: SessionId) -> Result<Option<Session>, StoreError> {
        read::session(&self.readers, id).await
    }

    async fn sessions(&self, filter: &SessionFilter, limit: u32) -> Result<Vec<Session>, StoreError> {
        read::sessions(&self.readers, filter, limit).await
    }

    async fn specs(&self, session: SessionId) -> Result<Vec<Spec>, StoreError> {
        read::specs(&self.readers, session).await
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Vec<Claimed>, StoreError> {
        claim::claim(self, request).await
    }

    async fn renew_leases(
        &self,
        worker: &WorkerId,
        attempts: &[Fence],
        lease: Duration,
    ) -> Result<Vec<Fence>, StoreError> {
        leases::renew_leases(self, worker, attempts, lease).await
    }

    async fn release_leases(&self, worker: &WorkerId, only: Option<Vec<Fence>>) -> Result<u64, StoreError> {
        leases::release_leases(self, worker, only).await
    }

    async fn session_states(&self, ids: &[SessionId]) -> Result<Vec<SessionState>, StoreError> {
        read::session_states(&self.readers, ids).await
    }

    async fn start_attempt(&self, fence: Fence, start: AttemptStart) -> Result<(), StoreError> {
        fenced::start_attempt(self, fence, start.storable()).await
    }

    async fn record(&self, fence: Fence, events: Vec<EventRecord>) -> Result<Recorded, StoreError> {
        self.recording.record(fence, events).await
    }

    async fn add_messages(&self, fence: Fence, messages: Vec<NewMessage>) -> Result<(), StoreError> {
        fenced::add_messages(self, fence, messages.storable()).await
    }

    async fn store_artifact(&self, fence: Fence, artifact: NewArtifact) -> Result<(), StoreError> {
        fenced::store_artifact(self, fence, artifact.storable()).await
    }

    async fn artifact(&self, session: SessionId, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        read::artifact(&self.readers, session, name).await
    }

    async fn set_pull_request(&self, fence: Fence, url: &str) -> Result<(), StoreError> {
        fenced::set_pull_request(self, fence, url).await
    }

    async fn finish_attempt(
        &self,
        fence: Fence,
        end: AttemptEnd,
        messages: Vec<NewMessage>,
    ) -> Result<SessionStatus, StoreError> {
        finish::finish_attempt(self, fence, end.storable(), messages.storable()).await
    }

    async fn answer(&self, answer: NewAnswer) -> Result<Answered, StoreError> {
        asking::answer(self, answer.storable()).await
    }

    async fn questions(&self, session: SessionId) -> Result<Vec<Question>, StoreError> {
        asking::questions(&self.readers, session).await
    }

    async fn due_questions(&self, limit: u32) -> Result<Vec<(Question, Due)>, StoreError> {
        asking::due_questions(&self.readers, limit).await
    }

    async fn remind(&self, question: QuestionId, message: NewMessage) -> Result<bool, StoreError> {
        asking::remind(self, question, message.storable()).await
    }

    async fn give_up(&self, question: QuestionId, message: NewMessage) -> Result<bool, StoreError> {
        asking::give_up(self, question, message.storable()).await
    }

    async fn say(&self, note: NewNote) -> Result<Said, StoreError> {
        saying::say(self, note.storable()).await
    }

    async fn notes(&self, session: SessionId, after: u32) -> Result<Vec<Note>, StoreError> {
        saying::notes(&self.readers, session, after).await
    }

    async fn request_cancel(&self, id: SessionId, message: NewMessage) -> Result<CancelOutcome, StoreError> {
        finish::request_cancel(self, id, message.storable()).await
    }

    async fn messages(&self, session: SessionId, after: u64, limit: u32) -> Result<Vec<Message>, StoreError> {
        read::messages(&self.readers, session, after, limit).await
    }

    async fn mark_read(&self, message: MessageId) -> Result<bool, StoreError> {
        finish::mark_read(self, message).await
    }

    async fn transcript(
        &self,
        session: SessionId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<StoredTranscript>, StoreError> {
        read::transcript(&self.readers, session, after, limit).await
    }

    async fn reap(&self, retention: &Retention, limit: u32) -> Result<Reaped, StoreError> {
        reap::reap(self, retention, limit).await
    }

    async fn subscribe(&self) -> Result<BoxStream<'static, Notice>, StoreError> {
        self.tail
            .subscribe(&self.readers)
            .await
            .map(notices::stream)
            .map_err(database)
    }

    async fn token(&self, name: &str) -> Result<Option<TokenHash>, StoreError> {
        tokens::token(&self.readers, name).await
    }

    async fn create_token(&self, name: &str, hash: TokenHash) -> Result<TokenHash, StoreError> {
        tokens::create_token(self, name, hash).await
    }
}
