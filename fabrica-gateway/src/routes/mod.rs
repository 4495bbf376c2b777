//! What the gateway serves, one endpoint a file.

mod artifacts;
mod events;
mod job;
mod model;

use std::sync::Arc;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post};
use http::{StatusCode, Uri};

use crate::access::{Session, admit, agent_only, runner_only};
use crate::git;
use crate::refusal::{Area, Refusal};

/// Every route asks for a token first, also those that do not exist.
pub(crate) fn router(session: Arc<Session>) -> Router {
    let reports = Router::new()
        .route("/job", get(job::show))
        .route("/events", post(events::deliver))
        .route("/artifacts/{name}", get(artifacts::show).put(artifacts::store))
        .method_not_allowed_fallback(unknown)
        .fallback(unknown)
        .layer(from_fn(runner_only));
    let model = Router::new()
        .route("/v1/messages", post(model::messages))
        .route("/v1/messages/count_tokens", post(model::count_tokens))
        .method_not_allowed_fallback(model::refuse)
        .fallback(model::refuse)
        .layer(from_fn(agent_only));
    Router::new()
        .nest("/session", reports)
        .nest("/model", model)
        .nest("/git", git::router())
        .fallback(elsewhere)
        .layer(from_fn_with_state(Arc::clone(&session), admit))
        .with_state(session)
}

/// What no nested router takes, such as `/model/`.
async fn elsewhere(uri: Uri) -> Response {
    match Area::of(uri.path()) {
        Area::Session => unknown().await,
        Area::Model => model::refuse().await,
        Area::Git => git::refuse().await,
    }
}

async fn unknown() -> Response {
    Refusal::new(
        StatusCode::NOT_FOUND,
        "gateway.unknown_route",
        "fabrica: the gateway serves no such thing",
    )
    .into_problem()
}
