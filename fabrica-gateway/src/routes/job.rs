//! `GET /session/job`: what the runner has to do.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use fabrica_core::protocol::Job;

use crate::access::Session;

pub(super) async fn show(State(session): State<Arc<Session>>) -> Json<Job> {
    Json(session.job.clone())
}
