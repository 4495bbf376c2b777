//! Following a session: notices wake the reader, cursors make sure that it misses nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};

use crate::ids::SessionId;
use crate::message::Message;
use crate::ports::store::{Notice, Store, StoreError, StoredTranscript};
use crate::session::Session;

/// Something that happened to a session.
#[derive(Debug, Clone, PartialEq)]
pub enum SessionUpdate {
    /// The session's row changed: its status, usage, branch or pull request.
    Session(Box<Session>),
    /// A message.
    Message(Message),
    /// An entry of the agent's transcript.
    Transcript(StoredTranscript),
}

/// The transcript has no notices of its own; this is how long a person waits for one at most.
const TRANSCRIPT_POLL: Duration = Duration::from_millis(500);
const PAGE: u32 = 500;

pub(super) async fn watch(
    store: Arc<dyn Store>,
    session: SessionId,
) -> Result<BoxStream<'static, Result<SessionUpdate, StoreError>>, StoreError> {
    // Listen before looking, so that nothing falls in between.
    let notices = store.subscribe().await?;
    if store.session(session).await?.is_none() {
        return Err(StoreError::NoSuchSession(session));
    }
    let watcher = Watcher {
        store,
        session,
        notices,
        message_cursor: 0,
        transcript_cursor: 0,
        last: None,
        pending: VecDeque::new(),
        ended: false,
    };
    Ok(stream::unfold(watcher, Watcher::next).boxed())
}

struct Watcher {
    store: Arc<dyn Store>,
    session: SessionId,
    notices: BoxStream<'static, Notice>,
    message_cursor: u64,
    transcript_cursor: u64,
    last: Option<Session>,
    pending: VecDeque<SessionUpdate>,
    ended: bool,
}

impl Watcher {
    async fn next(mut self) -> Option<(Result<SessionUpdate, StoreError>, Self)> {
        loop {
            if let Some(update) = self.pending.pop_front() {
                return Some((Ok(update), self));
            }
            if self.ended {
                return None;
            }
            if let Err(error) = self.read().await {
                self.ended = true;
                return Some((Err(error), self));
            }
            if self.pending.is_empty() && !self.ended {
                self.wait().await;
            }
        }
    }

    /// Reads what is new. The session is read first: whatever its last status says is then in the lists that follow.
    async fn read(&mut self) -> Result<(), StoreError> {
        let session = self
            .store
            .session(self.session)
            .await?
            .ok_or(StoreError::NoSuchSession(self.session))?;
        let settled =
            session.status.is_terminal() || session.status == crate::session::SessionStatus::Escalated;
        loop {
            let page = self
                .store
                .transcript(self.session, self.transcript_cursor, PAGE)
                .await?;
            let full = page.len() == PAGE as usize;
            self.transcript_cursor = page.last().map_or(self.transcript_cursor, |entry| entry.sequence);
            self.pending
                .extend(page.into_iter().map(SessionUpdate::Transcript));
            if !full {
                break;
            }
        }
        loop {
            let page = self
                .store
                .messages(self.session, self.message_cursor, PAGE)
                .await?;
            let full = page.len() == PAGE as usize;
            self.message_cursor = page
                .last()
                .map_or(self.message_cursor, |message| message.sequence);
            self.pending.extend(page.into_iter().map(SessionUpdate::Message));
            if !full {
                break;
            }
        }
        if self.last.as_ref() != Some(&session) {
            self.pending
                .push_back(SessionUpdate::Session(Box::new(session.clone())));
            self.last = Some(session);
        }
        self.ended = settled;
        Ok(())
    }

    async fn wait(&mut self) {
        let relevant = async {
            loop {
                match self.notices.next().await {
                    Some(Notice::Message { session, .. }) if session == self.session => return,
                    Some(Notice::Missed) => return,
                    Some(_) => {}
                    // Without notices the poll below is what is left.
                    None => std::future::pending().await,
                }
            }
        };
        // Whichever comes first: then everything is read from the cursors.
        let _ = tokio::time::timeout(TRANSCRIPT_POLL, relevant).await;
    }
}
