//! `POST /session/events`: a batch of what the runner reports, newline-delimited.

use std::sync::Arc;

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use fabrica_core::ports::SinkError;
use fabrica_core::protocol::{Envelope, MAX_BATCH_BYTES, MAX_BATCH_EVENTS};
use http::StatusCode;

use crate::access::Session;
use crate::refusal::Refusal;

/// Seconds after which a runner should try again.
const TRY_AGAIN: u32 = 1;

pub(super) async fn deliver(State(session): State<Arc<Session>>, body: Body) -> Response {
    let events = match read(body).await {
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

async fn read(body: Body) -> Result<Vec<Envelope>, Refusal> {
    let Ok(bytes) = to_bytes(body, MAX_BATCH_BYTES).await else {
        let detail = format!("the batch is incomplete or has more than {MAX_BATCH_BYTES} bytes");
        return Err(Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "session.batch_too_large",
            detail,
        ));
    };
    let mut events = Vec::new();
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        if events.len() == MAX_BATCH_EVENTS {
            let detail = format!("the batch has more than {MAX_BATCH_EVENTS} events");
            return Err(Refusal::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "session.batch_too_large",
                detail,
            ));
        }
        events.push(serde_json::from_slice(line).map_err(|error| malformed(index + 1, &error))?);
    }
    Ok(events)
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
        _ => Refusal {
            retry_after: Some(TRY_AGAIN),
            ..Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "session.unavailable",
                "the report cannot be stored now; send it again",
            )
        },
    }
}
