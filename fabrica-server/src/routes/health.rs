//! `GET /health`: whether the server can do its work. Needs no token.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use tokio::time::timeout;

use crate::problem::Problem;
use crate::state::AppState;
use crate::token::TOKEN_NAME;

/// How long the store has to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// That all is well.
#[derive(Debug, Serialize)]
pub(crate) struct Health {
    status: &'static str,
    version: &'static str,
}

/// Asks the store for something small.
pub(crate) async fn handle(State(state): State<AppState>) -> Result<Json<Health>, Problem> {
    timeout(PATIENCE, state.orchestrator.store().token(TOKEN_NAME))
        .await
        .map_err(|_| Problem::new("database.unavailable", "the database does not answer in time"))??;
    Ok(Json(Health {
        status: "ok",
        version: env!("CARGO_PKG_VERSION"),
    }))
}
