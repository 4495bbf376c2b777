//! Identifiers: one newtype for each kind, so that none can be passed for another.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

/// The text is not an identifier of the kind that was asked for.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{kind} {input:?} is not a UUID such as 018f4e1c-7a52-7cc3-9d51-0a6f3ad1c2b4")]
pub struct InvalidId {
    kind: &'static str,
    input: String,
}

impl InvalidId {
    /// Stable code of this error.
    pub const fn code(&self) -> &'static str {
        "id.invalid"
    }
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// Wraps a UUID that is known to be of this kind.
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The UUID itself, for adapters that bind or encode it.
            pub const fn as_uuid(&self) -> &Uuid {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0.hyphenated())
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(input: &str) -> Result<Self, InvalidId> {
                // Hostile input may be long; 64 characters are enough to recognise it in the error.
                Uuid::try_parse(input)
                    .map(Self)
                    .map_err(|_| InvalidId { kind: $kind, input: input.chars().take(64).collect() })
            }
        }
    };
}

uuid_id!(
    /// One session: a plan on its way from submission to its pull request.
    SessionId,
    "session id"
);
uuid_id!(
    /// One version of a session's plan.
    SpecId,
    "spec id"
);
uuid_id!(
    /// One message of a session.
    MessageId,
    "message id"
);
uuid_id!(
    /// One artifact that a session uploaded.
    ArtifactId,
    "artifact id"
);
uuid_id!(
    /// One question of a session to a person.
    QuestionId,
    "question id"
);

uuid_id!(
    /// One note of a person to a session's agent.
    NoteId,
    "note id"
);

impl SessionId {
    /// The first eight hexadecimal digits: what people see, and what the default branch is named after.
    pub fn short(&self) -> String {
        let mut text = self.0.simple().to_string();
        text.truncate(8);
        text
    }
}

/// The number of an attempt at a session, from 1. It is part of the fencing token: a write by an attempt is refused
/// once a later attempt exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AttemptNumber(u32);

impl AttemptNumber {
    /// Wraps a number; 0 stands for "no attempt yet".
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The number itself.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The number of the attempt after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for AttemptNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of a worker: one running `Orchestrator`. Unique among the processes that share a store.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WorkerId(String);

impl WorkerId {
    /// Wraps a name, for example `host-4711-1a2b3c4d`.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The name itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The number of a lease on a session, from 1: it grows with every claim, also where another worker takes over a running
/// attempt. Together with the attempt's number it is the fencing token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseNumber(u64);

impl LeaseNumber {
    /// Wraps a number; 0 stands for "never claimed".
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number itself.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number of the lease after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// Who writes: one attempt of one session, under one lease. Every write of an attempt carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fence {
    /// The session that is written to.
    pub session: SessionId,
    /// The attempt that writes.
    pub attempt: AttemptNumber,
    /// The lease under which it writes: an attempt that another worker took over goes on under a later one.
    pub lease: LeaseNumber,
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.session, self.attempt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_back_from_its_text() {
        let id = SessionId::from_uuid(Uuid::from_u128(0x018f_4e1c));
        assert_eq!(id.to_string().parse::<SessionId>(), Ok(id));
        assert_eq!(id.short(), "00000000");
    }

    #[test]
    fn hostile_text_is_refused_and_shortened() {
        for text in ["", "../../etc/passwd", "a\0b", &"f".repeat(10_000)] {
            let error = text.parse::<SessionId>().unwrap_err();
            assert_eq!(error.code(), "id.invalid");
            assert!(error.to_string().len() < 400);
        }
    }
}
