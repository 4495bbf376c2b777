//! Reading a plan: never more of it than a plan may have, and not for ever.

use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::http::{HeaderMap, header};
use fabrica_core::plan::MAX_PLAN_BYTES;
use futures::StreamExt as _;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::problem::Problem;

/// How long a body may take to arrive.
const BODY_PATIENCE: Duration = Duration::from_secs(30);

/// Checks that the body is what a plan is written in: markdown, plain text, or something that nobody named.
pub(crate) fn check_media_type(headers: &HeaderMap) -> Result<(), Problem> {
    let plain = |name, accepts: fn(&str) -> bool| {
        headers.get_all(name).iter().all(|value| {
            value
                .to_str()
                .is_ok_and(|text| accepts(&text.to_ascii_lowercase()))
        })
    };
    if plain(header::CONTENT_TYPE, is_text)
        && plain(header::CONTENT_ENCODING, |encoding| encoding == "identity")
    {
        Ok(())
    } else {
        Err(Problem::new(
            "request.unsupported_media_type",
            "the body is neither text/markdown nor text/plain",
        ))
    }
}

fn is_text(media_type: &str) -> bool {
    let mut parts = media_type.split(';').map(str::trim);
    let known = matches!(
        parts.next(),
        Some("text/markdown" | "text/x-markdown" | "text/plain")
    );
    known
        && parts.all(|parameter| match parameter.split_once('=') {
            Some(("charset", charset)) => matches!(charset.trim_matches('"'), "utf-8" | "utf8" | "us-ascii"),
            _ => true,
        })
}

/// The largest body that is JSON.
const MAX_JSON_BYTES: usize = 1024 * 1024;

/// Reads a body of JSON.
pub(crate) async fn read_json<T: DeserializeOwned>(headers: &HeaderMap, body: Body) -> Result<T, Problem> {
    let announced = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.split(';').next())
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"));
    if !announced || headers.contains_key(header::CONTENT_ENCODING) {
        return Err(Problem::new(
            "request.not_json",
            "the Content-Type is not application/json",
        ));
    }
    let too_large = || {
        let detail = format!("the body has more than {MAX_JSON_BYTES} bytes");
        Problem::new("request.too_large", detail).with("limit", MAX_JSON_BYTES)
    };
    if body.size_hint().lower() > MAX_JSON_BYTES as u64 {
        return Err(too_large());
    }
    let bytes = timeout(BODY_PATIENCE, collect(body, MAX_JSON_BYTES))
        .await
        .map_err(|_| Problem::new("request.timeout", "the body did not arrive in time"))??
        .ok_or_else(too_large)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Problem::new("request.invalid_json", format!("the body: {error}")))
}

/// Reads a plan. What is too large is refused as soon as that is known: at once if its length is announced.
pub(crate) async fn read_plan(body: Body) -> Result<String, Problem> {
    let announced = body.size_hint().lower();
    if announced > MAX_PLAN_BYTES as u64 {
        return Err(too_large());
    }
    let bytes = timeout(BODY_PATIENCE, collect(body, MAX_PLAN_BYTES))
        .await
        .map_err(|_| Problem::new("request.timeout", "the body did not arrive in time"))??
        .ok_or_else(too_large)?;
    String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        Problem::new("plan.not_utf8", format!("the plan is not UTF-8 at byte {offset}"))
            .with("offset", offset)
    })
}

/// All of a body; nothing if it is larger than that.
async fn collect(body: Body, limit: usize) -> Result<Option<Vec<u8>>, Problem> {
    let mut bytes = Vec::new();
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk
            .map_err(|_| Problem::new("request.incomplete_body", "the body ended before it was whole"))?;
        if bytes.len() + chunk.len() > limit {
            return Ok(None);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Some(bytes))
}

fn too_large() -> Problem {
    Problem::new(
        "plan.too_large",
        format!("the plan has more than {MAX_PLAN_BYTES} bytes"),
    )
    .with("limit", MAX_PLAN_BYTES)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bytes::Bytes;
    use futures::stream;

    use super::*;

    #[tokio::test]
    async fn a_body_that_is_too_large_is_not_read_to_its_end() {
        let read = Arc::new(AtomicUsize::new(0));
        let counter = read.clone();
        let chunks = stream::repeat(Bytes::from(vec![b'x'; 16 * 1024]))
            .take(640)
            .map(move |chunk| {
                counter.fetch_add(chunk.len(), Ordering::Relaxed);
                Ok::<_, Infallible>(chunk)
            });
        let problem = read_plan(Body::from_stream(chunks)).await.unwrap_err();
        assert_eq!(problem.code(), "plan.too_large");
        assert!(read.load(Ordering::Relaxed) <= MAX_PLAN_BYTES + 16 * 1024);
    }

    #[tokio::test]
    async fn the_limit_itself_is_accepted() {
        assert_eq!(
            read_plan(Body::from("x".repeat(MAX_PLAN_BYTES)))
                .await
                .unwrap()
                .len(),
            MAX_PLAN_BYTES
        );
        let problem = read_plan(Body::from("x".repeat(MAX_PLAN_BYTES + 1)))
            .await
            .unwrap_err();
        assert_eq!(problem.code(), "plan.too_large");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_is_given_up() {
        let chunks = stream::pending::<Result<Bytes, Infallible>>();
        let problem = read_plan(Body::from_stream(chunks)).await.unwrap_err();
        assert_eq!(problem.code(), "request.timeout");
    }

    #[test]
    fn only_text_is_a_plan() {
        let accepts = |value: &str| is_text(&value.to_ascii_lowercase());
        for good in [
            "text/markdown",
            "text/plain; charset=UTF-8",
            "Text/Markdown;charset=\"utf-8\";variant=GFM",
        ] {
            assert!(accepts(good), "{good}");
        }
        for bad in [
            "",
            "application/json",
            "text/html",
            "text/plain; charset=utf-16",
            "text/markdownx",
        ] {
            assert!(!accepts(bad), "{bad}");
        }
    }
}
