//! What the fake remembers.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;

use super::asking::Asked;
use crate::ids::{AttemptNumber, Fence, LeaseNumber, SessionId};
use crate::message::{Message, NewMessage};
use crate::ports::store::{
    AttemptStart, CancelOutcome, Created, IDEMPOTENCY_WINDOW, NewSession, Note, Notice, SessionFilter,
    SessionState, StoreError, StoredTranscript,
};
use crate::protocol::{Checkpoint, Usage};
use crate::secrets::TokenHash;
use crate::session::{Session, SessionEvent, SessionStatus, Spec};

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) sessions: BTreeMap<SessionId, Record>,
    pub(super) tokens: HashMap<String, TokenHash>,
}

#[derive(Debug)]
pub(super) struct Record {
    pub(super) session: Session,
    pub(super) idempotency_key: Option<String>,
    pub(super) max_attempts: u32,
    pub(super) uncounted: u32,
    pub(super) priority: i32,
    pub(super) lease: LeaseNumber,
    /// Pending: not before. Running: when the lease runs out.
    pub(super) run_at: DateTime<Utc>,
    pub(super) specs: Vec<Spec>,
    pub(super) messages: Vec<Message>,
    /// The number of the last entry, which may have been removed.
    pub(super) transcript_sequence: u64,
    pub(super) transcript: Vec<StoredTranscript>,
    pub(super) attempts: Vec<Attempt>,
    pub(super) artifacts: BTreeMap<String, Vec<u8>>,
    /// Oldest first; only the last one can be open.
    pub(super) questions: Vec<Asked>,
    pub(super) checkpoint: Option<(AttemptNumber, Checkpoint)>,
    /// In the order of their numbers.
    pub(super) notes: Vec<Note>,
}

#[derive(Debug, Default)]
pub(super) struct Attempt {
    pub(super) started_at: DateTime<Utc>,
    pub(super) start: Option<AttemptStart>,
    pub(super) last_event: u64,
    pub(super) result: Option<Value>,
    /// Whether it ended in another way than by getting lost.
    pub(super) finished: bool,
}

/// Later by that much; what is beyond every calendar is far enough.
pub(super) fn later(now: DateTime<Utc>, by: Duration) -> DateTime<Utc> {
    TimeDelta::from_std(by)
        .ok()
        .and_then(|by| now.checked_add_signed(by))
        .unwrap_or(DateTime::<Utc>::MAX_UTC)
}

/// How long ago that was.
pub(super) fn since(then: DateTime<Utc>, now: DateTime<Utc>) -> Duration {
    (now - then).to_std().unwrap_or_default()
}

impl State {
    /// The session that the same call created before. A key that has stood for one for too long is freed.
    pub(super) fn existing(
        &mut self,
        new: &NewSession,
        now: DateTime<Utc>,
    ) -> Result<Option<Created>, StoreError> {
        for record in self.sessions.values_mut() {
            if record.idempotency_key == new.idempotency_key
                && since(record.session.created_at, now) >= IDEMPOTENCY_WINDOW
            {
                record.idempotency_key = None;
            }
        }
        let of_key = new.idempotency_key.as_ref().and_then(|key| {
            self.sessions
                .values()
                .find(|record| record.idempotency_key.as_ref() == Some(key))
        });
        let Some(record) = of_key.or_else(|| self.sessions.get(&new.id)) else {
            return Ok(None);
        };
        let id = record.session.id;
        if record
            .specs
            .first()
            .is_some_and(|spec| spec.content == new.content)
        {
            return Ok(Some(Created::Existing(id)));
        }
        if of_key.is_some() {
            return Err(StoreError::IdempotencyConflict(id));
        }
        Err(StoreError::Database {
            message: format!("session {id} exists with another plan"),
            source: None,
        })
    }

    pub(super) fn list(&self, filter: &SessionFilter, limit: u32) -> Vec<Session> {
        let key = |session: &Session| (session.created_at, session.id);
        let before = match filter.before {
            Some(id) => match self.sessions.get(&id) {
                Some(record) => Some(key(&record.session)),
                None => return Vec::new(),
            },
            None => None,
        };
        let mut found: Vec<_> = (self.sessions.values().map(|record| &record.session))
            .filter(|session| filter.statuses.is_empty() || filter.statuses.contains(&session.status))
            .filter(|session| before.is_none_or(|before| key(session) < before))
            .cloned()
            .collect();
        found.sort_by_key(|session| std::cmp::Reverse(key(session)));
        found.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        found
    }

    /// The session, if that attempt may write to it.
    pub(super) fn fenced(&mut self, fence: Fence) -> Result<&mut Record, StoreError> {
        (self.sessions.get_mut(&fence.session))
            .filter(|record| record.fence() == fence && record.session.status == SessionStatus::Running)
            .ok_or(StoreError::Fenced(fence))
    }
}

impl Record {
    pub(super) fn new(new: NewSession, now: DateTime<Utc>) -> Self {
        let spec = Spec {
            id: new.spec,
            session: new.id,
            version: 1,
            content: new.content,
            created_at: now,
        };
        let session = Session {
            id: new.id,
            status: SessionStatus::Pending,
            repo_url: new.repo_url,
            title: Some(new.title),
            branch_name: None,
            pr_url: None,
            attempt: AttemptNumber::new(0),
            worker: None,
            cancel_requested: false,
            usage: Usage::default(),
            submitter: new.submitter,
            created_at: now,
            completed_at: None,
        };
        let mut record = Self {
            session,
            idempotency_key: new.idempotency_key,
            max_attempts: new.max_attempts,
            uncounted: 0,
            priority: new.priority,
            lease: LeaseNumber::new(0),
            run_at: later(now, new.held),
            specs: vec![spec],
            messages: Vec::new(),
            transcript_sequence: 0,
            transcript: Vec::new(),
            attempts: Vec::new(),
            artifacts: BTreeMap::new(),
            questions: Vec::new(),
            checkpoint: None,
            notes: Vec::new(),
        };
        record.add_message(new.message, now);
        record
    }

    /// The latest one.
    pub(super) fn fence(&self) -> Fence {
        Fence {
            session: self.session.id,
            attempt: self.session.attempt,
            lease: self.lease,
        }
    }

    /// Sessions without a submitter count as of one.
    pub(super) fn submitter(&self) -> &str {
        self.session.submitter.as_deref().unwrap_or_default()
    }

    pub(super) fn state(&self, now: DateTime<Utc>) -> SessionState {
        SessionState {
            id: self.session.id,
            status: self.session.status,
            attempt: self.session.attempt,
            ended: self.session.completed_at.map(|at| since(at, now)),
        }
    }

    pub(super) fn attempt(&self, number: AttemptNumber) -> Option<&Attempt> {
        self.attempts.get(index(number))
    }

    /// The latest attempt; there is one in every session that runs.
    pub(super) fn latest(&mut self) -> &mut Attempt {
        let latest = index(self.session.attempt);
        self.attempts
            .resize_with(self.attempts.len().max(latest + 1), Attempt::default);
        &mut self.attempts[latest]
    }

    pub(super) fn add_message(&mut self, new: NewMessage, now: DateTime<Utc>) -> Notice {
        let session = self.session.id;
        let sequence = self.messages.last().map_or(1, |message| message.sequence + 1);
        let NewMessage { id, kind, content } = new;
        self.messages.push(Message {
            id,
            session,
            sequence,
            kind,
            content,
            created_at: now,
            read_at: None,
        });
        Notice::Message { id, session, kind }
    }

    pub(super) fn notice_of_last_message(&self) -> Notice {
        self.messages
            .last()
            .map_or(Notice::Missed, |message| Notice::Message {
                id: message.id,
                session: message.session,
                kind: message.kind,
            })
    }

    pub(super) fn set_status(&mut self, status: SessionStatus, now: DateTime<Utc>) {
        self.session.status = status;
        self.session.completed_at = status.is_terminal().then_some(now);
        if status != SessionStatus::Running {
            self.session.worker = None;
        }
    }

    pub(super) fn cancel(&mut self, message: NewMessage, now: DateTime<Utc>) -> (CancelOutcome, Vec<Notice>) {
        if self.session.status.is_terminal() {
            return (CancelOutcome::AlreadyTerminal(self.session.status), Vec::new());
        }
        let mut notices = Vec::new();
        if !std::mem::replace(&mut self.session.cancel_requested, true) {
            notices.push(Notice::CancelRequested(self.session.id));
        }
        if self.session.status == SessionStatus::Running {
            return (CancelOutcome::Requested, notices);
        }
        if let Ok(status) = self.session.status.after(SessionEvent::Cancelled) {
            self.set_status(status, now);
        }
        self.close_questions();
        notices.push(self.add_message(message, now));
        (CancelOutcome::Cancelled, notices)
    }
}

fn index(number: AttemptNumber) -> usize {
    usize::try_from(number.get().saturating_sub(1)).unwrap_or(usize::MAX)
}
