use std::fmt::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::sync::Arc;

use fabrica_core::ids::WorkerId;
use fabrica_core::message::Message;
use fabrica_core::orchestrator::{Options, Orchestrator, Shutdown, Submission};
use fabrica_core::ports::Store as _;
use fabrica_core::protocol::{Escalation, JobResult, Pushed};
use fabrica_core::session::SessionStatus;
use fabrica_core::testing::{FakeSandbox, FakeStore, Script, ScriptEnd};

use super::*;
use crate::agent::patience;

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

/// From the recorded stream over the runner's report to what becomes of the session, and to the message that people read: the
/// orchestrator is the real one, everything around it a fake.
#[tokio::test]
async fn every_recorded_run_is_told_to_people() {
    let mut told = String::new();
    for (name, code, _) in OUTCOMES.into_iter().chain([("tool-heartbeat", 0, "ok")]) {
        let (stream, mut events) = play(name);
        let asked = asked(&events);
        let outcome = stream.outcome(status(code), vec!["the last line of stderr".into()]);
        if outcome.as_ref().is_err_and(patience::passes) {
            let _ = writeln!(told, "{name}: the agent waits in its sandbox and asks again");
            continue;
        }
        events.push(match (asked, outcome) {
            (Some(question), _) => RunnerEvent::Escalation(question),
            (None, Ok(summary)) => RunnerEvent::Completed(JobResult {
                summary,
                pushed: Some(pushed()),
                verification: vec![],
                rounds: 1,
                template: None,
                heard: 0,
                unfinished: false,
            }),
            (None, Err(failure)) => RunnerEvent::Failed {
                failure,
                pushed: None,
            },
        });
        let (status, message) = settle(events).await;
        let member = |key: &str| message.content.metadata.get(key).and_then(Value::as_str);
        let code = member("code").map_or(String::new(), |code| format!(" [{code}]"));
        let summary = member("summary").map_or(String::new(), |summary| {
            format!("\n  summary: {}", one_line(summary))
        });
        let _ = writeln!(
            told,
            "{name}: {status}\n  {}{code}: {}{summary}",
            message.kind.as_str(),
            one_line(&message.content.message)
        );
    }
    insta::assert_snapshot!("told", told);
}

/// What the tool `escalate` keeps for the runner: the first question of the agent itself.
fn asked(events: &[RunnerEvent]) -> Option<Escalation> {
    events.iter().find_map(|event| match event {
        RunnerEvent::Agent(entry) if entry.kind == "tool_use" && entry.parent.is_none() => {
            let calls = entry.detail.get("name")?.as_str()?.ends_with("__escalate");
            let input = entry.detail.get("input")?.clone();
            calls.then(|| serde_json::from_value(input).unwrap())
        }
        _ => None,
    })
}

fn pushed() -> Pushed {
    Pushed {
        branch: "fabrica/5c0ffee0".into(),
        base: "main".into(),
        head: "f".repeat(40),
        commits: 1,
        subjects: vec!["Say hello".into()],
    }
}

async fn settle(events: Vec<RunnerEvent>) -> (SessionStatus, Message) {
    let script = Script {
        events,
        end: ScriptEnd::Exit(0),
    };
    let (store, sandbox) = (
        Arc::new(FakeStore::default()),
        Arc::new(FakeSandbox::new(move |_| script.clone())),
    );
    let mut options = Options::new(WorkerId::new("worker"), "/runner");
    options.attempts = 1;
    let orchestrator = Orchestrator::builder(store.clone(), sandbox.clone(), sandbox, options).build();
    let plan = "---\nrepo: https://git.example.com/acme/app.git\nlimits: { turns: 3, cost_usd: 1.5 }\n---\n# Say hello\n\nIn the log.\n";
    let id = orchestrator
        .submit(Submission::new(plan))
        .await
        .unwrap()
        .session();
    let status = orchestrator.run_session(id, Shutdown::default()).await.unwrap();
    let messages = store.messages(id, 0, 1_000).await.unwrap();
    (status, messages.last().unwrap().clone())
}

/// Fabrica's own refusals come as the provider's would; each is told by its own words.
#[test]
fn what_the_gateway_refuses_is_not_blamed_on_the_key() {
    for (status_code, words, code) in [
        (
            403,
            "fabrica: nobody knows the price (budget.price_unknown)",
            "budget.price_unknown",
        ),
        (
            403,
            "fabrica: the session has used up its budget of $1.00: it has used $1.01",
            "budget.reached",
        ),
        (403, "Your key may not use this model", "model.forbidden"),
        (
            429,
            "fabrica: the model's usage limit is reached until 2026-11-24T00:00:00Z: x",
            "model.usage_limit",
        ),
        (429, "Slow down", "model.rate_limited"),
    ] {
        let mut stream = Stream::new(Path::new("/workspace"));
        let result = json!({
            "type": "result", "subtype": "success", "is_error": true, "terminal_reason": "api_error",
            "api_error_status": status_code, "result": format!("API Error: {words}"),
        });
        stream.line(&Line {
            bytes: result.to_string().into_bytes(),
            cut: 0,
        });
        let failure = stream.outcome(status(1), vec![]).unwrap_err();
        assert_eq!(failure.code, code, "{words}");
    }
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
