//! The routes and what every request passes on its way to one.

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};

use crate::guard;
use crate::routes::{answer, cancel, fallback, health, messages, run, say, session, sessions, transcript};
use crate::state::AppState;
use crate::{pace, trace};

/// The API. A request passes, in this order: its id and log entry, a bound on its time, the checks of host and
/// origin, the token.
pub fn router(state: AppState) -> Router {
    Router::new()
        .route("/health", get(health::handle))
        .route("/run", post(run::handle))
        .route("/sessions", get(sessions::handle))
        .route("/sessions/{id}", get(session::handle))
        .route("/sessions/{id}/messages", get(messages::handle))
        .route("/sessions/{id}/transcript", get(transcript::handle))
        .route("/sessions/{id}/cancel", post(cancel::handle))
        .route("/sessions/{id}/questions", get(answer::list))
        .route("/sessions/{id}/answer", post(answer::handle))
        .route("/sessions/{id}/say", post(say::handle))
        .fallback(fallback::route_not_found)
        .method_not_allowed_fallback(fallback::method_not_allowed)
        .layer(from_fn_with_state(state.clone(), guard::authenticate))
        .layer(from_fn_with_state(state.clone(), guard::check))
        .layer(from_fn(pace::bound))
        .layer(from_fn_with_state(state.clone(), trace::request))
        .with_state(state)
}
