//! An in-memory [`Store`]: what it keeps is gone with it, otherwise it keeps every promise of the port.

mod asking;
mod claim;
mod fenced;
mod reap;
mod saying;
mod state;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;

use self::state::{Record, State};
use crate::clock::{Clock, Entropy, IdSource, SystemClock, SystemEntropy};
use crate::ids::{Fence, MessageId, QuestionId, SessionId, WorkerId};
use crate::message::{Message, NewMessage};
use crate::ports::store::{
    Answered, AttemptEnd, AttemptStart, CancelOutcome, ClaimRequest, Claimed, Created, Due, EventRecord,
    NewAnswer, NewArtifact, NewNote, NewSession, Note, Notice, Question, Reaped, Recorded, Retention, Said,
    SessionFilter, SessionState, Storable, Store, StoreError, StoredTranscript,
};
use crate::secrets::TokenHash;
use crate::session::{Session, SessionStatus, Spec};

/// How many notices a slow subscriber may lag behind before it is told that it missed some.
const NOTICES: usize = 4096;

/// A [`Store`] in memory, with the clock that it is given.
///
/// ```
/// use fabrica_core::ids::SessionId;
/// use fabrica_core::ports::Store;
/// use fabrica_core::testing::store_fake::FakeStore;
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let store = FakeStore::default();
/// let nobody = SessionId::from_uuid(uuid::Uuid::nil());
/// assert!(store.session(nobody).await.unwrap().is_none());
/// # });
/// ```
#[derive(Debug)]
pub struct FakeStore {
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    state: Mutex<State>,
    notices: Mutex<Option<broadcast::Sender<Notice>>>,
}

impl Default for FakeStore {
    fn default() -> Self {
        Self::new(Arc::new(SystemClock), Arc::new(SystemEntropy))
    }
}

impl FakeStore {
    /// An empty store: leases run out, and ids are made, by this clock.
    pub fn new(clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        let notices = Mutex::new(Some(broadcast::Sender::new(NOTICES)));
        Self {
            clock,
            entropy,
            state: Mutex::default(),
            notices,
        }
    }

    /// What the attempt wrote down before it acted, if it did.
    pub fn attempt_start(&self, fence: Fence) -> Option<AttemptStart> {
        self.state()
            .sessions
            .get(&fence.session)?
            .attempt(fence.attempt)?
            .start
            .clone()
    }

    /// Ends every subscription.
    pub fn close(&self) {
        lock(&self.notices).take();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    fn ids(&self) -> IdSource<'_> {
        IdSource::new(&*self.clock, &*self.entropy)
    }

    fn tell(&self, notices: impl IntoIterator<Item = Notice>) {
        if let Some(sender) = &*lock(&self.notices) {
            for notice in notices {
                // Nobody listens: nobody misses it.
                let _ = sender.send(notice);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn page<T: Clone>(items: &[T], after: u64, limit: u32, sequence: impl Fn(&T) -> u64) -> Vec<T> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    items
        .iter()
        .filter(|item| sequence(item) > after)
        .take(limit)
        .cloned()
        .collect()
}

#[async_trait]
impl Store for FakeStore {
    async fn create_session(&self, session: NewSession) -> Result<Created, StoreError> {
        let session = session.storable();
        let mut state = self.state();
        if let Some(existing) = state.existing(&session, self.now())? {
            return Ok(existing);
        }
        let id = session.id;
        let record = Record::new(session, self.now());
        let notices = [Notice::Claimable, record.notice_of_last_message()];
        state.sessions.insert(id, record);
        drop(state);
        self.tell(notices);
        Ok(Created::New(id))
    }

    async fn session(&self, id: SessionId) -> Result<Option<Session>, StoreError> {
        Ok(self
            .state()
            .sessions
            .get(&id)
            .map(|record| record.session.clone()))
    }

    async fn sessions(&self, filter: &SessionFilter, limit: u32) -> Result<Vec<Session>, StoreError> {
        Ok(self.state().list(filter, limit))
    }

    async fn specs(&self, session: SessionId) -> Result<Vec<Spec>, StoreError> {
        Ok(self
            .state()
            .sessions
            .get(&session)
            .map(|record| record.specs.clone())
            .unwrap_or_default())
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Vec<Claimed>, StoreError> {
        let (claimed, notices) = claim::claim(&mut self.state(), request, self.now(), self.ids());
        self.tell(notices);
        Ok(claimed)
    }

    async fn renew_leases(
        &self,
        worker: &WorkerId,
        attempts: &[Fence],
        lease: Duration,
    ) -> Result<Vec<Fence>, StoreError> {
        Ok(claim::renew(
            &mut self.state(),
            worker,
            attempts,
            state::later(self.now(), lease),
        ))
    }

    async fn release_leases(&self, worker: &WorkerId, only: Option<Vec<Fence>>) -> Result<u64, StoreError> {
        let notices = claim::release(&mut self.state(), worker, only.as_deref(), self.now());
        let released = u64::try_from(notices.len()).unwrap_or(u64::MAX);
        self.tell(notices);
        Ok(released)
    }

    async fn session_states(&self, ids: &[SessionId]) -> Result<Vec<SessionState>, StoreError> {
        let (state, now) = (self.state(), self.now());
        let asked: BTreeSet<_> = ids.iter().collect();
        Ok(asked
            .into_iter()
            .filter_map(|id| state.sessions.get(id))
            .map(|record| record.state(now))
            .collect())
    }

    async fn start_attempt(&self, fence: Fence, start: AttemptStart) -> Result<(), StoreError> {
        fenced::start(self.state().fenced(fence)?, start.storable());
        Ok(())
    }

    async fn record(&self, fence: Fence, events: Vec<EventRecord>) -> Result<Recorded, StoreError> {
        let (recorded, notices) =
            fenced::record(self.state().fenced(fence)?, fence, events.storable(), self.now())?;
        self.tell(notices);
        Ok(recorded)
    }

    async fn add_messages(&self, fence: Fence, messages: Vec<NewMessage>) -> Result<(), StoreError> {
        let notices = fenced::add_messages(self.state().fenced(fence)?, messages.storable(), self.now());
        self.tell(notices);
        Ok(())
    }

    async fn store_artifact(&self, fence: Fence, artifact: NewArtifact) -> Result<(), StoreError> {
        let NewArtifact { name, content, .. } = artifact.storable();
        self.state().fenced(fence)?.artifacts.insert(name, content);
        Ok(())
    }

    async fn artifact(&self, session: SessionId, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let name = name.to_owned().storable();
        Ok(self
            .state()
            .sessions
            .get(&session)
            .and_then(|record| record.artifacts.get(&name).cloned()))
    }

    async fn set_pull_request(&self, fence: Fence, url: &str) -> Result<(), StoreError> {
        self.state().fenced(fence)?.session.pr_url = Some(url.to_owned().storable());
        Ok(())
    }

    async fn finish_attempt(
        &self,
        fence: Fence,
        end: AttemptEnd,
        messages: Vec<NewMessage>,
    ) -> Result<SessionStatus, StoreError> {
        let (status, notices) = fenced::finish(
            self.state().fenced(fence)?,
            fence,
            end.storable(),
            messages.storable(),
            self.now(),
        )?;
        self.tell(notices);
        Ok(status)
    }

    async fn answer(&self, answer: NewAnswer) -> Result<Answered, StoreError> {
        let (answered, notices) = asking::answer(&mut self.state(), answer.storable(), self.now())?;
        self.tell(notices);
        Ok(answered)
    }

    async fn questions(&self, session: SessionId) -> Result<Vec<Question>, StoreError> {
        Ok(asking::questions(&self.state(), session))
    }

    async fn due_questions(&self, limit: u32) -> Result<Vec<(Question, Due)>, StoreError> {
        Ok(asking::due(&self.state(), limit, self.now()))
    }

    async fn remind(&self, question: QuestionId, message: NewMessage) -> Result<bool, StoreError> {
        let notice = asking::remind(&mut self.state(), question, message.storable(), self.now());
        let reminded = notice.is_some();
        self.tell(notice);
        Ok(reminded)
    }

    async fn give_up(&self, question: QuestionId, message: NewMessage) -> Result<bool, StoreError> {
        let notice = asking::give_up(&mut self.state(), question, message.storable(), self.now());
        let given_up = notice.is_some();
        self.tell(notice);
        Ok(given_up)
    }

    async fn say(&self, note: NewNote) -> Result<Said, StoreError> {
        let (said, notices) = saying::say(&mut self.state(), note.storable(), self.now())?;
        self.tell(notices);
        Ok(said)
    }

    async fn notes(&self, session: SessionId, after: u32) -> Result<Vec<Note>, StoreError> {
        Ok(saying::notes(&self.state(), session, after))
    }

    async fn request_cancel(&self, id: SessionId, message: NewMessage) -> Result<CancelOutcome, StoreError> {
        let mut state = self.state();
        let record = state.sessions.get_mut(&id).ok_or(StoreError::NoSuchSession(id))?;
        let (outcome, notices) = record.cancel(message.storable(), self.now());
        drop(state);
        self.tell(notices);
        Ok(outcome)
    }

    async fn messages(&self, session: SessionId, after: u64, limit: u32) -> Result<Vec<Message>, StoreError> {
        let state = self.state();
        let messages = state
            .sessions
            .get(&session)
            .map(|record| record.messages.as_slice())
            .unwrap_or_default();
        Ok(page(messages, after, limit, |message| message.sequence))
    }

    async fn mark_read(&self, message: MessageId) -> Result<bool, StoreError> {
        let now = self.now();
        let mut state = self.state();
        let mut all = state
            .sessions
            .values_mut()
            .flat_map(|record| &mut record.messages);
        let Some(message) = all.find(|candidate| candidate.id == message) else {
            return Ok(false);
        };
        message.read_at.get_or_insert(now);
        Ok(true)
    }

    async fn transcript(
        &self,
        session: SessionId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<StoredTranscript>, StoreError> {
        let state = self.state();
        let entries = state
            .sessions
            .get(&session)
            .map(|record| record.transcript.as_slice())
            .unwrap_or_default();
        Ok(page(entries, after, limit, |entry| entry.sequence))
    }

    async fn reap(&self, retention: &Retention, limit: u32) -> Result<Reaped, StoreError> {
        Ok(reap::reap(&mut self.state(), retention, limit, self.now()))
    }

    async fn subscribe(&self) -> Result<BoxStream<'static, Notice>, StoreError> {
        let receiver = match &*lock(&self.notices) {
            Some(sender) => sender.subscribe(),
            None => broadcast::Sender::new(1).subscribe(),
        };
        Ok(BroadcastStream::new(receiver)
            .map(|notice| notice.unwrap_or(Notice::Missed))
            .boxed())
    }

    async fn token(&self, name: &str) -> Result<Option<TokenHash>, StoreError> {
        Ok(self.state().tokens.get(&name.to_owned().storable()).copied())
    }

    async fn create_token(&self, name: &str, hash: TokenHash) -> Result<TokenHash, StoreError> {
        Ok(*self
            .state()
            .tokens
            .entry(name.to_owned().storable())
            .or_insert(hash))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::FakeStore;
    use crate::testing::store_conformance;

    macro_rules! conformance {
        ($($case:ident),*) => {$(
            #[tokio::test]
            async fn $case() {
                store_conformance::$case(Arc::new(FakeStore::default())).await;
            }
        )*};
    }

    crate::for_each_store_case!(conformance);
}
