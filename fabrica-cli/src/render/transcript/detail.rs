//! What the details of an entry hold, as the runner stores them: an agent may leave out everything.

use fabrica_core::protocol::TranscriptEntry;
use serde_json::{Map, Value};

use super::block::{clean, clean_lines};

/// A text of the details; empty if there is none.
pub(super) fn text<'a>(entry: &'a TranscriptEntry, key: &str) -> &'a str {
    entry.detail.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// All lines of a text, or the summary where it is missing.
pub(super) fn all(entry: &TranscriptEntry, key: &str) -> Vec<String> {
    let text = text(entry, key);
    clean_lines(if text.trim().is_empty() {
        &entry.summary
    } else {
        text
    })
}

/// Whether the details say that it failed.
pub(super) fn is_error(entry: &TranscriptEntry) -> bool {
    entry.detail.get("is_error") == Some(&Value::Bool(true))
}

/// The input of a tool, a member a line, or more for those of many lines.
pub(super) fn input(entry: &TranscriptEntry) -> Vec<String> {
    let empty = Map::new();
    let input = entry.detail.get("input").and_then(Value::as_object);
    let mut lines = Vec::new();
    for (name, value) in input.unwrap_or(&empty) {
        let name = clean(name);
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        match clean_lines(&value).as_slice() {
            [] => lines.push(format!("{name}:")),
            [line] => lines.push(format!("{name}: {line}")),
            many => {
                lines.push(format!("{name}:"));
                lines.extend(many.iter().map(|line| format!("  {line}")));
            }
        }
    }
    lines
}

/// The lines that a tool returned, or the summary where they are missing.
pub(super) fn content(entry: &TranscriptEntry) -> Vec<String> {
    let part = |part: &Value| match part.get("text").and_then(Value::as_str) {
        Some(text) => text.to_owned(),
        None => format!(
            "[{}]",
            part.get("type").and_then(Value::as_str).unwrap_or("content")
        ),
    };
    match entry.detail.get("content").or_else(|| entry.detail.get("text")) {
        Some(Value::String(text)) => clean_lines(text),
        Some(Value::Array(parts)) => clean_lines(&parts.iter().map(part).collect::<Vec<_>>().join("\n")),
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) | None => {
            clean_lines(&entry.summary)
        }
    }
}

/// The lines that a program wrote.
pub(super) fn output(entry: &TranscriptEntry) -> Vec<String> {
    match entry.detail.get("lines") {
        Some(Value::Array(lines)) => lines.iter().filter_map(Value::as_str).map(line).collect(),
        _ => clean_lines(&entry.summary),
    }
}

/// One line with its indentation.
fn line(line: &str) -> String {
    let line = line.replace('\n', " ");
    clean_lines(&line).pop().unwrap_or_default()
}

/// How the agent's work ended.
pub(super) fn end(entry: &TranscriptEntry) -> String {
    let subtype = clean(text(entry, "subtype")).replace('_', " ");
    let reason = match (is_error(entry), subtype.as_str()) {
        (_, "") | (false, "success") => String::new(),
        (true, "success") => " (error)".to_owned(),
        (_, reason) => format!(" ({reason})"),
    };
    let turns = match entry.detail.get("num_turns").and_then(Value::as_u64) {
        Some(1) => " after 1 turn".to_owned(),
        Some(turns) => format!(" after {turns} turns"),
        None => String::new(),
    };
    format!("the agent ended{reason}{turns}")
}
