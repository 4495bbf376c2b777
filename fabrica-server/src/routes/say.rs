//! `POST /sessions/{id}/say`: tells the agent of a session something; one that has ended goes on with it.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use fabrica_core::ids::{NoteId, SessionId};
use fabrica_core::orchestrator::NoteSubmission;
use fabrica_core::ports::store::Said;
use serde::{Deserialize, Serialize};

use crate::body::read_json;
use crate::extract::{PathSession, submitter};
use crate::problem::Problem;
use crate::state::AppState;

/// A note as it comes in.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Wanted {
    text: String,
    /// Who says it; without it, the submitter of the request.
    by: Option<String>,
}

/// The note that was taken.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Taken {
    session_id: SessionId,
    note_id: NoteId,
    /// Its place among the session's notes, from 1.
    number: u32,
    /// Whether the session had ended, and goes on with it.
    continued: bool,
    message: &'static str,
}

/// Takes a note.
pub(crate) async fn handle(
    State(state): State<AppState>,
    PathSession(session): PathSession,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<Taken>), Problem> {
    let by = submitter(&headers)?;
    let wanted: Wanted = read_json(&headers, body).await?;
    let note = NoteSubmission {
        session,
        text: wanted.text,
        by: wanted.by.unwrap_or(by),
    };
    let said = state.orchestrator.say(note).await?;
    let (continued, message) = match &said {
        Said::Queued(_) => (false, "The agent hears it at its next turn."),
        Said::Continued(_) => (true, "The session goes on with it."),
    };
    let taken = Taken {
        session_id: session,
        note_id: said.note().id,
        number: said.note().number,
        continued,
        message,
    };
    Ok((StatusCode::ACCEPTED, Json(taken)))
}
