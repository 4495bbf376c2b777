//! What handlers take from a request, with our own errors.

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequestParts, Path, Query};
use axum::http::HeaderMap;
use axum::http::request::Parts;
use fabrica_core::ids::SessionId;
use serde::de::DeserializeOwned;

use crate::problem::Problem;

/// The session that the path names.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PathSession(pub(crate) SessionId);

impl<S: Send + Sync> FromRequestParts<S> for PathSession {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let text: Result<Path<String>, PathRejection> = Path::from_request_parts(parts, state).await;
        let Path(text) = text.map_err(|_| Problem::new("id.invalid", "the session id is not text"))?;
        Ok(Self(text.parse()?))
    }
}

/// The query, of which every parameter is known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parameters<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Parameters<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query: Result<Query<T>, QueryRejection> = Query::from_request_parts(parts, state).await;
        query
            .map(|Query(value)| Self(value))
            .map_err(|rejection| Problem::new("request.invalid_query", rejection.body_text()))
    }
}

/// A page's size within its bounds.
pub(crate) fn page_size(asked: Option<u32>, usual: u32, largest: u32) -> Result<u32, Problem> {
    let size = asked.unwrap_or(usual);
    if (1..=largest).contains(&size) {
        Ok(size)
    } else {
        Err(Problem::new(
            "request.invalid_query",
            format!("limit is {size}, expected 1 to {largest}"),
        ))
    }
}

/// The `Idempotency-Key`, if there is one.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let visible = (1..=255).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic);
    match value.to_str() {
        Ok(key) if visible && values.next().is_none() => Ok(Some(key.to_owned())),
        _ => Err(Problem::new(
            "request.invalid_idempotency_key",
            "the Idempotency-Key is not one text of 1 to 255 visible ASCII characters",
        )),
    }
}

/// Who hands a plan in, for the fairness of the queue: the header `Fabrica-Submitter`. Whoever holds the API token may name
/// anybody; a proxy in front that knows its users sets it.
pub(crate) fn submitter(headers: &HeaderMap) -> Result<String, Problem> {
    /// Who it is where nobody says.
    const NOBODY: &str = "api";
    let mut values = headers.get_all("fabrica-submitter").iter();
    let Some(value) = values.next() else {
        return Ok(NOBODY.to_owned());
    };
    match value.to_str() {
        Ok(name) if (1..=100).contains(&name.len()) && values.next().is_none() => Ok(name.to_owned()),
        _ => Err(Problem::new(
            "request.invalid_submitter",
            "Fabrica-Submitter is not one name of 1 to 100 visible ASCII characters",
        )),
    }
}
