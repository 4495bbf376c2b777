//! Notes of people to agents.

use chrono::{DateTime, Utc};

use super::state::State;
use crate::ids::SessionId;
use crate::ports::store::{NewNote, Note, Notice, Said, StoreError};
use crate::session::SessionStatus;

pub(super) fn say(
    state: &mut State,
    new: NewNote,
    now: DateTime<Utc>,
) -> Result<(Said, Vec<Notice>), StoreError> {
    let session = new.session;
    let record = (state.sessions.get_mut(&session)).ok_or(StoreError::NoSuchSession(session))?;
    if record.session.status == SessionStatus::Escalated {
        return Err(StoreError::WaitsForAnswer(session));
    }
    let note = Note {
        id: new.id,
        session,
        number: record.notes.last().map_or(1, |note| note.number + 1),
        text: new.text,
        by: new.by,
        at: now,
    };
    record.notes.push(note.clone());
    let mut notices = vec![record.add_message(new.message, now)];
    if !record.session.status.is_terminal() {
        return Ok((Said::Queued(note), notices));
    }
    record.max_attempts = (record.session.attempt.get()).saturating_add(new.attempts.max(1));
    record.session.cancel_requested = false;
    record.run_at = now;
    record.set_status(SessionStatus::Pending, now);
    notices.push(Notice::Claimable);
    Ok((Said::Continued(note), notices))
}

pub(super) fn notes(state: &State, session: SessionId, after: u32) -> Vec<Note> {
    (state.sessions.get(&session).into_iter())
        .flat_map(|record| &record.notes)
        .filter(|note| note.number > after)
        .cloned()
        .collect()
}
