//! A model that asks for one shell command a turn. It is stateless: the number of its own messages in the request is
//! the turn.

use std::fmt::Write as _;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};

/// The next turn of a script.
pub(crate) fn answer(script: &[String], request: &[u8]) -> Response {
    let Ok(request) = serde_json::from_slice::<Value>(request) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let messages = request["messages"].as_array().cloned().unwrap_or_default();
    let turn = messages
        .iter()
        .filter(|message| message["role"] == "assistant")
        .count();
    let (start, delta, reason) = match script.get(turn) {
        Some(command) => (
            json!({"type": "tool_use", "id": format!("toolu_{turn}"), "name": "Bash", "input": {}}),
            json!({"type": "input_json_delta", "partial_json": json!({"command": command, "description": "Work"}).to_string()}),
            "tool_use",
        ),
        None => (
            json!({"type": "text", "text": ""}),
            json!({"type": "text_delta", "text": "Everything is done."}),
            "end_turn",
        ),
    };
    let usage = json!({"input_tokens": 100, "output_tokens": 1, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0});
    let message = json!({
        "id": format!("msg_{turn}"), "type": "message", "role": "assistant", "model": request["model"],
        "content": [], "stop_reason": null, "stop_sequence": null, "usage": usage,
    });
    let end = json!({"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": null}, "usage": {"output_tokens": 20}});
    let events = [
        json!({"type": "message_start", "message": message}),
        json!({"type": "content_block_start", "index": 0, "content_block": start}),
        json!({"type": "content_block_delta", "index": 0, "delta": delta}),
        json!({"type": "content_block_stop", "index": 0}),
        end,
        json!({"type": "message_stop"}),
    ];
    let mut body = String::new();
    for event in events {
        let kind = event["type"].as_str().unwrap_or_default();
        let _ = write!(body, "event: {kind}\ndata: {event}\n\n");
    }
    ([(header::CONTENT_TYPE, "text/event-stream")], body).into_response()
}
