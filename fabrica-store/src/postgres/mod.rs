//! The store over PostgreSQL.

mod asking;
mod claim;
mod create;
mod events;
mod fenced;
mod finish;
mod leases;
mod messages;
mod open;
mod read;
mod reap;
mod record;
mod saying;
mod submit;
mod subscribe;
mod tokens;
mod write;
mod writer;

use std::fmt;
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
use sqlx::PgPool;

use self::messages::Reading;
use self::record::Recording;
use self::submit::Submitting;
use self::subscribe::Listening;
use crate::error::database;
use crate::notices;

/// A [`Store`] in a PostgreSQL database that many processes may share.
pub struct PostgresStore {
    pool: PgPool,
    place: String,
    listening: Listening,
    recording: Recording,
    submitting: Submitting,
    reading: Reading,
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn create_session(&self, session: NewSession) -> Result<Created, StoreError> {
        self.submitting.create_session(session.storable()).await
    }

    async fn session(&self, id: SessionId) -> Result<Option<Session>, StoreError> {
        read::session(&self.pool, id).await
    }

    async fn sessions(&self, filter: &SessionFilter, limit: u32) -> Result<Vec<Session>, StoreError> {
        read::sessions(&self.pool, filter, limit).await
    }

    async fn specs(&self, session: SessionId) -> Result<Vec<Spec>, StoreError> {
        read::specs(&self.pool, session).await
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Vec<Claimed>, StoreError> {
        claim::claim(&self.pool, request).await
    }

    async fn renew_leases(
        &self,
        worker: &WorkerId,
        attempts: &[Fence],
        lease: Duration,
    ) -> Result<Vec<Fence>, StoreError> {
        leases::renew_leases(&self.pool, worker, attempts, lease).await
    }

    async fn release_leases(&self, worker: &WorkerId, only: Option<Vec<Fence>>) -> Result<u64, StoreError> {
        leases::release_leases(&self.pool, worker, only).await
    }

    async fn session_states(&self, ids: &[SessionId]) -> Result<Vec<SessionState>, StoreError> {
        read::session_states(&self.pool, ids).await
    }

    async fn start_attempt(&self, fence: Fence, start: AttemptStart) -> Result<(), StoreError> {
        fenced::start_attempt(&self.pool, fence, start.storable()).await
    }

    async fn record(&self, fence: Fence, events: Vec<EventRecord>) -> Result<Recorded, StoreError> {
        self.recording.record(fence, events).await
    }

    async fn add_messages(&self, fence: Fence, messages: Vec<NewMessage>) -> Result<(), StoreError> {
        fenced::add_messages(&self.pool, fence, messages.storable()).await
    }

    async fn store_artifact(&self, fence: Fence, artifact: NewArtifact) -> Result<(), StoreError> {
        fenced::store_artifact(&self.pool, fence, artifact.storable()).await
    }

    async fn artifact(&self, session: SessionId, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        read::artifact(&self.pool, session, name).await
    }

    async fn set_pull_request(&self, fence: Fence, url: &str) -> Result<(), StoreError> {
        fenced::set_pull_request(&self.pool, fence, url).await
    }

    async fn finish_attempt(
        &self,
        fence: Fence,
        end: AttemptEnd,
        messages: Vec<NewMessage>,
    ) -> Result<SessionStatus, StoreError> {
        finish::finish_attempt(&self.pool, fence, end.storable(), messages.storable()).await
    }

    async fn answer(&self, answer: NewAnswer) -> Result<Answered, StoreError> {
        asking::answer(&self.pool, answer.storable()).await
    }

    async fn questions(&self, session: SessionId) -> Result<Vec<Question>, StoreError> {
        asking::questions(&self.pool, session).await
    }

    async fn due_questions(&self, limit: u32) -> Result<Vec<(Question, Due)>, StoreError> {
        asking::due_questions(&self.pool, limit).await
    }

    async fn remind(&self, question: QuestionId, message: NewMessage) -> Result<bool, StoreError> {
        asking::remind(&self.pool, question, message.storable()).await
    }

    async fn give_up(&self, question: QuestionId, message: NewMessage) -> Result<bool, StoreError> {
        asking::give_up(&self.pool, question, message.storable()).await
    }

    async fn say(&self, note: NewNote) -> Result<Said, StoreError> {
        saying::say(&self.pool, note.storable()).await
    }

    async fn notes(&self, session: SessionId, after: u32) -> Result<Vec<Note>, StoreError> {
        saying::notes(&self.pool, session, after).await
    }

    async fn request_cancel(&self, id: SessionId, message: NewMessage) -> Result<CancelOutcome, StoreError> {
        finish::request_cancel(&self.pool, id, message.storable()).await
    }

    async fn messages(&self, session: SessionId, after: u64, limit: u32) -> Result<Vec<Message>, StoreError> {
        self.reading.messages(session, after, limit).await
    }

    async fn mark_read(&self, message: MessageId) -> Result<bool, StoreError> {
        read::mark_read(&self.pool, message).await
    }

    async fn transcript(
        &self,
        session: SessionId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<StoredTranscript>, StoreError> {
        read::transcript(&self.pool, session, after, limit).await
    }

    async fn reap(&self, retention: &Retention, limit: u32) -> Result<Reaped, StoreError> {
        reap::reap(&self.pool, retention, limit).await
    }

    async fn subscribe(&self) -> Result<BoxStream<'static, Notice>, StoreError> {
        self.listening
            .subscribe(&self.pool)
            .await
            .map(notices::stream)
            .map_err(database)
    }

    async fn token(&self, name: &str) -> Result<Option<TokenHash>, StoreError> {
        tokens::token(&self.pool, name).await
    }

    async fn create_token(&self, name: &str, hash: TokenHash) -> Result<TokenHash, StoreError> {
        tokens::create_token(&self.pool, name, hash).await
    }
}
