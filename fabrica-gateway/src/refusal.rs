//! How the gateway says no: once as a problem document, once as text that git prints, once as the model API would.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use fabrica_core::protocol::CODE_HEADER;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde_json::{Value, json};

/// Tells Anthropic's clients whether another try makes sense; without it they repeat for minutes.
pub(crate) const SHOULD_RETRY: &str = "x-should-retry";

/// Seconds after which a refusal that will pass may have passed.
pub(crate) const TRY_AGAIN: u32 = 1;

/// A request that the gateway does not serve, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    pub(crate) detail: String,
    /// Seconds after which the same request may succeed.
    pub(crate) retry_after: Option<u32>,
    /// The number of the event that should come next.
    pub(crate) expected: Option<u64>,
}

/// Which part of the gateway was asked; its clients understand different answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Area {
    Session,
    Model,
    Git,
}

impl Area {
    pub(crate) fn of(path: &str) -> Self {
        match path.split('/').nth(1) {
            Some("model") => Self::Model,
            Some("git") => Self::Git,
            _ => Self::Session,
        }
    }
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            code,
            detail: detail.into(),
            retry_after: None,
            expected: None,
        }
    }

    /// A refusal that will pass: the same request may come again.
    pub(crate) fn for_now(code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            retry_after: Some(TRY_AGAIN),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail)
        }
    }

    pub(crate) fn forbidden(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, code, detail)
    }

    /// The answer that the clients of an area understand.
    pub(crate) fn in_area(self, area: Area) -> Response {
        match area {
            Area::Session => self.into_problem(),
            Area::Git => self.into_text(),
            // Without a `Retry-After`: the agent has a number of tries, and its own growing pauses make them last for
            // minutes, where a second each would be over in ten.
            Area::Model if self.retry_after.is_some() => {
                let mut response = Self {
                    retry_after: None,
                    ..self
                }
                .into_model_error(false);
                let again = HeaderValue::from_static("true");
                response.headers_mut().insert(SHOULD_RETRY, again);
                response
            }
            Area::Model => {
                let error = self.anthropic_error();
                self.problem_with(Some(error))
            }
        }
    }

    /// `application/problem+json` (RFC 9457).
    pub(crate) fn into_problem(self) -> Response {
        self.problem_with(None)
    }

    fn problem_with(self, error: Option<Value>) -> Response {
        let mut problem = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or("Refused"),
            "status": self.status.as_u16(),
            "code": self.code,
            "detail": self.detail,
        });
        if let Some(expected) = self.expected {
            problem["expected"] = expected.into();
        }
        if let Some(error) = error {
            problem["error"] = error;
        }
        self.respond(
            "application/problem+json",
            problem.to_string(),
            self.retry_after.is_none(),
        )
    }

    /// An error in the model API's own shape, which its clients show. `final_` tells them not to try again.
    pub(crate) fn into_model_error(self, final_: bool) -> Response {
        let body = json!({"type": "error", "error": self.anthropic_error()}).to_string();
        self.respond("application/json", body, final_)
    }

    /// Plain text: git prints it line by line as `remote: …` while it looks for the repository's branches.
    pub(crate) fn into_text(self) -> Response {
        let body = format!("{}\n", self.detail);
        let mut response = self.respond("text/plain; charset=utf-8", body, self.retry_after.is_none());
        if self.status == StatusCode::UNAUTHORIZED {
            // Without a challenge, curl inside git would not know how to show the password that it has.
            let challenge = HeaderValue::from_static("Basic realm=\"fabrica\", charset=\"UTF-8\"");
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        response
    }

    /// An error as Git LFS shows it.
    pub(crate) fn into_lfs(self) -> Response {
        let body = json!({"message": format!("{} ({})", self.detail, self.code)}).to_string();
        self.respond("application/vnd.git-lfs+json", body, self.retry_after.is_none())
    }

    fn anthropic_error(&self) -> Value {
        let kind = match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::NOT_FOUND => "not_found_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            _ => "api_error",
        };
        json!({"type": kind, "message": format!("{} ({})", self.detail, self.code)})
    }

    fn respond(&self, content_type: &'static str, body: String, final_: bool) -> Response {
        let mut response = (self.status, Body::from(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(CODE_HEADER, HeaderValue::from_static(self.code));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if final_ {
            headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        response
    }
}
