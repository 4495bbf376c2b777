//! A model that plays a script: each turn is a shell command, or a JSON list of the tools to call. It is stateless: the
//! number of its own messages in the request is the turn. Turns that begin with `subagent:` are for those whose prompt
//! says that they are one.

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
    let subagent = messages
        .first()
        .is_some_and(|message| message.to_string().contains("YOU-ARE-A-SUBAGENT"));
    let script: Vec<&str> = script
        .iter()
        .filter_map(|turn| match (turn.strip_prefix("subagent:"), subagent) {
            (Some(turn), true) => Some(turn),
            (None, false) => Some(turn.as_str()),
            _ => None,
        })
        .collect();
    let turn = messages
        .iter()
        .filter(|message| message["role"] == "assistant")
        .count();
    let tools: Vec<Value> = match script.get(turn) {
        Some(calls) if calls.starts_with('[') => serde_json::from_str(calls).unwrap(),
        Some(command) => vec![json!({"name": "Bash", "input": {"command": command, "description": "Work"}})],
        None => vec![],
    };
    let prefix = if subagent { "s" } else { "m" };
    let mut blocks: Vec<(Value, Value)> = tools
        .iter()
        .enumerate()
        .map(|(index, tool)| {
            (
                json!({"type": "tool_use", "id": format!("toolu_{prefix}{turn}_{index}"), "name": tool["name"], "input": {}}),
                json!({"type": "input_json_delta", "partial_json": tool["input"].to_string()}),
            )
        })
        .collect();
    let reason = if blocks.is_empty() { "end_turn" } else { "tool_use" };
    if blocks.is_empty() {
        blocks.push((
            json!({"type": "text", "text": ""}),
            json!({"type": "text_delta", "text": "Everything is done."}),
        ));
    }
    let usage = json!({"input_tokens": 100, "output_tokens": 1, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0});
    let message = json!({
        "id": format!("msg_{prefix}{turn}"), "type": "message", "role": "assistant", "model": request["model"],
        "content": [], "stop_reason": null, "stop_sequence": null, "usage": usage,
    });
    let mut events = vec![json!({"type": "message_start", "message": message})];
    for (index, (start, delta)) in blocks.into_iter().enumerate() {
        events.push(json!({"type": "content_block_start", "index": index, "content_block": start}));
        events.push(json!({"type": "content_block_delta", "index": index, "delta": delta}));
        events.push(json!({"type": "content_block_stop", "index": index}));
    }
    events.push(json!({"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": null}, "usage": {"output_tokens": 20}}));
    events.push(json!({"type": "message_stop"}));
    let mut body = String::new();
    for event in events {
        let kind = event["type"].as_str().unwrap_or_default();
        let _ = write!(body, "event: {kind}\ndata: {event}\n\n");
    }
    ([(header::CONTENT_TYPE, "text/event-stream")], body).into_response()
}
