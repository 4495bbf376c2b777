//! The agent's stream, line by line: one JSON object each, of types that may be unknown, in any order of keys.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use fabrica_core::failure::Failure;
use fabrica_core::protocol::{RunnerEvent, TranscriptEntry, Usage};
use serde_json::{Map, Value, json};

use super::entry;
use super::failure::{self, Clue};
use crate::process::Line;
use crate::text::{Tail, cut, lossy, one_line};

/// How many messages are remembered for their usage.
const MAX_MESSAGES: usize = 1_000;
/// How long a message's id may be.
const MAX_ID: usize = 200;

/// What has been read so far.
#[derive(Debug)]
pub(super) struct Stream {
    directory: PathBuf,
    /// What each message has used, as far as it is reported.
    messages: HashMap<String, Usage>,
    /// Their ids, oldest first.
    order: VecDeque<String>,
    /// The sum of what is reported.
    reported: Usage,
    /// The sum of what the results say.
    results: Usage,
    result: Option<Map<String, Value>>,
    refused: bool,
    /// The last things it said, for the diagnosis.
    said: Tail,
}

impl Stream {
    pub(super) fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            messages: HashMap::new(),
            order: VecDeque::new(),
            reported: Usage::default(),
            results: Usage::default(),
            result: None,
            refused: false,
            said: Tail::new(8),
        }
    }

    /// What a line means.
    pub(super) fn line(&mut self, line: &Line) -> Vec<RunnerEvent> {
        let text = lossy(&line.bytes);
        if text.trim().is_empty() {
            return Vec::new();
        }
        // A line that is cut cannot be whole JSON; to read it costs many times its size.
        let value = (line.cut == 0)
            .then(|| serde_json::from_str(&text).ok())
            .flatten();
        if let Some(Value::Object(object)) = value {
            return self.object(&object);
        }
        self.said.push(&one_line(&text));
        let bytes = line.bytes.len() as u64 + line.cut;
        let detail = json!({"stream": "stdout", "lines": [cut(&text, 4_096)], "bytes": bytes});
        vec![agent("output", None, one_line(&cut(&text, 1_000)), &detail)]
    }

    /// What was used so far.
    pub(super) const fn used(&self) -> Usage {
        self.reported
    }

    /// How the run ended.
    pub(super) fn outcome(self, status: ExitStatus, errors: Vec<String>) -> Result<String, Failure> {
        let said = self.said.into_lines();
        match self.result {
            Some(result) => failure::of_result(&result, self.refused, Clue { said, errors }),
            None => Err(failure::without_result(status, Clue { said, errors })),
        }
    }

    fn object(&mut self, object: &Map<String, Value>) -> Vec<RunnerEvent> {
        match text(object, "type") {
            "assistant" => self.assistant(object),
            "user" => user(object),
            "system" => self.system(object),
            "result" => self.result(object),
            // Heartbeats, partial messages, and what a newer version may add.
            _ => Vec::new(),
        }
    }

    fn assistant(&mut self, object: &Map<String, Value>) -> Vec<RunnerEvent> {
        let parent = parent(object);
        let Some(message) = object.get("message").and_then(Value::as_object) else {
            return Vec::new();
        };
        let mut events = Vec::new();
        for block in blocks(message) {
            if let Some(entry) = entry::of_block(block, &self.directory) {
                self.said.push(&entry.summary);
                events.push(RunnerEvent::Agent(TranscriptEntry {
                    parent: parent.clone(),
                    ..entry
                }));
            }
        }
        events.extend(self.use_of_message(message, parent.is_none()));
        events
    }

    /// Each content block of a message repeats the message's usage: only what is more than before counts.
    fn use_of_message(&mut self, message: &Map<String, Value>, main: bool) -> Option<RunnerEvent> {
        let id = text(message, "id");
        let usage = message.get("usage")?.as_object()?;
        if id.is_empty() || id.len() > MAX_ID || text(message, "model") == "<synthetic>" {
            return None;
        }
        let known = self.messages.get(id).copied();
        let now = Usage {
            turns: u32::from(main),
            ..api_usage(usage)
        };
        let more = beyond(now, known.unwrap_or_default());
        if known.is_none() {
            // The blocks of a message follow one another, at most among those of some others.
            self.order.push_back(id.to_owned());
            if self.order.len() > MAX_MESSAGES
                && let Some(oldest) = self.order.pop_front()
            {
                self.messages.remove(&oldest);
            }
        }
        self.messages
            .insert(id.to_owned(), known.unwrap_or_default().plus(more));
        self.report(more)
    }

    fn report(&mut self, more: Usage) -> Option<RunnerEvent> {
        if more == Usage::default() {
            return None;
        }
        self.reported = self.reported.plus(more);
        Some(RunnerEvent::Usage(more))
    }

    fn system(&mut self, object: &Map<String, Value>) -> Vec<RunnerEvent> {
        let subtype = text(object, "subtype");
        self.refused |= subtype.starts_with("model_refusal");
        if subtype == "api_retry" {
            let message = entry::retry(object);
            self.said.push(&message);
            return vec![RunnerEvent::Progress {
                step: "agent".to_owned(),
                message,
            }];
        }
        let parent = text(object, "tool_use_id");
        entry::notice(subtype, object)
            .map(|summary| {
                let parent = subtype
                    .starts_with("task_")
                    .then(|| parent.to_owned())
                    .filter(|id| !id.is_empty());
                agent(
                    "notice",
                    parent,
                    summary,
                    &Value::Object(entry::without_noise(object)),
                )
            })
            .into_iter()
            .collect()
    }

    fn result(&mut self, object: &Map<String, Value>) -> Vec<RunnerEvent> {
        // The last one is none that the model did not answer.
        let unanswered =
            text(object, "terminal_reason") == "api_error" && text(object, "stop_reason") != "refusal";
        let turns = number(object, "num_turns").saturating_sub(unanswered.into());
        let turns = turns.try_into().unwrap_or(u32::MAX);
        let total = match usage_since_last(object) {
            Some(since) => {
                self.results = self.results.plus(Usage { turns, ..since });
                self.results
            }
            None => Usage {
                cost_usd: object
                    .get("total_cost_usd")
                    .and_then(Value::as_f64)
                    .unwrap_or_default(),
                turns,
                ..total_usage(object)
            },
        };
        let rest = self.report(beyond(total, self.reported));
        let summary = match text(object, "result") {
            "" => text(object, "subtype"),
            result => result,
        };
        let entry = agent(
            "result",
            None,
            one_line(summary),
            &Value::Object(entry::without_noise(object)),
        );
        self.result = Some(object.clone());
        rest.into_iter().chain([entry]).collect()
    }
}

/// What the agent is given.
fn user(object: &Map<String, Value>) -> Vec<RunnerEvent> {
    let parent = parent(object);
    let Some(message) = object.get("message").and_then(Value::as_object) else {
        return Vec::new();
    };
    let entries = blocks(message).filter_map(entry::of_user_block);
    entries
        .map(|entry| {
            RunnerEvent::Agent(TranscriptEntry {
                parent: parent.clone(),
                ..entry
            })
        })
        .collect()
}

/// What was used since the result before, or since the program's start: all other totals of a conversation that goes on
/// count what earlier attempts used again.
fn usage_since_last(result: &Map<String, Value>) -> Option<Usage> {
    let models = result.get("model_usage_since_last_result")?.as_object()?;
    if models.is_empty() {
        return None;
    }
    let of_model = |usage: &Map<String, Value>| Usage {
        cost_usd: usage.get("costUSD").and_then(Value::as_f64).unwrap_or_default(),
        ..model_usage(usage)
    };
    Some(
        models
            .values()
            .filter_map(Value::as_object)
            .fold(Usage::default(), |sum, usage| sum.plus(of_model(usage))),
    )
}

fn model_usage(usage: &Map<String, Value>) -> Usage {
    Usage {
        input_tokens: number(usage, "inputTokens"),
        output_tokens: number(usage, "outputTokens"),
        cache_read_tokens: number(usage, "cacheReadInputTokens"),
        cache_write_tokens: number(usage, "cacheCreationInputTokens"),
        ..Usage::default()
    }
}

/// The models' totals, which count subagents too; without them the conversation's.
fn total_usage(result: &Map<String, Value>) -> Usage {
    let models = result.get("modelUsage").and_then(Value::as_object);
    let total = models
        .into_iter()
        .flat_map(|models| models.values())
        .filter_map(Value::as_object)
        .fold(Usage::default(), |sum, usage| sum.plus(model_usage(usage)));
    match result.get("usage").and_then(Value::as_object) {
        Some(usage) if total == Usage::default() => api_usage(usage),
        _ => total,
    }
}

fn api_usage(usage: &Map<String, Value>) -> Usage {
    Usage {
        input_tokens: number(usage, "input_tokens"),
        output_tokens: number(usage, "output_tokens"),
        cache_read_tokens: number(usage, "cache_read_input_tokens"),
        cache_write_tokens: number(usage, "cache_creation_input_tokens"),
        ..Usage::default()
    }
}

/// What is more in the first than in the second, field by field.
fn beyond(now: Usage, before: Usage) -> Usage {
    Usage {
        input_tokens: now.input_tokens.saturating_sub(before.input_tokens),
        output_tokens: now.output_tokens.saturating_sub(before.output_tokens),
        cache_read_tokens: now.cache_read_tokens.saturating_sub(before.cache_read_tokens),
        cache_write_tokens: now.cache_write_tokens.saturating_sub(before.cache_write_tokens),
        cost_usd: (now.cost_usd - before.cost_usd).max(0.0),
        turns: now.turns.saturating_sub(before.turns),
    }
}

fn agent(kind: &str, parent: Option<String>, summary: String, detail: &Value) -> RunnerEvent {
    let detail = detail.as_object().cloned().unwrap_or_default();
    RunnerEvent::Agent(TranscriptEntry {
        kind: kind.to_owned(),
        parent,
        summary,
        detail,
    })
}

fn blocks(message: &Map<String, Value>) -> Box<dyn Iterator<Item = Value> + '_> {
    match message.get("content") {
        Some(Value::Array(blocks)) => Box::new(blocks.iter().cloned()),
        Some(Value::String(text)) => Box::new(std::iter::once(json!({"type": "text", "text": text}))),
        _ => Box::new(std::iter::empty()),
    }
}

fn parent(object: &Map<String, Value>) -> Option<String> {
    object
        .get("parent_tool_use_id")
        .and_then(Value::as_str)
        .map(str::to_owned)
}

/// A field that should be text; empty otherwise.
pub(super) fn text<'a>(object: &'a Map<String, Value>, key: &str) -> &'a str {
    object.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// A field that should be a whole number; 0 otherwise.
pub(super) fn number(object: &Map<String, Value>, key: &str) -> u64 {
    object.get(key).and_then(Value::as_u64).unwrap_or_default()
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
