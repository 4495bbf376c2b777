//! Sessions to render in tests.

use chrono::{DateTime, TimeDelta, Utc};
use fabrica_core::failure::Failure;
use fabrica_core::ids::{AttemptNumber, MessageId, SessionId};
use fabrica_core::message::{Message, MessageContent, MessageKind};
use fabrica_core::orchestrator::SessionUpdate;
use fabrica_core::ports::store::StoredTranscript;
use fabrica_core::protocol::{TranscriptEntry, Usage};
use fabrica_core::session::{Session, SessionStatus};
use serde_json::Map;
use uuid::Uuid;

pub(crate) fn begun() -> DateTime<Utc> {
    "2026-11-22T10:00:00Z".parse().unwrap()
}

fn after(seconds: i64) -> DateTime<Utc> {
    begun() + TimeDelta::seconds(seconds)
}

pub(crate) fn session(status: SessionStatus) -> Session {
    Session {
        id: SessionId::from_uuid(Uuid::from_u128(0x3f2a_9c1d_0000_4000_8000_0000_0000_0001)),
        status,
        repo_url: "https://git.example.com/acme/sample.git".into(),
        title: Some("Add stock low".into()),
        branch_name: Some("fabrica/3f2a9c1d".into()),
        pr_url: (status == SessionStatus::Completed)
            .then(|| "https://git.example.com/acme/sample/pulls/1".into()),
        attempt: AttemptNumber::new(1),
        worker: None,
        cancel_requested: false,
        usage: Usage {
            input_tokens: 19_100,
            output_tokens: 960,
            cost_usd: 0.0717,
            turns: 4,
            ..Usage::default()
        },
        submitter: None,
        created_at: begun(),
        completed_at: status.is_terminal().then(|| after(9)),
    }
}

pub(crate) fn message(sequence: u64, seconds: i64, kind: MessageKind, content: MessageContent) -> Message {
    Message {
        id: MessageId::from_uuid(Uuid::from_u128(sequence.into())),
        session: session(SessionStatus::Running).id,
        sequence,
        kind,
        content,
        created_at: after(seconds),
        read_at: None,
    }
}

pub(crate) fn progress(sequence: u64, seconds: i64, step: &str, text: &str) -> SessionUpdate {
    let content = MessageContent::text(text).with("step", step);
    SessionUpdate::Message(message(sequence, seconds, MessageKind::Progress, content))
}

pub(crate) fn transcript(sequence: u64, kind: &str, summary: &str) -> SessionUpdate {
    SessionUpdate::Transcript(StoredTranscript {
        sequence,
        attempt: AttemptNumber::new(1),
        at: after(3),
        entry: TranscriptEntry {
            kind: kind.into(),
            parent: None,
            summary: summary.into(),
            detail: Map::new(),
        },
    })
}

pub(crate) fn row(status: SessionStatus) -> SessionUpdate {
    SessionUpdate::Session(Box::new(session(status)))
}

fn begins() -> Vec<SessionUpdate> {
    vec![
        progress(1, 0, "queued", "Queued: Add stock low"),
        row(SessionStatus::Running),
        progress(2, 1, "started", "The sandbox is up"),
        progress(3, 2, "clone", "Cloned main at 1a2b3c4"),
        transcript(1, "tool_use", "Read bin/stock"),
        transcript(2, "tool_result", "60 lines"),
    ]
}

pub(crate) fn completed() -> Vec<SessionUpdate> {
    let mut updates = begins();
    let url = "https://git.example.com/acme/sample/pulls/1";
    let content = MessageContent::text(format!("Opened pull request {url}"))
        .with("prUrl", url)
        .with("branch", "fabrica/3f2a9c1d");
    updates.push(transcript(3, "text", "Now the command itself."));
    updates.push(SessionUpdate::Message(message(
        4,
        9,
        MessageKind::Completion,
        content,
    )));
    updates.push(row(SessionStatus::Completed));
    updates
}

pub(crate) fn failure() -> Message {
    let failure = Failure::new(
        "verify.failed",
        "`sh tests/run.sh` failed (exit code 1)",
        "Read the output and mend the plan.",
    )
    .with_diagnosis([
        "1 of 3 tests failed",
        "low_test.sh: \u{1b}[31mexpected 2 lines\u{1b}[0m",
    ]);
    let content = MessageContent::failure(&failure).with("branch", "fabrica/3f2a9c1d");
    message(4, 9, MessageKind::Error, content)
}

pub(crate) fn failed() -> Vec<SessionUpdate> {
    let mut updates = begins();
    updates.push(SessionUpdate::Message(failure()));
    updates.push(row(SessionStatus::Failed));
    updates
}
