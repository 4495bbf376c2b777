use chrono::TimeDelta;
use fabrica_core::protocol::TranscriptEntry;
use serde_json::{Value, json};

use super::*;
use crate::render::sample;

/// A session's transcript, entry by entry.
#[derive(Default)]
struct Told {
    rows: Vec<StoredTranscript>,
    attempt: u32,
}

impl Told {
    fn new() -> Self {
        Self::default().attempt(1)
    }

    fn attempt(mut self, attempt: u32) -> Self {
        self.attempt = attempt;
        self
    }

    fn entry(self, kind: &str, summary: &str, detail: Value) -> Self {
        self.entry_of(None, kind, summary, detail)
    }

    fn entry_of(mut self, parent: Option<&str>, kind: &str, summary: &str, detail: Value) -> Self {
        let sequence = self.rows.len() as u64 + 1;
        self.rows.push(StoredTranscript {
            sequence,
            attempt: AttemptNumber::new(self.attempt),
            at: sample::begun() + TimeDelta::seconds(7 * sequence.cast_signed()),
            entry: TranscriptEntry {
                kind: kind.into(),
                parent: parent.map(str::to_owned),
                summary: summary.into(),
                detail: serde_json::from_value(detail).unwrap(),
            },
        });
        self
    }

    fn call(self, id: &str, command: &str) -> Self {
        let detail = json!({"id": id, "name": "Bash", "input": {"command": command, "timeout": 5}});
        self.entry("tool_use", &format!("Bash: {command}"), detail)
    }

    fn returned(self, id: &str, content: &str) -> Self {
        let detail = json!({"tool_use_id": id, "content": content, "is_error": false});
        self.entry("tool_result", content.lines().next().unwrap_or_default(), detail)
    }

    fn output(self, step: &str, lines: &[String]) -> Self {
        let summary = lines.last().cloned().unwrap_or_default();
        let detail = json!({"step": step, "stream": "stdout", "lines": lines});
        self.entry("output", &summary, detail)
    }

    fn lines(&self, full: bool) -> Vec<Line> {
        let mut teller = Teller::new(sample::begun(), full);
        let mut lines: Vec<Line> = self.rows.iter().flat_map(|row| teller.take(row)).collect();
        lines.extend(teller.finish());
        lines
    }

    fn text(&self, full: bool) -> String {
        let lines = self.lines(full);
        lines
            .iter()
            .map(|line| line.text.as_str())
            .collect::<Vec<_>>()
            .join("\n")
    }
}

fn numbered(lines: usize) -> Vec<String> {
    (1..=lines).map(|number| format!("line {number}")).collect()
}

fn worked() -> Told {
    let tests = "running 12 tests\n  test a ... ok\n\ntest result: ok. 12 passed\n";
    Told::new()
        .entry(
            "notice",
            "Claude Code 2.1 with claude-opus-5-5",
            json!({"subtype": "init"}),
        )
        .entry(
            "thinking",
            "First the tests. Then …",
            json!({"thinking": "First the tests.\nThen the command."}),
        )
        .entry(
            "text",
            "I look at the tests first. - one",
            json!({"text": "I look at the tests first.\n\n- one\n  - two\n"}),
        )
        .call("t1", "cargo test\n  --all")
        .returned("t1", tests)
        .call("t2", "true")
        .returned("t2", "")
        .entry("text", "All pass.", json!({"text": "All pass."}))
        .entry(
            "result",
            "All pass.",
            json!({"subtype": "success", "is_error": false, "num_turns": 3, "result": "All pass."}),
        )
}

#[test]
fn a_session_is_told_turn_by_turn() {
    insta::assert_snapshot!(worked().text(false));
}

#[test]
fn nothing_is_folded_where_all_is_asked_for() {
    insta::assert_snapshot!(worked().text(true));
}

#[test]
fn thoughts_are_dim_errors_red_and_words_plain() {
    let told = worked().entry(
        "tool_result",
        "Error: no",
        json!({"content": "no", "is_error": true}),
    );
    let lines = told.lines(false);
    let style = |text: &str| {
        let line = lines.iter().find(|line| line.text.contains(text)).unwrap();
        line.style
    };
    assert_eq!(style("attempt 1"), Some(Style::Bold));
    assert_eq!(style("Then the command."), Some(Style::Dim));
    assert_eq!(style("4 lines"), Some(Style::Dim));
    assert_eq!(style("error: no"), Some(Style::Red));
    assert_eq!(style("I look at"), None);
    assert_eq!(style("▸ Bash"), None);
}

#[test]
fn results_of_calls_at_once_say_whose_they_are() {
    let told = Told::new()
        .call("t1", "make a")
        .call("t2", "make b")
        .returned("t1", "a\nmade a")
        .returned("t2", "made b");
    insta::assert_snapshot!(told.text(false));
}

#[test]
fn subagents_are_indented_below_whoever_called_them() {
    let call = |told: Told, parent: Option<&str>, id: &str, what: &str| {
        let detail = json!({"id": id, "name": "Agent", "input": {"description": what}});
        told.entry_of(parent, "tool_use", &format!("Agent: {what}"), detail)
    };
    let says = |told: Told, parent: &str, text: &str| {
        told.entry_of(Some(parent), "text", text, json!({"text": text}))
    };
    let told = call(Told::new(), None, "a", "look around");
    let told = told.entry_of(
        Some("a"),
        "notice",
        "Subagent: look around",
        json!({"subtype": "task_started"}),
    );
    let told = call(says(told, "a", "I look."), Some("a"), "b", "look closer");
    let told = says(says(told, "b", "Closer.\nEven closer."), "a", "Back.");
    let told = says(told, "unknown", "Who am I?");
    let told = told.returned("a", "The plan is PLAN.md");
    insta::assert_snapshot!(told.text(false));
}

#[test]
fn output_is_folded_over_events_and_told_for_each_step() {
    let long = numbered(57);
    let (first, second) = long.split_at(12);
    let told = Told::new()
        .output("setup", first)
        .output("setup", second)
        .output("verify", &numbered(21))
        .output(
            "agent",
            &["   indented\ttab".to_owned(), "10%\r20%\r30%".to_owned()],
        );
    insta::assert_snapshot!(told.text(false));
    let full = told.text(true);
    assert!(full.contains("| line 57\n") && !full.contains('…'), "{full}");
}

#[test]
fn folded_output_is_told_as_soon_as_something_else_follows() {
    let told = Told::new()
        .output("setup", &numbered(30))
        .entry("text", "Next.", json!({}));
    let mut teller = Teller::new(sample::begun(), false);
    let first = teller.take(&told.rows[0]);
    assert!(!first.iter().any(|line| line.text.contains('…')), "{first:?}");
    let second = teller.take(&told.rows[1]);
    assert_eq!(second[0].text, "        … and 10 lines more, the last: line 30");
}

#[test]
fn each_attempt_has_a_heading() {
    let told = Told::new()
        .entry("text", "One.", json!({}))
        .attempt(2)
        .entry("text", "Two.", json!({}))
        .entry(
            "result",
            "It failed",
            json!({"subtype": "error_max_turns", "is_error": true, "num_turns": 1}),
        );
    insta::assert_snapshot!(told.text(false));
}

#[test]
fn closing_words_are_told_once() {
    let ended = |said: &str| {
        let result = json!({"subtype": "success", "num_turns": 2, "result": "Done.\nReally."});
        Told::new()
            .entry("text", said, json!({"text": said}))
            .entry("result", "Done. Really.", result)
            .text(false)
    };
    assert_eq!(ended("Done.\nReally.").matches("Really.").count(), 1);
    assert_eq!(ended("Other words.").matches("Really.").count(), 1);
}

#[test]
fn nothing_of_an_agent_reaches_the_terminal_that_it_would_obey() {
    let hostile = "\u{1b}[2Jcleared\u{9b}2J \u{1b}]0;title\u{7}\u{202e}x\nforged\rline";
    let detail = json!({
        "id": hostile, "name": hostile, "tool_use_id": hostile, "content": hostile, "text": hostile, "thinking": hostile,
        "step": hostile, "stream": hostile, "lines": [hostile], "subtype": hostile, "result": hostile,
        "input": {hostile: hostile, "deep": {"er": [hostile]}},
    });
    let kinds = [
        "text",
        "thinking",
        "tool_use",
        "tool_result",
        "output",
        "notice",
        "result",
        hostile,
    ];
    for kind in kinds {
        let told = Told::new().entry_of(Some(hostile), kind, hostile, detail.clone());
        for full in [false, true] {
            for line in told.lines(full) {
                let obeyed = |c: char| c.is_control() || c == '\u{202e}';
                assert!(!line.text.contains(obeyed), "{kind:?}: {line:?}");
            }
        }
    }
}

#[test]
fn credentials_that_invisible_characters_interrupt_are_not_shown() {
    let key = ["sk-ant-", "\u{1b}]0;x\u{7}", "api03-canary-canary-canary"].concat();
    let told = Told::new().entry("text", &key, json!({"text": key}));
    let text = told.text(false);
    assert!(text.contains("[redacted]") && !text.contains("canary"), "{text}");
}

#[test]
fn entries_without_details_are_told_by_their_summaries() {
    let kinds = [
        "text",
        "thinking",
        "tool_use",
        "tool_result",
        "output",
        "notice",
        "result",
        "new",
    ];
    let told = kinds.iter().fold(Told::new(), |told, kind| {
        told.entry(kind, &format!("a {kind}"), json!({}))
    });
    insta::assert_snapshot!(told.text(false));
}
