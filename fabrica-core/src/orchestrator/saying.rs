//! What people say to agents, while these work or after their end.

use thiserror::Error;

use crate::clock::IdSource;
use crate::ids::SessionId;
use crate::message::{MessageContent, MessageKind, NewMessage};
use crate::ports::store::{NewNote, Said, Store, StoreError};

/// The longest note, in bytes.
pub const MAX_NOTE_BYTES: usize = 64 * 1024;
/// The longest name of who speaks, in characters.
const MAX_NAME: usize = 200;

/// A note that is handed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoteSubmission {
    /// The session whose agent is meant.
    pub session: SessionId,
    /// What is said.
    pub text: String,
    /// Who says it.
    pub by: String,
}

/// Why a note was not taken.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NoteError {
    /// There is nothing in it.
    #[error("the note is empty: write what the agent should know or do")]
    Empty,
    /// It is too long.
    #[error(
        "the note has {bytes} bytes, and {MAX_NOTE_BYTES} are accepted: put long material into the repository"
    )]
    TooLong {
        /// How long it is.
        bytes: usize,
    },
    /// Nobody is named who speaks.
    #[error("the name of who speaks is empty, longer than 200 characters, or has control characters")]
    Name,
    /// The store did not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl NoteError {
    /// Stable code of this error.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Empty => "note.empty",
            Self::TooLong { .. } => "note.too_long",
            Self::Name => "note.name_invalid",
            Self::Store(error) => error.code(),
        }
    }
}

/// Says something to a session's agent, from a process that has nothing but the store;
/// [`Orchestrator::say`](super::Orchestrator::say) for all others. A session that has ended goes on with that many attempts.
///
/// # Errors
///
/// [`NoteError`]; nothing is stored then.
#[tracing::instrument(name = "core.orchestrator.say", skip_all, fields(session.id = %submission.session))]
pub async fn submit_note(
    store: &dyn Store,
    ids: IdSource<'_>,
    attempts: u32,
    submission: NoteSubmission,
) -> Result<Said, NoteError> {
    let NoteSubmission { session, text, by } = submission;
    if text.trim().is_empty() {
        return Err(NoteError::Empty);
    }
    if text.len() > MAX_NOTE_BYTES {
        return Err(NoteError::TooLong { bytes: text.len() });
    }
    let by = by.trim().to_owned();
    if by.is_empty() || by.chars().count() > MAX_NAME || by.contains(char::is_control) {
        return Err(NoteError::Name);
    }
    let content = MessageContent::text(format!("{by} said: {text}"))
        .with("step", "said")
        .with("text", text.as_str())
        .with("by", by.as_str());
    let note = NewNote {
        id: ids.note(),
        session,
        text,
        by,
        attempts: attempts.max(1),
        message: NewMessage {
            id: ids.message(),
            kind: MessageKind::Progress,
            content,
        },
    };
    Ok(store.say(note).await?)
}
