//! `GET /sessions/{id}/transcript?after=&limit=`: what a session's agent said and did, after a sequence number, in order.

use axum::extract::State;
use axum::response::Response;
use fabrica_cli::redact::Redactor;
use fabrica_core::ports::store::{StoreError, StoredTranscript};
use serde::Deserialize;

use crate::extract::{Parameters, PathSession, page_size};
use crate::page::Page;
use crate::problem::Problem;
use crate::state::AppState;
use crate::view::TranscriptView;

const USUAL_PAGE: u32 = 100;
/// Few beside messages: an entry may have 256 KiB.
const LARGEST_PAGE: u32 = 200;
/// How many entries before a page are looked at: a private key may have begun there.
const BEFORE: u32 = 16;

/// Which entries are asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    /// The last sequence number that the caller has seen.
    #[serde(default)]
    after: u64,
    limit: Option<u32>,
}

/// Lists entries, without what looks like a credential. Its `Link` header names the next page, if something may follow.
pub(crate) async fn handle(
    State(state): State<AppState>,
    PathSession(id): PathSession,
    Parameters(wanted): Parameters<Wanted>,
) -> Result<Response, Problem> {
    let limit = page_size(wanted.limit, USUAL_PAGE, LARGEST_PAGE)?;
    let store = state.orchestrator.store();
    // It is never closed: whoever got no turn would do without.
    let _turn = state.transcripts.acquire().await;
    let mut redactor = Redactor::default();
    if wanted.after > 0 {
        let from = wanted.after.saturating_sub(BEFORE.into());
        let before = store.transcript(id, from, BEFORE).await?;
        for row in before.into_iter().filter(|row| row.sequence <= wanted.after) {
            // For what it remembers.
            let _ = redactor.entry(row.entry);
        }
    }
    let view = |row: StoredTranscript| {
        let entry = redactor.entry(row.entry);
        (
            row.sequence,
            TranscriptView::from(StoredTranscript { entry, ..row }),
        )
    };
    let read = |after, wanted| store.transcript(id, after, wanted);
    let page = Page::read(wanted.after, limit, read, view).await?;
    if page.is_empty() && store.session(id).await?.is_none() {
        return Err(StoreError::NoSuchSession(id).into());
    }
    Ok(page.answer(&format!("/sessions/{id}/transcript")))
}
