//! Messages: what a person or a program should know about a session, in order, each exactly once.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

use crate::failure::Failure;
use crate::ids::{MessageId, SessionId};

/// What a message is about: the `type` column and JSON member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageKind {
    /// Something was done; work goes on.
    Progress,
    /// The session is completed; carries the pull request.
    Completion,
    /// The agent asks a person and waits.
    Escalation,
    /// Something failed; carries a stable code and what to do.
    Error,
}

impl MessageKind {
    /// The name in the database and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Progress => "progress",
            Self::Completion => "completion",
            Self::Escalation => "escalation",
            Self::Error => "error",
        }
    }
}

impl fmt::Display for MessageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no kind of message.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("message type {0:?} is none of progress, completion, escalation, error")]
pub struct UnknownMessageKind(String);

impl FromStr for MessageKind {
    type Err = UnknownMessageKind;

    fn from_str(text: &str) -> Result<Self, UnknownMessageKind> {
        match text {
            "progress" => Ok(Self::Progress),
            "completion" => Ok(Self::Completion),
            "escalation" => Ok(Self::Escalation),
            "error" => Ok(Self::Error),
            other => Err(UnknownMessageKind(other.chars().take(64).collect())),
        }
    }
}

/// The `content` of a message: a sentence for people and members for programs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MessageContent {
    /// A sentence for people.
    #[serde(default)]
    pub message: String,
    /// Members for programs, for example `{"code": "repository.not_found"}`.
    #[serde(default)]
    pub metadata: Map<String, Value>,
}

impl MessageContent {
    /// Content without metadata.
    pub fn text(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            metadata: Map::new(),
        }
    }

    /// The same content with one more member of metadata.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.metadata.insert(key.to_owned(), value.into());
        self
    }

    /// The content of the `error` message that tells of a failure.
    pub fn failure(failure: &Failure) -> Self {
        Self::text(format!(
            "{}. {}",
            failure.cause.trim_end_matches('.'),
            failure.advice
        ))
        .with("code", failure.code.as_str())
        .with("cause", failure.cause.as_str())
        .with("advice", failure.advice.as_str())
        .with("diagnosis", failure.diagnosis.clone())
        .with("retryable", failure.retryable)
    }
}

/// A message that is about to be stored.
#[derive(Debug, Clone, PartialEq)]
pub struct NewMessage {
    /// Its id, made by the application so that a repeated write is recognised.
    pub id: MessageId,
    /// What it is about.
    pub kind: MessageKind,
    /// What it says.
    pub content: MessageContent,
}

/// A stored message.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Its id.
    pub id: MessageId,
    /// The session that it belongs to.
    pub session: SessionId,
    /// Its place in the session: from 1, without gaps. The only cursor.
    pub sequence: u64,
    /// What it is about.
    pub kind: MessageKind,
    /// What it says. Content of another shape, written by another program, is kept under `metadata.content`.
    pub content: MessageContent,
    /// When it was stored, in the database's time.
    pub created_at: DateTime<Utc>,
    /// When somebody marked it as read.
    pub read_at: Option<DateTime<Utc>>,
}
