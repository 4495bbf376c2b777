//! Time and randomness, injected: nothing else in this crate asks the machine for either.

use std::fmt::Debug;

use chrono::{DateTime, Utc};
use uuid::{Builder, Uuid};

use crate::ids::{ArtifactId, MessageId, NoteId, QuestionId, SessionId, SpecId};

/// Where the wall clock is read. Leases never depend on it: they live in the database's time.
pub trait Clock: Debug + Send + Sync {
    /// The present moment.
    fn now(&self) -> DateTime<Utc>;
}

/// The machine's own clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where the machine's clock is read"
    )]
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }
}

/// Where randomness comes from.
pub trait Entropy: Debug + Send + Sync {
    /// Fills the buffer with bytes that nobody can predict.
    fn fill(&self, buffer: &mut [u8]);
}

/// The operating system's generator.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    #[expect(
        clippy::expect_used,
        reason = "without the system's generator no token is safe: going on is worse"
    )]
    fn fill(&self, buffer: &mut [u8]) {
        getrandom::fill(buffer).expect("the operating system's random number generator answers");
    }
}

/// Makes identifiers from a clock and a source of randomness.
#[derive(Debug, Clone, Copy)]
pub struct IdSource<'a> {
    clock: &'a dyn Clock,
    entropy: &'a dyn Entropy,
}

impl<'a> IdSource<'a> {
    /// An id source over the two.
    pub const fn new(clock: &'a dyn Clock, entropy: &'a dyn Entropy) -> Self {
        Self { clock, entropy }
    }

    /// A session id: random from the first digit (UUID version 4), since its first eight digits name the branch
    /// and must differ between sessions that are submitted in the same minute.
    pub fn session(&self) -> SessionId {
        let mut bytes = [0; 16];
        self.entropy.fill(&mut bytes);
        SessionId::from_uuid(Builder::from_random_bytes(bytes).into_uuid())
    }

    /// A message id, ordered by time (UUID version 7), which keeps the index of a large table compact.
    pub fn message(&self) -> MessageId {
        MessageId::from_uuid(self.ordered())
    }

    /// A spec id, ordered by time.
    pub fn spec(&self) -> SpecId {
        SpecId::from_uuid(self.ordered())
    }

    /// An artifact id, ordered by time.
    pub fn artifact(&self) -> ArtifactId {
        ArtifactId::from_uuid(self.ordered())
    }

    /// A question id, ordered by time.
    pub fn question(&self) -> QuestionId {
        QuestionId::from_uuid(self.ordered())
    }

    /// A note id, ordered by time.
    pub fn note(&self) -> NoteId {
        NoteId::from_uuid(self.ordered())
    }

    fn ordered(&self) -> Uuid {
        let mut bytes = [0; 10];
        self.entropy.fill(&mut bytes);
        let milliseconds = u64::try_from(self.clock.now().timestamp_millis()).unwrap_or(0);
        Builder::from_unix_timestamp_millis(milliseconds, &bytes).into_uuid()
    }
}
