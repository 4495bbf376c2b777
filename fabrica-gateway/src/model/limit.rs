//! Limits of usage that end at a certain time, hours or days ahead: told in a refusal's headers, or in its words.

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

/// What ends sooner is waited for inside of the sandbox.
const LONG: TimeDelta = TimeDelta::minutes(5);
/// How much of a refusal is read, and how long it is waited for.
const MOST_READ: usize = 64 * 1024;
const LONGEST_READ: Duration = Duration::from_secs(10);
/// How many characters of the provider's words are told.
const MOST_TOLD: usize = 200;
/// When the subscription's limits end, in seconds since 1970.
const UNIFIED_RESET: &str = "anthropic-ratelimit-unified-reset";
/// How the limit of a month's spending is told, with status 400.
const REGAIN: &str = "regain access on ";
const REGAIN_FORMAT: &str = "%Y-%m-%d at %H:%M UTC";

/// A refusal's body that was read as far as it may matter; it is passed on whole.
pub(crate) struct Read {
    beginning: Vec<Bytes>,
    rest: BoxStream<'static, reqwest::Result<Bytes>>,
}

/// A limit that lasts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) until: DateTime<Utc>,
    /// The provider's own words, in one line.
    pub(crate) words: String,
}

/// Whether an answer may tell of such a limit.
pub(crate) const fn may_tell(status: StatusCode) -> bool {
    matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::BAD_REQUEST)
}

impl Read {
    /// Reads a refusal, up to a size and for a while.
    pub(crate) async fn from(answer: reqwest::Response) -> Self {
        let mut rest = answer.bytes_stream().boxed();
        let (mut beginning, mut length) = (Vec::new(), 0);
        let deadline = Instant::now() + LONGEST_READ;
        while length < MOST_READ {
            match timeout_at(deadline, rest.next()).await {
                Ok(Some(Ok(piece))) => {
                    length += piece.len();
                    beginning.push(piece);
                }
                Ok(Some(Err(error))) => {
                    rest = stream::iter([Err(error)]).chain(rest).boxed();
                    break;
                }
                Ok(None) | Err(_) => break,
            }
        }
        Self { beginning, rest }
    }

    /// The limit that it tells of, if that lasts.
    pub(crate) fn limit(&self, status: StatusCode, headers: &HeaderMap, now: DateTime<Utc>) -> Option<Limit> {
        limit(status, headers, &self.beginning.concat(), now)
    }

    /// The body as it came.
    pub(crate) fn into_body(self) -> impl futures::Stream<Item = reqwest::Result<Bytes>> + Send + 'static {
        stream::iter(self.beginning.into_iter().map(Ok)).chain(self.rest)
    }
}

fn limit(status: StatusCode, headers: &HeaderMap, body: &[u8], now: DateTime<Utc>) -> Option<Limit> {
    let document: Value = serde_json::from_slice(body).unwrap_or_default();
    let message = document["error"]["message"].as_str().unwrap_or_default();
    let until = match status {
        StatusCode::TOO_MANY_REQUESTS => retry_after(headers, now)
            .or_else(|| reset(headers))
            .or_else(|| regained(message)),
        _ => regained(message),
    }?;
    let words: String = message.split_whitespace().collect::<Vec<_>>().join(" ");
    (until.signed_duration_since(now) >= LONG).then(|| Limit {
        until,
        words: words.chars().take(MOST_TOLD).collect(),
    })
}

/// In seconds or as a date (RFC 9110, section 10.2.3).
fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match text.parse() {
        Ok(seconds) => now.checked_add_signed(TimeDelta::try_seconds(seconds)?),
        Err(_) => Some(DateTime::parse_from_rfc2822(text).ok()?.to_utc()),
    }
}

fn reset(headers: &HeaderMap) -> Option<DateTime<Utc>> {
    let seconds = headers.get(UNIFIED_RESET)?.to_str().ok()?.trim().parse().ok()?;
    DateTime::from_timestamp(seconds, 0)
}

fn regained(message: &str) -> Option<DateTime<Utc>> {
    let (_, rest) = message.split_once(REGAIN)?;
    let (time, _) = NaiveDateTime::parse_and_remainder(rest, REGAIN_FORMAT).ok()?;
    Some(time.and_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        list.iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn limits_that_last_are_told_from_those_that_pass() {
        let now = DateTime::parse_from_rfc3339("2026-11-23T12:00:00Z")
            .unwrap()
            .to_utc();
        let spent = r#"{"error":{"message":"You have reached your specified API usage limits.\nYou will regain access on 2026-12-01 at 00:00 UTC."}}"#;
        for (status, list, body, until) in [
            (
                429,
                vec![("retry-after", "3600")],
                "{}",
                Some("2026-11-23T13:00:00Z"),
            ),
            (429, vec![("retry-after", "299")], "{}", None),
            (
                429,
                vec![("retry-after", "300")],
                "not json",
                Some("2026-11-23T12:05:00Z"),
            ),
            (
                429,
                vec![("retry-after", "Tue, 24 Nov 2026 08:00:00 GMT")],
                "",
                Some("2026-11-24T08:00:00Z"),
            ),
            (
                429,
                vec![("retry-after", "7"), (UNIFIED_RESET, "1795521600")],
                "",
                None,
            ),
            (
                429,
                vec![(UNIFIED_RESET, "1795521600")],
                "",
                Some("2026-11-24T12:00:00Z"),
            ),
            (429, vec![("retry-after", "99999999999999999")], "", None),
            (429, vec![], spent, Some("2026-12-01T00:00:00Z")),
            (400, vec![], spent, Some("2026-12-01T00:00:00Z")),
            (400, vec![("retry-after", "3600")], "{}", None),
            (429, vec![], "{}", None),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let found = limit(status, &headers(&list), body.as_bytes(), now);
            let expected = until.map(|until| DateTime::parse_from_rfc3339(until).unwrap().to_utc());
            assert_eq!(
                found.map(|limit| limit.until),
                expected,
                "{status} {list:?} {body}"
            );
        }
        let told = limit(StatusCode::BAD_REQUEST, &HeaderMap::new(), spent.as_bytes(), now).unwrap();
        assert_eq!(
            told.words,
            "You have reached your specified API usage limits. You will regain access on 2026-12-01 at 00:00 UTC."
        );
    }
}
