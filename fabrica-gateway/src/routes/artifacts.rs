//! `/session/artifacts/{name}`: a file of the session's, of this or of an earlier attempt.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use fabrica_core::ports::store::MAX_ARTIFACT_BYTES;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};

use super::events::not_taken;
use crate::access::Session;
use crate::memory::{self, Unread};
use crate::refusal::Refusal;

/// The longest name.
const MAX_NAME: usize = 100;
/// How many times its size an artifact takes in memory until it is stored: as it came, and as the store sends it on.
const COPIES: usize = 2;

pub(super) async fn store(
    State(session): State<Arc<Session>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    if !acceptable(&name) {
        return wrong_name();
    }
    let mut held = match memory::hold(&session, &headers, body, MAX_ARTIFACT_BYTES, COPIES).await {
        Ok(held) => held,
        Err(Unread::Stalled) => return memory::stalled().into_problem(),
        Err(Unread::Unfit) => {
            let detail = format!("the artifact is incomplete or has more than {MAX_ARTIFACT_BYTES} bytes");
            return Refusal::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "session.artifact_too_large",
                detail,
            )
            .into_problem();
        }
    };
    // What was reserved for it is given back only when it is stored.
    let content = std::mem::take(&mut held.content);
    match session.sink.store_artifact(name, content).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => {
            tracing::warn!(session = %session.fence, %error, "an artifact was not taken");
            not_taken(&error).into_problem()
        }
    }
}

pub(super) async fn show(State(session): State<Arc<Session>>, Path(name): Path<String>) -> Response {
    if !acceptable(&name) {
        return wrong_name();
    }
    match session.sink.artifact(&name).await {
        Ok(Some(content)) => ([(CONTENT_TYPE, "application/octet-stream")], content).into_response(),
        Ok(None) => {
            let detail = format!("the session has no artifact {name:?}");
            Refusal::new(StatusCode::NOT_FOUND, "session.artifact_not_found", detail).into_problem()
        }
        Err(error) => {
            tracing::warn!(session = %session.fence, %error, "an artifact cannot be read");
            not_taken(&error).into_problem()
        }
    }
}

fn wrong_name() -> Response {
    let detail = format!(
        "an artifact's name has at most {MAX_NAME} letters, digits, `.`, `_` and `-`, and begins with a letter or digit"
    );
    Refusal::new(StatusCode::BAD_REQUEST, "session.artifact_name", detail).into_problem()
}

/// A name that is harmless as a file's name, in a URL and in a header.
fn acceptable(name: &str) -> bool {
    name.len() <= MAX_NAME
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_be_more_than_a_name_are_refused() {
        for good in ["transcript.jsonl", "a", "checkpoint_1-2.tar.gz"] {
            assert!(acceptable(good), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            ".git",
            "a/b",
            "../a",
            "a\\b",
            "a\0",
            "a b",
            "é",
            "a\r\n",
            &"a".repeat(101),
        ] {
            assert!(!acceptable(bad), "{bad:?}");
        }
    }
}
