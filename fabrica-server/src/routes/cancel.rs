//! `POST /sessions/{id}/cancel`: asks for the end of a session.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use fabrica_core::ids::SessionId;
use fabrica_core::ports::store::CancelOutcome;
use serde::Serialize;

use crate::extract::PathSession;
use crate::problem::Problem;
use crate::state::AppState;

/// The session whose end was asked for.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Cancelling {
    session_id: SessionId,
    message: &'static str,
}

/// Cancels a session.
pub(crate) async fn handle(
    State(state): State<AppState>,
    PathSession(session_id): PathSession,
) -> Result<(StatusCode, Json<Cancelling>), Problem> {
    let message = match state.orchestrator.cancel(session_id).await? {
        CancelOutcome::Cancelled => "The session is cancelled.",
        CancelOutcome::Requested => "The session is being ended; what its agent committed is pushed.",
        CancelOutcome::AlreadyTerminal(status) => {
            let detail = format!("the session is {status}");
            return Err(Problem::new("session.already_ended", detail).with("sessionStatus", status.as_str()));
        }
    };
    Ok((StatusCode::ACCEPTED, Json(Cancelling { session_id, message })))
}
