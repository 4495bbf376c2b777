//! `GET /sessions/{id}/transcript?after=&limit=`: what a session's agent said and did, after a sequence number, in order.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use fabrica_cli::redact::Redactor;
use fabrica_core::ports::store::{StoreError, StoredTranscript};
use serde::Deserialize;

use crate::extract::{Parameters, PathSession, page_size};
use crate::problem::Problem;
use crate::state::AppState;
use crate::view::TranscriptView;

const USUAL_PAGE: u32 = 100;
/// Few beside messages: an entry may have 256 KiB.
const LARGEST_PAGE: u32 = 200;

/// Which entries are asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    /// The last sequence number that the caller has seen.
    #[serde(default)]
    after: u64,
    limit: Option<u32>,
}

/// Lists entries, without what looks like a credential. A full page names the next one in its `Link` header.
pub(crate) async fn handle(
    State(state): State<AppState>,
    PathSession(id): PathSession,
    Parameters(wanted): Parameters<Wanted>,
) -> Result<(HeaderMap, Json<Vec<TranscriptView>>), Problem> {
    let limit = page_size(wanted.limit, USUAL_PAGE, LARGEST_PAGE)?;
    let store = state.orchestrator.store();
    let page = store.transcript(id, wanted.after, limit).await?;
    if page.is_empty() && store.session(id).await?.is_none() {
        return Err(StoreError::NoSuchSession(id).into());
    }
    let mut headers = HeaderMap::new();
    if let Some(last) = page.get(limit as usize - 1) {
        let next = format!(
            "</sessions/{id}/transcript?after={}&limit={limit}>; rel=\"next\"",
            last.sequence
        );
        headers.extend(HeaderValue::try_from(next).ok().map(|next| (header::LINK, next)));
    }
    let mut redactor = Redactor::default();
    let redacted = page.into_iter().map(|row| StoredTranscript {
        entry: redactor.entry(row.entry),
        ..row
    });
    Ok((headers, Json(redacted.map(TranscriptView::from).collect())))
}
