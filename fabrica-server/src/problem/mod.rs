//! Errors as problem documents (RFC 9457).

mod catalogue;

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use fabrica_core::ids::InvalidId;
use fabrica_core::orchestrator::{AnswerError, NoteError, SubmitError};
use fabrica_core::plan::{PlanError, PlanProblem};
use fabrica_core::ports::store::StoreError;
use serde::Serialize;
use serde_json::{Map, Value};

/// How long a caller should wait before it tries again, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("5");

/// An error as the caller sees it. Its status, title and hint follow from its code.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem(Box<Document>);

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Document {
    #[serde(rename = "type")]
    kind: String,
    title: &'static str,
    status: u16,
    detail: String,
    code: &'static str,
    hint: &'static str,
    #[serde(flatten)]
    members: Map<String, Value>,
    #[serde(skip)]
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// The problem of a code, with what is particular to this occurrence.
    pub fn new(code: &'static str, detail: impl Into<String>) -> Self {
        let entry = catalogue::look_up(code);
        let headers = if entry.status == StatusCode::SERVICE_UNAVAILABLE {
            vec![(header::RETRY_AFTER, RETRY_AFTER)]
        } else {
            Vec::new()
        };
        Self(Box::new(Document {
            kind: format!("urn:fabrica:problem:{code}"),
            title: entry.title,
            status: entry.status.as_u16(),
            detail: detail.into(),
            code,
            hint: entry.hint,
            members: Map::new(),
            headers,
        }))
    }

    /// The same problem with one more member, for programs.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0.members.insert(key.to_owned(), value.into());
        self
    }

    /// The same problem with one more header.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.push((name, value));
        self
    }

    /// Its code.
    pub const fn code(&self) -> &'static str {
        self.0.code
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, axum::Json(&self.0)).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        headers.extend(self.0.headers);
        response
    }
}

impl From<InvalidId> for Problem {
    fn from(error: InvalidId) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let code = error.code();
        match error {
            StoreError::NoSuchSession(_)
            | StoreError::IdempotencyConflict(_)
            | StoreError::NoSuchQuestion(_)
            | StoreError::NotWaiting { .. } => Self::new(code, error.to_string()),
            // What the database says may name hosts and tables: it is for the log.
            _ => {
                let source = std::error::Error::source(&error).map(ToString::to_string);
                tracing::error!(%error, source, error.code = code, "the store failed");
                let detail = if error.retryable() {
                    "the database does not answer now"
                } else {
                    "the database did not do what was asked"
                };
                Self::new(code, detail)
            }
        }
    }
}

impl From<SubmitError> for Problem {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Plan(error) => error.into(),
            SubmitError::Store(error) => error.into(),
            other => Self::new(other.code(), other.to_string()),
        }
    }
}

impl From<AnswerError> for Problem {
    fn from(error: AnswerError) -> Self {
        match error {
            AnswerError::Plan(error) => error.into(),
            AnswerError::Store(error) => error.into(),
            other => Self::new(other.code(), other.to_string()),
        }
    }
}

impl From<NoteError> for Problem {
    fn from(error: NoteError) -> Self {
        match error {
            NoteError::Store(error) => error.into(),
            other => Self::new(other.code(), other.to_string()),
        }
    }
}

impl From<PlanError> for Problem {
    fn from(error: PlanError) -> Self {
        let mut problem = Self::new(error.code(), error.to_string());
        if let Some(line) = error.line {
            problem = problem.with("line", line);
        }
        if let Some(column) = error.column {
            problem = problem.with("column", column);
        }
        if let PlanProblem::UnknownKey { key, nearest } = error.problem {
            problem = problem.with("key", key).with("nearest", nearest);
        }
        problem
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_database_says_stays_here() {
        let error = StoreError::Unavailable {
            message: "db.internal:5432 refused".into(),
            source: None,
        };
        let problem = Problem::from(error);
        let text = serde_json::to_string(&problem.0).unwrap();
        assert!(!text.contains("db.internal"), "{text}");
        assert_eq!(problem.0.headers, [(header::RETRY_AFTER, RETRY_AFTER)]);
    }
}
