//! `POST /run`: takes a plan and answers with its session, which is durable then.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use fabrica_core::ids::SessionId;
use fabrica_core::orchestrator::Submission;
use fabrica_core::ports::store::Created;
use serde::Serialize;

use crate::body::{check_media_type, read_plan};
use crate::extract::{idempotency_key, submitter};
use crate::problem::Problem;
use crate::state::AppState;

/// The session of an accepted plan.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Accepted {
    session_id: SessionId,
    message: &'static str,
}

/// Submits the plan in the body.
pub(crate) async fn handle(
    State(state): State<AppState>,
    headers: HeaderMap,
    body: Body,
) -> Result<impl IntoResponse, Problem> {
    let idempotency_key = idempotency_key(&headers)?;
    check_media_type(&headers)?;
    let submission = Submission {
        submitter: Some(submitter(&headers)?),
        idempotency_key,
        ..Submission::new(read_plan(body).await?)
    };
    let created = state.orchestrator.submit(submission).await?;
    let message = match created {
        Created::New(_) => "The session is queued.",
        Created::Existing(_) => "The session was accepted before, with the same Idempotency-Key.",
    };
    let session_id = created.session();
    let location = [(header::LOCATION, format!("/sessions/{session_id}"))];
    Ok((
        StatusCode::ACCEPTED,
        location,
        Json(Accepted { session_id, message }),
    ))
}
