//! `GET /sessions/{id}/messages?after=&limit=`: a session's messages after a sequence number, in order.

use axum::extract::State;
use axum::response::Response;
use fabrica_core::message::Message;
use fabrica_core::ports::store::StoreError;
use serde::Deserialize;

use crate::extract::{Parameters, PathSession, page_size};
use crate::page::Page;
use crate::problem::Problem;
use crate::state::AppState;
use crate::view::MessageView;

/// As many as fit into an answer; a session has tens to hundreds.
const LARGEST_PAGE: u32 = 1_000;

/// Which messages are asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    /// The last sequence number that the caller has seen.
    #[serde(default)]
    after: u32,
    limit: Option<u32>,
}

/// Lists messages. Its `Link` header names the next page, if something may follow.
pub(crate) async fn handle(
    State(state): State<AppState>,
    PathSession(id): PathSession,
    Parameters(wanted): Parameters<Wanted>,
) -> Result<Response, Problem> {
    let limit = page_size(wanted.limit, LARGEST_PAGE, LARGEST_PAGE)?;
    let store = state.orchestrator.store();
    let view = |message: Message| (message.sequence, MessageView::from(message));
    let read = |after, wanted| store.messages(id, after, wanted);
    let page = Page::read(wanted.after.into(), limit, read, view).await?;
    if page.is_empty() && store.session(id).await?.is_none() {
        return Err(StoreError::NoSuchSession(id).into());
    }
    Ok(page.answer(&format!("/sessions/{id}/messages")))
}
