//! `GET /sessions/{id}`: one session.

use axum::Json;
use axum::extract::State;
use fabrica_core::ports::store::StoreError;

use crate::extract::PathSession;
use crate::problem::Problem;
use crate::state::AppState;
use crate::view::SessionView;

/// Shows a session.
pub(crate) async fn handle(
    State(state): State<AppState>,
    PathSession(id): PathSession,
) -> Result<Json<SessionView>, Problem> {
    let session = state
        .orchestrator
        .store()
        .session(id)
        .await?
        .ok_or(StoreError::NoSuchSession(id))?;
    Ok(Json(session.into()))
}
