//! `GET /sessions/{id}/messages?after=&limit=`: a session's messages after a sequence number, in order.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use fabrica_core::ports::store::StoreError;
use serde::Deserialize;

use crate::extract::{Parameters, PathSession, page_size};
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

/// Lists messages. A full page names the next one in its `Link` header.
pub(crate) async fn handle(
    State(state): State<AppState>,
    PathSession(id): PathSession,
    Parameters(wanted): Parameters<Wanted>,
) -> Result<(HeaderMap, Json<Vec<MessageView>>), Problem> {
    let limit = page_size(wanted.limit, LARGEST_PAGE, LARGEST_PAGE)?;
    let store = state.orchestrator.store();
    let page = store.messages(id, wanted.after.into(), limit).await?;
    if page.is_empty() && store.session(id).await?.is_none() {
        return Err(StoreError::NoSuchSession(id).into());
    }
    let mut headers = HeaderMap::new();
    if let Some(last) = page.get(limit as usize - 1) {
        let next = format!(
            "</sessions/{id}/messages?after={}&limit={limit}>; rel=\"next\"",
            last.sequence
        );
        headers.extend(HeaderValue::try_from(next).ok().map(|next| (header::LINK, next)));
    }
    Ok((headers, Json(page.into_iter().map(MessageView::from).collect())))
}
