//! Sessions, messages and transcripts as the API shows them. Members without a value are `null`, never left out.

use chrono::{DateTime, SecondsFormat, Utc};
use fabrica_core::ids::{MessageId, QuestionId, SessionId};
use fabrica_core::message::{Message, MessageContent, MessageKind};
use fabrica_core::ports::store::{OnDeadline, Question, StoredTranscript};
use fabrica_core::protocol::{Urgency, Usage};
use fabrica_core::session::{Session, SessionStatus};
use serde::Serialize;
use serde_json::{Map, Value};

/// A session.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SessionView {
    id: SessionId,
    repo_url: String,
    branch_name: Option<String>,
    pr_url: Option<String>,
    status: SessionStatus,
    created_at: String,
    completed_at: Option<String>,
    title: Option<String>,
    attempt: u32,
    cancel_requested: bool,
    submitter: Option<String>,
    usage: UsageView,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct UsageView {
    input_tokens: u64,
    output_tokens: u64,
    cache_read_tokens: u64,
    cache_write_tokens: u64,
    cost_usd: f64,
    turns: u32,
}

/// A question of the agent's to a person.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct QuestionView {
    id: QuestionId,
    session_id: SessionId,
    attempt: u32,
    question: String,
    options: Vec<String>,
    context: String,
    urgency: Urgency,
    asked_at: String,
    deadline: Option<String>,
    on_deadline: OnDeadline,
    answer: Option<String>,
    answered_by: Option<String>,
    answered_at: Option<String>,
}

/// A message.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MessageView {
    id: MessageId,
    session_id: SessionId,
    #[serde(rename = "type")]
    kind: MessageKind,
    content: MessageContent,
    created_at: String,
    read_at: Option<String>,
    sequence: u64,
}

/// An entry of a transcript.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TranscriptView {
    sequence: u64,
    attempt: u32,
    at: String,
    kind: String,
    parent: Option<String>,
    summary: String,
    /// What the agent said, byte for byte but for credentials; its members are the agent's.
    detail: Map<String, Value>,
}

impl From<Session> for SessionView {
    fn from(session: Session) -> Self {
        Self {
            id: session.id,
            repo_url: session.repo_url,
            branch_name: session.branch_name,
            pr_url: session.pr_url,
            status: session.status,
            created_at: rfc3339(session.created_at),
            completed_at: session.completed_at.map(rfc3339),
            title: session.title,
            attempt: session.attempt.get(),
            cancel_requested: session.cancel_requested,
            submitter: session.submitter,
            usage: session.usage.into(),
        }
    }
}

impl From<Usage> for UsageView {
    fn from(usage: Usage) -> Self {
        Self {
            input_tokens: usage.input_tokens,
            output_tokens: usage.output_tokens,
            cache_read_tokens: usage.cache_read_tokens,
            cache_write_tokens: usage.cache_write_tokens,
            cost_usd: usage.cost_usd,
            turns: usage.turns,
        }
    }
}

impl From<Question> for QuestionView {
    fn from(question: Question) -> Self {
        let (answer, answered_by, answered_at) = match question.answer {
            Some(answer) => (Some(answer.text), answer.by, Some(rfc3339(answer.at))),
            None => (None, None, None),
        };
        Self {
            id: question.id,
            session_id: question.session,
            attempt: question.attempt.get(),
            question: question.escalation.question,
            options: question.escalation.options,
            context: question.escalation.context,
            urgency: question.escalation.urgency,
            asked_at: rfc3339(question.asked_at),
            deadline: question.deadline.map(rfc3339),
            on_deadline: question.then,
            answer,
            answered_by,
            answered_at,
        }
    }
}

impl From<Message> for MessageView {
    fn from(message: Message) -> Self {
        Self {
            id: message.id,
            session_id: message.session,
            kind: message.kind,
            content: message.content,
            created_at: rfc3339(message.created_at),
            read_at: message.read_at.map(rfc3339),
            sequence: message.sequence,
        }
    }
}

impl From<StoredTranscript> for TranscriptView {
    fn from(row: StoredTranscript) -> Self {
        Self {
            sequence: row.sequence,
            attempt: row.attempt.get(),
            at: rfc3339(row.at),
            kind: row.entry.kind,
            parent: row.entry.parent,
            summary: row.entry.summary,
            detail: row.entry.detail,
        }
    }
}

/// Always UTC, always with milliseconds: the form that JavaScript writes.
fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}
