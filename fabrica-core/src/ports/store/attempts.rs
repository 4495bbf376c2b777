//! Claims, and what attempts write down.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{NewQuestion, Question};
use crate::failure::Failure;
use crate::ids::{AttemptNumber, Fence, LeaseNumber, SessionId, WorkerId};
use crate::message::NewMessage;
use crate::protocol::{Checkpoint, TranscriptEntry, Usage};
use crate::secrets::TokenHash;
use crate::session::{Session, Spec};

/// How many sessions may run at once, over all workers that share the store. `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClaimLimits {
    /// In all.
    pub global: Option<u32>,
    /// With the same `repo_url`.
    pub per_repository: Option<u32>,
    /// Of the same submitter; sessions without one count as of one submitter.
    pub per_submitter: Option<u32>,
}

/// What a worker wants to claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimRequest {
    /// Who claims.
    pub worker: WorkerId,
    /// How long the lease lasts; at least a millisecond.
    pub lease: Duration,
    /// How many pending sessions at most; 0 is none.
    pub limit: u32,
    /// How many running sessions without a lease at most, beside those.
    pub takeovers: u32,
    /// Only this session: for a process that works on nothing but its own. The limits do not count then.
    pub only: Option<SessionId>,
    /// How many may run at once.
    pub limits: ClaimLimits,
}

/// A session that a worker claimed.
#[derive(Debug, Clone, PartialEq)]
pub struct Claimed {
    /// The session, `running`, with the number of its attempt.
    pub session: Session,
    /// The newest version of its plan.
    pub spec: Spec,
    /// How many attempts it has in all.
    pub max_attempts: u32,
    /// The number of this lease.
    pub lease: LeaseNumber,
    /// The attempt is not a new one: it was under way when its lease ended, and its container may still be at work.
    pub resumed: Option<Resumed>,
    /// The [`EventRecord::result`] that this attempt recorded before it was taken over, or that an earlier one recorded
    /// before it was lost. None if that attempt ended in another way than by getting lost.
    pub reported: Option<serde_json::Value>,
    /// The session's newest checkpoint, and the attempt that made it.
    pub checkpoint: Option<(AttemptNumber, Checkpoint)>,
    /// The session's newest question, if it has been answered.
    pub answered: Option<Question>,
}

/// What is known of an attempt that was under way when its lease ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Resumed {
    /// What it wrote down before it acted; `None` if it did not come that far.
    pub start: Option<AttemptStart>,
    /// The number of its last event that is stored; 0 if its runner never reported.
    pub last_event: u64,
    /// How long ago it began, in the database's time.
    pub age: Duration,
}

impl Claimed {
    /// Who writes from now on.
    pub const fn fence(&self) -> Fence {
        Fence {
            session: self.session.id,
            attempt: self.session.attempt,
            lease: self.lease,
        }
    }
}

/// What an attempt is about to do in the world, written down before it is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptStart {
    /// The container's name.
    pub container: String,
    /// The branch that the attempt will push.
    pub branch: String,
    /// The plan's title, for a session that another program inserted.
    pub title: String,
    /// The hash of the runner's token.
    pub runner_token: TokenHash,
    /// The hash of the agent's token.
    pub agent_token: TokenHash,
}

/// What is stored for one numbered event.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct EventRecord {
    /// The event's number within its attempt, from 1.
    pub event: u64,
    /// Messages that it causes.
    pub messages: Vec<NewMessage>,
    /// A transcript entry, with the time that the runner gave it.
    pub transcript: Option<(DateTime<Utc>, TranscriptEntry)>,
    /// What it adds to the session's usage.
    pub usage: Option<Usage>,
    /// How the attempt ended, as the runner reported it.
    pub result: Option<serde_json::Value>,
    /// The session's newest checkpoint.
    pub checkpoint: Option<Checkpoint>,
}

/// What became of `record`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recorded {
    /// Every event up to this number is stored for good.
    pub acknowledged: u64,
    /// Whether somebody asked to cancel the session.
    pub cancel_requested: bool,
}

/// How an attempt ends.
#[derive(Debug, Clone, PartialEq)]
pub enum AttemptEnd {
    /// The session is `completed`; or `pending` at once, with one attempt more, if somebody said something that the agent
    /// had not heard when it ended.
    Completed {
        /// The number of the last note that the agent has heard; 0 is none.
        heard: u32,
    },
    /// The session is `failed`.
    Failed(Failure),
    /// The session is `cancelled`.
    Cancelled,
    /// The session is `escalated` until the question is answered.
    Escalated(NewQuestion),
    /// The session is `pending` again and may be claimed after the delay; with no attempt left the store refuses with
    /// [`StoreError::NoAttemptsLeft`](super::StoreError::NoAttemptsLeft).
    Lost {
        /// Why.
        failure: Failure,
        /// How long it waits.
        delay: Duration,
        /// Whether it counts as one of the session's attempts. One that was lost before its sandbox did anything does
        /// not: the session gets one attempt more in its place, [`MAX_UNCOUNTED_ATTEMPTS`] times at most; after that
        /// it counts.
        counts: bool,
    },
}

/// How many attempts of one session may be lost without counting: a session that brings down every worker that touches
/// it must come to an end.
pub const MAX_UNCOUNTED_ATTEMPTS: u32 = 20;
