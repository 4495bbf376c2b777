//! `POST /session/events`: a batch of what the runner reports, newline-delimited.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use fabrica_core::ports::SinkError;
use fabrica_core::protocol::{Envelope, MAX_BATCH_BYTES, MAX_BATCH_EVENTS, MAX_EVENT_BYTES};
use http::{HeaderMap, StatusCode};

use crate::access::Session;
use crate::memory::{self, Unread};
use crate::refusal::Refusal;

/// How many times its own size a batch may take in memory once it is read: a JSON number of one digit takes two bytes
/// with its comma, and 32 there.
const EXPANSION: usize = 16;

pub(super) async fn deliver(State(session): State<Arc<Session>>, headers: HeaderMap, body: Body) -> Response {
    let held = match memory::hold(&session, &headers, body, MAX_BATCH_BYTES, EXPANSION).await {
        Ok(held) => held,
        Err(Unread::Stalled) => return memory::stalled().into_problem(),
        Err(Unread::Unfit) => {
            let detail = format!("the batch is incomplete or has more than {MAX_BATCH_BYTES} bytes");
            return too_large(detail).into_problem();
        }
    };
    let events = match read(&held.content) {
        Ok(events) => events,
        Err(refusal) => return refusal.into_problem(),
    };
    match session.sink.deliver(events).await {
        Ok(acknowledgement) => Json(acknowledgement).into_response(),
        Err(error) => {
            tracing::warn!(session = %session.fence, %error, "a report was not taken");
            not_taken(&error).into_problem()
        }
    }
}

fn read(bytes: &[u8]) -> Result<Vec<Envelope>, Refusal> {
    let mut events = Vec::new();
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        if events.len() == MAX_BATCH_EVENTS {
            return Err(too_large(format!(
                "the batch has more than {MAX_BATCH_EVENTS} events"
            )));
        }
        // Also since reading one takes many times its size for a moment.
        if line.len() > MAX_EVENT_BYTES {
            return Err(too_large(format!(
                "line {} has more than {MAX_EVENT_BYTES} bytes",
                index + 1
            )));
        }
        events.push(serde_json::from_slice(line).map_err(|error| malformed(index + 1, &error))?);
    }
    Ok(events)
}

fn too_large(detail: String) -> Refusal {
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "session.batch_too_large", detail)
}

/// Names the place and the kind of the mistake, never the text: it may hold what the agent saw.
fn malformed(line: usize, error: &serde_json::Error) -> Refusal {
    let kind = match error.classify() {
        serde_json::error::Category::Data => "is JSON, but not an event",
        serde_json::error::Category::Eof => "ends too early",
        serde_json::error::Category::Syntax | serde_json::error::Category::Io => "is not JSON",
    };
    let detail = format!(
        "line {line}, column {}: the line {kind}; nothing of the batch was taken",
        error.column()
    );
    Refusal::new(StatusCode::BAD_REQUEST, "session.malformed", detail)
}

pub(super) fn not_taken(error: &SinkError) -> Refusal {
    match error {
        SinkError::Fenced => Refusal::new(StatusCode::CONFLICT, "session.fenced", error.to_string()),
        SinkError::Gap { expected } => Refusal {
            expected: Some(*expected),
            ..Refusal::new(StatusCode::CONFLICT, "session.gap", error.to_string())
        },
        // The cause is for the operator's log, not for the sandbox.
        _ => Refusal::for_now(
            "session.unavailable",
            "the report cannot be stored now; send it again",
        ),
    }
}
