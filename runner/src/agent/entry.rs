//! What the agent does, told in one line each.

use std::path::Path;

use fabrica_core::protocol::TranscriptEntry;
use serde_json::{Map, Value};

use super::stream::{number, text};
use crate::text::one_line;

/// The fields of a tool's input that say most about it, by rank.
const TELLING: [&str; 9] = [
    "file_path",
    "notebook_path",
    "command",
    "pattern",
    "description",
    "url",
    "query",
    "path",
    "skill",
];
/// Fields that only programs need, and that repeat in every line.
const NOISE: [&str; 12] = [
    "type",
    "session_id",
    "uuid",
    "tools",
    "slash_commands",
    "terminal_slash_commands",
    "agents",
    "skills",
    "plugins",
    "memory_paths",
    "subagent_stats",
    "mcp_servers",
];

/// A content block of the agent.
pub(super) fn of_block(block: Value, directory: &Path) -> Option<TranscriptEntry> {
    let Value::Object(block) = block else { return None };
    let (kind, summary) = match text(&block, "type") {
        "text" => ("text", one_line(text(&block, "text"))),
        "thinking" => ("thinking", one_line(text(&block, "thinking"))),
        "redacted_thinking" => ("thinking", String::new()),
        "tool_use" | "server_tool_use" | "mcp_tool_use" => ("tool_use", tool(&block, directory)),
        kind if kind.ends_with("tool_result") => ("tool_result", one_line(&content(&block))),
        _ => return None,
    };
    Some(entry(kind, summary, block))
}

/// A content block that the agent is given: mostly results of its tools.
pub(super) fn of_user_block(block: Value) -> Option<TranscriptEntry> {
    let Value::Object(block) = block else { return None };
    let summary = one_line(&content(&block));
    match text(&block, "type") {
        "tool_result" if block.get("is_error") == Some(&Value::Bool(true)) => {
            Some(entry("tool_result", format!("Error: {summary}"), block))
        }
        "tool_result" => Some(entry("tool_result", summary, block)),
        "text" => Some(entry("notice", summary, block)),
        _ => None,
    }
}

fn entry(kind: &str, summary: String, mut detail: Map<String, Value>) -> TranscriptEntry {
    detail.remove("type");
    detail.remove("signature");
    TranscriptEntry {
        kind: kind.to_owned(),
        parent: None,
        summary,
        detail,
    }
}

/// `Read src/lib.rs`, `Bash: cargo test`.
fn tool(block: &Map<String, Value>, directory: &Path) -> String {
    let name = text(block, "name");
    let empty = Map::new();
    let input = block.get("input").and_then(Value::as_object).unwrap_or(&empty);
    let telling = TELLING.iter().find_map(|key| {
        let value = input.get(*key)?.as_str()?;
        Some((*key, value))
    });
    match telling {
        Some(("file_path" | "notebook_path" | "path", path)) => {
            let directory = format!("{}/", directory.display());
            one_line(&format!(
                "{name} {}",
                path.strip_prefix(&directory).unwrap_or(path)
            ))
        }
        Some((_, value)) => one_line(&format!("{name}: {value}")),
        None if input.is_empty() => name.to_owned(),
        None => one_line(&format!("{name}: {}", Value::Object(input.clone()))),
    }
}

/// The text of a block, whatever its shape.
fn content(block: &Map<String, Value>) -> String {
    match block.get("content").or_else(|| block.get("text")) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => {
            let text = |part: &Value| match part.get("text").and_then(Value::as_str) {
                Some(text) => text.to_owned(),
                None => format!(
                    "[{}]",
                    part.get("type").and_then(Value::as_str).unwrap_or("content")
                ),
            };
            parts.iter().map(text).collect::<Vec<_>>().join(" ")
        }
        _ => String::new(),
    }
}

/// "The model API is overloaded (529); retry 3 of 10 in 8 s".
pub(super) fn retry(object: &Map<String, Value>) -> String {
    let status = number(object, "error_status");
    let problem = match status {
        0 => "cannot be reached".to_owned(),
        529 => "is overloaded (529)".to_owned(),
        429 => "limits the rate (429)".to_owned(),
        401 | 403 => format!("refuses the credential ({status})"),
        500..=599 => format!("fails ({status})"),
        _ => format!("answers {status}"),
    };
    let seconds = number(object, "retry_delay_ms").div_ceil(1_000);
    format!(
        "The model API {problem}; retry {} of {} in {seconds} s",
        number(object, "attempt"),
        number(object, "max_retries")
    )
}

/// A system line that people should see.
pub(super) fn notice(subtype: &str, object: &Map<String, Value>) -> Option<String> {
    let said = match subtype {
        "init" => format!(
            "Claude Code {} with {}",
            text(object, "claude_code_version"),
            text(object, "model")
        ),
        "permission_denied" => format!(
            "{} was denied: {}",
            text(object, "tool_name"),
            text(object, "message")
        ),
        "model_fallback" => "The agent goes on with another model".to_owned(),
        "model_refusal_no_fallback" => "The model refused the request".to_owned(),
        "compact_boundary" => "The agent shortened its memory of the conversation".to_owned(),
        "task_started" => format!("Subagent: {}", text(object, "description")),
        "task_notification" => {
            format!("Subagent {}: {}", text(object, "status"), text(object, "summary"))
        }
        "informational" => text(object, "content").to_owned(),
        _ => return None,
    };
    Some(one_line(&said))
}

/// The fields that say something.
pub(super) fn without_noise(object: &Map<String, Value>) -> Map<String, Value> {
    let telling = object.iter().filter(|(key, _)| !NOISE.contains(&key.as_str()));
    telling.map(|(key, value)| (key.clone(), value.clone())).collect()
}
