//! `GET /sessions?status=&limit=&before=`: the sessions, newest first.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use fabrica_core::ids::SessionId;
use fabrica_core::ports::store::SessionFilter;
use fabrica_core::session::SessionStatus;
use serde::Deserialize;

use crate::extract::{Parameters, page_size};
use crate::problem::Problem;
use crate::state::AppState;
use crate::view::SessionView;

const USUAL_PAGE: u32 = 50;
const LARGEST_PAGE: u32 = 200;

/// Which sessions are asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    /// Statuses, separated by commas; all without it.
    status: Option<String>,
    limit: Option<u32>,
    /// The last session of the page before.
    before: Option<String>,
}

/// Lists sessions. A full page names the next one in its `Link` header.
pub(crate) async fn handle(
    State(state): State<AppState>,
    Parameters(wanted): Parameters<Wanted>,
) -> Result<(HeaderMap, Json<Vec<SessionView>>), Problem> {
    let limit = page_size(wanted.limit, USUAL_PAGE, LARGEST_PAGE)?;
    let before = wanted.before.as_deref().map(str::parse).transpose()?;
    let filter = SessionFilter {
        statuses: statuses(wanted.status.as_deref())?,
        before,
    };
    let page = state.orchestrator.store().sessions(&filter, limit).await?;
    let mut headers = HeaderMap::new();
    if let Some(last) = page.get(limit as usize - 1) {
        let next = next_page(last.id, limit, &filter.statuses);
        headers.extend(HeaderValue::try_from(next).ok().map(|next| (header::LINK, next)));
    }
    Ok((headers, Json(page.into_iter().map(SessionView::from).collect())))
}

fn statuses(list: Option<&str>) -> Result<Vec<SessionStatus>, Problem> {
    let names = list.into_iter().flat_map(|list| list.split(',')).map(str::trim);
    let statuses: Result<Vec<SessionStatus>, _> = names.map(str::parse).collect();
    statuses.map_err(|error| Problem::new("request.invalid_query", error.to_string()))
}

fn next_page(last: SessionId, limit: u32, statuses: &[SessionStatus]) -> String {
    let names: Vec<&str> = statuses.iter().map(|status| status.as_str()).collect();
    let filter = if names.is_empty() {
        String::new()
    } else {
        format!("&status={}", names.join(","))
    };
    format!("</sessions?before={last}&limit={limit}{filter}>; rel=\"next\"")
}
