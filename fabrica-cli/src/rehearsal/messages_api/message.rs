//! Messages, events and errors in the shapes of Anthropic's Messages API.

use axum::{
    body::Bytes,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::script::{Block, Turn, Usage};

/// How many characters a delta of the stream carries at most.
const DELTA_CHARACTERS: usize = 48;

/// A turn as a message: with the ids and the model that the request asked for.
#[derive(Debug, Clone)]
pub(super) struct Message {
    /// Unique for the session and the place in the script, the same for every retry.
    pub(super) id: String,
    /// The model that the request named.
    pub(super) model: String,
    /// What it says.
    pub(super) turn: Turn,
}

impl Message {
    /// The whole message, for a request without a stream.
    pub(super) fn whole(&self) -> Value {
        let content: Vec<Value> = self
            .turn
            .blocks
            .iter()
            .enumerate()
            .map(|(index, block)| self.block(index, block))
            .collect();
        self.envelope(
            &content,
            Some(self.turn.stop_reason()),
            self.turn.usage.output_tokens,
        )
    }

    /// The events of the stream, in order.
    pub(super) fn events(&self) -> Vec<Value> {
        let mut events = vec![json!({
            "type": "message_start",
            "message": self.envelope(&[], None, 1),
        })];
        for (index, block) in self.turn.blocks.iter().enumerate() {
            self.append_block(&mut events, index, block);
        }
        if self.turn.blocks.is_empty() {
            events.push(json!({"type": "ping"}));
        }
        events.push(json!({
            "type": "message_delta",
            "delta": {"stop_reason": self.turn.stop_reason(), "stop_sequence": null},
            "usage": usage(self.turn.usage, self.turn.usage.output_tokens),
        }));
        events.push(json!({"type": "message_stop"}));
        events
    }

    fn append_block(&self, events: &mut Vec<Value>, index: usize, block: &Block) {
        let mut start = self.block(index, block);
        let deltas: Vec<Value> = match block {
            Block::Text(text) => {
                start["text"] = json!("");
                pieces(text)
                    .map(|piece| json!({"type": "text_delta", "text": piece}))
                    .collect()
            }
            Block::ToolUse { input, .. } => {
                start["input"] = json!({});
                let input = input.to_string();
                std::iter::once(String::new())
                    .chain(pieces(&input))
                    .map(|piece| json!({"type": "input_json_delta", "partial_json": piece}))
                    .collect()
            }
        };
        events.push(json!({"type": "content_block_start", "index": index, "content_block": start}));
        if index == 0 {
            events.push(json!({"type": "ping"}));
        }
        events.extend(
            deltas
                .into_iter()
                .map(|delta| json!({"type": "content_block_delta", "index": index, "delta": delta})),
        );
        events.push(json!({"type": "content_block_stop", "index": index}));
    }

    fn block(&self, index: usize, block: &Block) -> Value {
        match block {
            Block::Text(text) => json!({"type": "text", "text": text}),
            Block::ToolUse { name, input } => {
                let id = format!("toolu_{}_{index}", self.id.trim_start_matches("msg_"));
                json!({"type": "tool_use", "id": id, "name": name, "input": input})
            }
        }
    }

    fn envelope(&self, content: &[Value], stop_reason: Option<&str>, output_tokens: u64) -> Value {
        json!({
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": stop_reason,
            "stop_sequence": null,
            "usage": usage(self.turn.usage, output_tokens),
        })
    }
}

fn usage(usage: Usage, output_tokens: u64) -> Value {
    json!({
        "input_tokens": usage.input_tokens,
        "cache_creation_input_tokens": usage.cache_creation_input_tokens,
        "cache_read_input_tokens": usage.cache_read_input_tokens,
        "output_tokens": output_tokens,
        "service_tier": "standard",
    })
}

fn pieces(text: &str) -> impl Iterator<Item = String> {
    let characters: Vec<char> = text.chars().collect();
    let pieces: Vec<String> = characters
        .chunks(DELTA_CHARACTERS)
        .map(|piece| piece.iter().collect())
        .collect();
    pieces.into_iter()
}

/// An event as it stands in the stream.
pub(super) fn encoded(event: &Value) -> Bytes {
    let name = event["type"].as_str().unwrap_or("message");
    Bytes::from(format!("event: {name}\ndata: {event}\n\n"))
}

/// An error in Anthropic's shape.
pub(super) fn error(code: u16, message: &str, headers: &[(String, String)]) -> Response {
    let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let kind = match code {
        400 => "invalid_request_error",
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        504 => "timeout_error",
        529 => "overloaded_error",
        _ => "api_error",
    };
    let body = json!({
        "type": "error",
        "error": {"type": kind, "message": message},
        "request_id": "req_rehearsal",
    });
    let content_type = [(header::CONTENT_TYPE, "application/json")];
    let mut response = (status, content_type, body.to_string()).into_response();
    for (name, value) in headers {
        let name = HeaderName::try_from(name.as_str());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value.as_str())) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Message, Turn};

    fn message(turn: Turn) -> Message {
        Message {
            id: "msg_1".to_owned(),
            model: "sonnet".to_owned(),
            turn,
        }
    }

    #[test]
    fn the_stream_has_the_documented_order() {
        let events = message(Turn::text("short").and_tool("Bash", json!({"command": "true"}))).events();
        let kinds: Vec<&str> = events.iter().filter_map(|event| event["type"].as_str()).collect();
        assert_eq!(
            kinds,
            [
                "message_start",
                "content_block_start",
                "ping",
                "content_block_delta",
                "content_block_stop",
                "content_block_start",
                "content_block_delta",
                "content_block_delta",
                "content_block_stop",
                "message_delta",
                "message_stop",
            ]
        );
        assert_eq!(events[9]["delta"]["stop_reason"], "tool_use");
    }

    #[test]
    fn the_deltas_together_are_the_whole_message() {
        let input = json!({"content": "ä long inpüt, ".repeat(40)});
        let message = message(Turn::tool("Write", input.clone()));
        let pieces: String = message
            .events()
            .iter()
            .filter_map(|event| event["delta"]["partial_json"].as_str())
            .collect();
        assert_eq!(serde_json::from_str::<Value>(&pieces).unwrap(), input);
        assert_eq!(message.whole()["content"][0]["input"], input);
        assert_eq!(message.whole()["content"][0]["id"], "toolu_1_0");
    }
}
