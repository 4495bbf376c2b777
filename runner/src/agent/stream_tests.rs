use std::fmt::Write as _;
use std::os::unix::process::ExitStatusExt as _;

use super::*;

/// Every recorded run, how it ended, and how its end is told.
const OUTCOMES: [(&str, i32, &str); 24] = [
    ("api-400", 1, "model.refused_request"),
    ("api-401", 1, "model.unauthorized"),
    ("api-429-retry-after-long", 1, "model.rate_limited"),
    ("api-429-then-ok", 0, "ok"),
    ("api-500-exhausted", 1, "model.unavailable"),
    ("api-529-thrice-then-ok", 0, "ok"),
    ("escalated-hook-stopped", 0, "ok"),
    ("escalated-with-four-siblings", 0, "ok"),
    ("json-schema", 0, "ok"),
    ("killed-sigint", 0, "agent.interrupted"),
    ("killed-sigkill", -9, "agent.crashed"),
    ("killed-sigterm", 143, "agent.crashed"),
    ("max-budget", 1, "agent.max_budget"),
    ("max-turns", 1, "agent.max_turns"),
    ("mcp-escalate-recorded", 0, "ok"),
    ("partial-messages", 0, "ok"),
    ("permission-denied", 0, "ok"),
    ("refusal", 1, "agent.refused"),
    ("resume-unknown-id", 1, "agent.crashed"),
    ("resumed-after-sigkill", 0, "ok"),
    ("resumed-with-answer", 0, "ok"),
    ("stream-cut-retried", 0, "ok"),
    ("subagent", 0, "ok"),
    ("success", 0, "ok"),
];

fn directory() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/claude-stream")
}

fn play(name: &str) -> (Stream, Vec<RunnerEvent>) {
    let text = std::fs::read(directory().join(format!("{name}.jsonl"))).unwrap();
    let mut stream = Stream::new(Path::new("/workspace"));
    let mut events = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        events.extend(stream.line(&Line {
            bytes: line.to_vec(),
            cut: 0,
        }));
    }
    (stream, events)
}

fn status(code: i32) -> ExitStatus {
    ExitStatus::from_raw(if code < 0 { -code } else { code << 8 })
}

fn used(events: &[RunnerEvent]) -> Usage {
    events.iter().fold(Usage::default(), |sum, event| match event {
        RunnerEvent::Usage(usage) => sum.plus(*usage),
        _ => sum,
    })
}

fn timeline(events: &[RunnerEvent]) -> String {
    let mut text = String::new();
    for event in events {
        let _ = match event {
            RunnerEvent::Agent(entry) => {
                let inset = if entry.parent.is_some() { "  | " } else { "" };
                writeln!(text, "{inset}{}: {}", entry.kind, entry.summary)
            }
            RunnerEvent::Progress { message, .. } => writeln!(text, "progress: {message}"),
            RunnerEvent::Usage(usage) => writeln!(
                text,
                "usage: {} in, {} out, {} turns, ${:.4}",
                usage.input_tokens, usage.output_tokens, usage.turns, usage.cost_usd
            ),
            other => writeln!(text, "unexpected: {other:?}"),
        };
    }
    text
}

#[test]
fn every_recorded_run_ends_as_it_should() {
    let mut told = String::new();
    for (name, code, expected) in OUTCOMES {
        let (stream, events) = play(name);
        let outcome = stream.outcome(status(code), vec!["the last line of stderr".into()]);
        let line = match &outcome {
            Ok(summary) => format!("ok: {}", one_line(summary)),
            Err(failure) => format!("{failure}{}", if failure.retryable { " [retryable]" } else { "" }),
        };
        let got = outcome
            .as_ref()
            .map_or_else(|failure| failure.code.as_str(), |_| "ok");
        assert_eq!(got, expected, "{name}");
        if let Err(failure) = &outcome {
            assert!(!failure.advice.is_empty() && !failure.cause.is_empty());
            assert_eq!(
                failure.diagnosis.last().map(String::as_str),
                Some("the last line of stderr")
            );
        }
        let used = used(&events);
        let _ = writeln!(
            told,
            "{name}\n  {line}\n  {} in, {} out, ${:.4}",
            used.input_tokens, used.output_tokens, used.cost_usd
        );
    }
    insta::assert_snapshot!("outcomes", told);
}

#[test]
fn no_recorded_run_is_left_out() {
    let mut files: Vec<String> = std::fs::read_dir(directory())
        .unwrap()
        .map(|file| {
            file.unwrap()
                .path()
                .file_stem()
                .unwrap()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    files.sort();
    let mut known: Vec<&str> = OUTCOMES
        .iter()
        .map(|outcome| outcome.0)
        .chain(["tool-heartbeat"])
        .collect();
    known.sort_unstable();
    assert_eq!(files, known);
}

#[test]
fn heartbeats_say_nothing() {
    let (stream, events) = play("tool-heartbeat");
    assert!(stream.outcome(status(0), vec![]).is_ok());
    assert!(!timeline(&events).contains("heartbeat"));
}

#[test]
fn people_read_one_line_for_each_thing_that_happens() {
    for name in [
        "success",
        "subagent",
        "permission-denied",
        "refusal",
        "api-529-thrice-then-ok",
        "partial-messages",
    ] {
        insta::assert_snapshot!(name, timeline(&play(name).1));
    }
}

#[test]
fn the_usage_that_is_reported_live_adds_up_to_the_result() {
    for (name, ..) in OUTCOMES {
        let (stream, events) = play(name);
        let Some(result) = &stream.result else { continue };
        let total = usage_since_last(result).unwrap_or_else(|| total_usage(result));
        let used = used(&events);
        assert_eq!(used.input_tokens, total.input_tokens, "{name}");
        assert_eq!(used.output_tokens, total.output_tokens, "{name}");
        let cost = if name == "resumed-with-answer" {
            // The result's total counts the attempt before, which has reported that itself.
            0.0008
        } else {
            result["total_cost_usd"].as_f64().unwrap()
        };
        assert!((used.cost_usd - cost).abs() < 1e-9, "{name}");
    }
}

#[test]
fn what_is_no_json_is_output_and_strange_json_is_ignored() {
    let mut stream = Stream::new(Path::new("/workspace"));
    let mut line = |bytes: &[u8], cut| {
        stream.line(&Line {
            bytes: bytes.to_vec(),
            cut,
        })
    };
    assert_eq!(
        timeline(&line(b"warning: \xff\0 odd", 0)),
        "output: warning: \u{fffd}\u{fffd} odd\n"
    );
    assert_eq!(
        timeline(&line(b"{\"type\":\"assistant\",\"mess", 9_000_000))
            .lines()
            .count(),
        1
    );
    for strange in [
        "",
        "  ",
        "{}",
        "{\"type\":7}",
        "{\"type\":\"assistant\"}",
        "{\"type\":\"user\",\"message\":[]}",
        "{\"type\":\"assistant\",\"message\":{\"content\":[1,{\"type\":\"new\"}]}}",
        "{\"type\":\"tomorrow\"}",
    ] {
        assert_eq!(line(strange.as_bytes(), 0), [], "{strange}");
    }
    assert_eq!(line(b"[1]", 0).len(), 1);
    let failure = stream.outcome(status(-9), vec![]).unwrap_err();
    assert_eq!(failure.code, "agent.crashed");
    assert!(failure.cause.contains("memory"), "{failure}");
}

#[test]
fn a_result_that_is_cut_off_is_no_success() {
    let mut stream = Stream::new(Path::new("/workspace"));
    let result = br#"{"type":"result","is_error":false,"terminal_reason":"completed","result":"ok"}"#;
    stream.line(&Line {
        bytes: result.to_vec(),
        cut: 1,
    });
    assert!(stream.outcome(status(0), vec![]).is_err());
}
