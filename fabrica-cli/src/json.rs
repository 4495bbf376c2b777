//! What programs read: the names are those of the HTTP API.

use chrono::SecondsFormat;
use fabrica_core::message::Message;
use fabrica_core::orchestrator::SessionUpdate;
use fabrica_core::ports::store::StoredTranscript;
use fabrica_core::session::Session;
use serde_json::{Value, json};

fn time(time: chrono::DateTime<chrono::Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

pub(crate) fn session(session: &Session) -> Value {
    json!({
        "id": session.id.to_string(),
        "status": session.status.as_str(),
        "title": session.title,
        "repoUrl": session.repo_url,
        "branchName": session.branch_name,
        "prUrl": session.pr_url,
        "attempt": session.attempt.get(),
        "submitter": session.submitter,
        "usage": {
            "inputTokens": session.usage.input_tokens,
            "outputTokens": session.usage.output_tokens,
            "cacheReadTokens": session.usage.cache_read_tokens,
            "cacheWriteTokens": session.usage.cache_write_tokens,
            "costUsd": session.usage.cost_usd,
            "turns": session.usage.turns,
        },
        "createdAt": time(session.created_at),
        "completedAt": session.completed_at.map(time),
    })
}

pub(crate) fn message(message: &Message) -> Value {
    json!({
        "id": message.id.to_string(),
        "sessionId": message.session.to_string(),
        "sequence": message.sequence,
        "type": message.kind.as_str(),
        "content": { "message": message.content.message, "metadata": message.content.metadata },
        "createdAt": time(message.created_at),
        "readAt": message.read_at.map(time),
    })
}

pub(crate) fn transcript(entry: &StoredTranscript) -> Value {
    json!({
        "sequence": entry.sequence,
        "attempt": entry.attempt.get(),
        "at": time(entry.at),
        "kind": entry.entry.kind,
        "parent": entry.entry.parent,
        "summary": entry.entry.summary,
        "detail": entry.entry.detail,
    })
}

/// One line of `fabrica run --json`.
pub(crate) fn update(update: &SessionUpdate) -> Value {
    match update {
        SessionUpdate::Session(row) => json!({ "type": "session", "session": session(row) }),
        SessionUpdate::Message(row) => json!({ "type": "message", "message": message(row) }),
        SessionUpdate::Transcript(row) => json!({ "type": "transcript", "entry": transcript(row) }),
    }
}
