//! Rows as both databases give them, and the way from there into the domain.

use std::fmt::Display;

use fabrica_core::ids::{AttemptNumber, LeaseNumber, MessageId, SessionId, SpecId, WorkerId};
use fabrica_core::message::{Message, MessageContent, MessageKind};
use fabrica_core::ports::StoreError;
use fabrica_core::ports::store::{AttemptStart, Claimed, Resumed, SessionState, StoredTranscript};
use fabrica_core::protocol::{Checkpoint, TranscriptEntry, Usage};
use fabrica_core::secrets::TokenHash;
use fabrica_core::session::{Session, SessionStatus, Spec};
use serde_json::{Map, Value};
use sqlx::types::{Json, Uuid};

use crate::questions::QuestionRow;
use crate::values::{Moment, duration};

/// The columns of [`SessionRow`], in both dialects.
macro_rules! session_columns {
    () => {
        "s.id, s.status, s.repo_url, s.title, s.branch_name, s.pr_url, s.attempt, s.max_attempts, s.worker, \
         s.cancel_requested, s.submitter, s.created_at, s.completed_at, s.input_tokens, s.output_tokens, \
         s.cache_read_tokens, s.cache_write_tokens, s.cost_usd, s.turns"
    };
}
pub(crate) use session_columns;

#[derive(sqlx::FromRow)]
pub(crate) struct SessionRow {
    id: Uuid,
    status: String,
    repo_url: String,
    title: Option<String>,
    branch_name: Option<String>,
    pr_url: Option<String>,
    attempt: i32,
    max_attempts: i32,
    worker: Option<String>,
    cancel_requested: bool,
    submitter: Option<String>,
    created_at: Moment,
    completed_at: Option<Moment>,
    #[sqlx(flatten)]
    usage: UsageRow,
}

#[derive(sqlx::FromRow)]
pub(crate) struct UsageRow {
    pub(crate) input_tokens: i64,
    pub(crate) output_tokens: i64,
    pub(crate) cache_read_tokens: i64,
    pub(crate) cache_write_tokens: i64,
    pub(crate) cost_usd: f64,
    pub(crate) turns: i64,
}

#[derive(sqlx::FromRow)]
pub(crate) struct SpecRow {
    spec_id: Uuid,
    session_id: Uuid,
    version: i32,
    content: String,
    spec_created_at: Moment,
}

#[derive(sqlx::FromRow)]
pub(crate) struct ClaimedRow {
    #[sqlx(flatten)]
    session: SessionRow,
    #[sqlx(flatten)]
    spec: SpecRow,
    #[sqlx(flatten)]
    attempt: AttemptRow,
    lease: i64,
    reported: Option<Json<Value>>,
    checkpoint: Option<Json<Value>>,
    checkpoint_attempt: Option<i32>,
    #[sqlx(skip)]
    answered: Option<QuestionRow>,
}

/// The attempt that is taken over. A new one has none of this.
#[derive(sqlx::FromRow)]
struct AttemptRow {
    container: Option<String>,
    branch: Option<String>,
    runner_token_hash: Option<Vec<u8>>,
    agent_token_hash: Option<Vec<u8>>,
    last_event: Option<i64>,
    /// In microseconds.
    age: Option<i64>,
}

#[derive(sqlx::FromRow)]
pub(crate) struct StateRow {
    id: Uuid,
    status: String,
    attempt: i32,
    /// Microseconds since it became terminal.
    ended: Option<i64>,
}

#[derive(sqlx::FromRow)]
pub(crate) struct MessageRow {
    id: Uuid,
    session_id: Uuid,
    seq: i64,
    r#type: String,
    content: Json<Value>,
    created_at: Moment,
    read_at: Option<Moment>,
}

#[derive(sqlx::FromRow)]
pub(crate) struct TranscriptRow {
    session_id: Uuid,
    seq: i64,
    attempt: i32,
    at: Moment,
    kind: String,
    parent: Option<String>,
    summary: String,
    detail: Json<Value>,
}

pub(crate) fn broken(
    table: &'static str,
    id: impl Display,
    column: &str,
    reason: impl Display,
) -> StoreError {
    StoreError::BrokenRow {
        table,
        id: id.to_string(),
        reason: format!("{column}: {reason}"),
    }
}

pub(crate) fn number<N: TryFrom<V>, V: Copy + Display>(
    table: &'static str,
    id: impl Display,
    column: &str,
    value: V,
) -> Result<N, StoreError> {
    N::try_from(value).map_err(|_| broken(table, id, column, format_args!("{value} is out of range")))
}

impl UsageRow {
    /// Negative numbers are nobody's usage.
    pub(crate) fn usage(&self) -> Usage {
        let count = |number: i64| u64::try_from(number).unwrap_or(0);
        Usage {
            input_tokens: count(self.input_tokens),
            output_tokens: count(self.output_tokens),
            cache_read_tokens: count(self.cache_read_tokens),
            cache_write_tokens: count(self.cache_write_tokens),
            cost_usd: self.cost_usd,
            turns: u32::try_from(count(self.turns)).unwrap_or(u32::MAX),
        }
    }
}

impl TryFrom<SessionRow> for Session {
    type Error = StoreError;

    fn try_from(row: SessionRow) -> Result<Self, StoreError> {
        let (table, id) = ("sessions", row.id);
        Ok(Self {
            id: SessionId::from_uuid(id),
            status: status(SessionId::from_uuid(id), &row.status)?,
            usage: row.usage.usage(),
            repo_url: row.repo_url,
            title: row.title,
            branch_name: row.branch_name,
            pr_url: row.pr_url,
            attempt: AttemptNumber::new(number(table, id, "attempt", row.attempt)?),
            worker: row.worker.map(WorkerId::new),
            cancel_requested: row.cancel_requested,
            submitter: row.submitter,
            created_at: row.created_at.0,
            completed_at: row.completed_at.map(|moment| moment.0),
        })
    }
}

impl TryFrom<SpecRow> for Spec {
    type Error = StoreError;

    fn try_from(row: SpecRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: SpecId::from_uuid(row.spec_id),
            session: SessionId::from_uuid(row.session_id),
            version: number("specs", row.spec_id, "version", row.version)?,
            content: row.content,
            created_at: row.spec_created_at.0,
        })
    }
}

impl TryFrom<ClaimedRow> for Claimed {
    type Error = StoreError;

    fn try_from(mut row: ClaimedRow) -> Result<Self, StoreError> {
        let checkpoint = row.checkpoint()?;
        Ok(Self {
            max_attempts: number(
                "sessions",
                row.session.id,
                "max_attempts",
                row.session.max_attempts,
            )?,
            lease: LeaseNumber::new(number("sessions", row.session.id, "lease", row.lease)?),
            resumed: row.attempt.resumed(&row.session)?,
            session: row.session.try_into()?,
            spec: row.spec.try_into()?,
            reported: row.reported.map(|json| json.0),
            checkpoint,
            answered: row.answered.map(TryInto::try_into).transpose()?,
        })
    }
}

impl ClaimedRow {
    /// The session, if an attempt before this one may have asked.
    pub(crate) fn may_have_asked(&self) -> Option<Uuid> {
        (self.session.attempt > 1).then_some(self.session.id)
    }

    fn checkpoint(&mut self) -> Result<Option<(AttemptNumber, Checkpoint)>, StoreError> {
        let id = self.session.id;
        let (Some(attempt), Some(Json(value))) = (self.checkpoint_attempt, self.checkpoint.take()) else {
            return Ok(None);
        };
        let attempt = AttemptNumber::new(number("sessions", id, "checkpoint_attempt", attempt)?);
        serde_json::from_value(value)
            .map(|checkpoint| Some((attempt, checkpoint)))
            .map_err(|error| broken("sessions", id, "checkpoint", error))
    }
}

/// Gives each session its newest question, if that is among the answered ones.
pub(crate) fn hand_on(claimed: &mut [ClaimedRow], answered: Vec<QuestionRow>) {
    for question in answered {
        let session = claimed
            .iter_mut()
            .find(|row| row.session.id == question.session());
        if let Some(row) = session {
            row.answered = Some(question);
        }
    }
}

impl AttemptRow {
    fn resumed(self, session: &SessionRow) -> Result<Option<Resumed>, StoreError> {
        let id = format!("{}/{}", session.id, session.attempt);
        let (Some(last_event), Some(age)) = (self.last_event, self.age) else {
            return Ok(None);
        };
        let start = match (
            self.container,
            self.branch,
            self.runner_token_hash,
            self.agent_token_hash,
        ) {
            (Some(container), Some(branch), Some(runner), Some(agent)) => Some(AttemptStart {
                container,
                branch,
                title: session.title.clone().unwrap_or_default(),
                runner_token: token_hash("attempts", &id, "runner_token_hash", &runner)?,
                agent_token: token_hash("attempts", &id, "agent_token_hash", &agent)?,
            }),
            _ => None,
        };
        Ok(Some(Resumed {
            start,
            last_event: number("attempts", &id, "last_event", last_event)?,
            age: duration(age),
        }))
    }
}

impl TryFrom<StateRow> for SessionState {
    type Error = StoreError;

    fn try_from(row: StateRow) -> Result<Self, StoreError> {
        let id = SessionId::from_uuid(row.id);
        let status = status(id, &row.status)?;
        Ok(Self {
            id,
            status,
            attempt: AttemptNumber::new(number("sessions", id, "attempt", row.attempt)?),
            ended: row.ended.filter(|_| status.is_terminal()).map(duration),
        })
    }
}

impl TryFrom<MessageRow> for Message {
    type Error = StoreError;

    fn try_from(row: MessageRow) -> Result<Self, StoreError> {
        let mut content = message_content(row.content.0);
        let kind = row.r#type.parse().unwrap_or_else(|_| {
            content.metadata.insert("type".into(), row.r#type.into());
            MessageKind::Progress
        });
        Ok(Self {
            id: MessageId::from_uuid(row.id),
            session: SessionId::from_uuid(row.session_id),
            sequence: number("messages", row.id, "seq", row.seq)?,
            kind,
            content,
            created_at: row.created_at.0,
            read_at: row.read_at.map(|moment| moment.0),
        })
    }
}

/// Content of another shape, written by another program, is kept under `metadata.content`.
fn message_content(value: Value) -> MessageContent {
    let ours = value.as_object().is_some_and(|members| {
        members.keys().all(|key| key == "message" || key == "metadata")
            && members.get("message").is_none_or(Value::is_string)
            && members.get("metadata").is_none_or(Value::is_object)
    });
    if ours && let Ok(content) = serde_json::from_value(value.clone()) {
        return content;
    }
    // A sentence for people is one, whatever stands beside it.
    let sentence = match &value {
        Value::String(text) => text.clone(),
        other => other
            .get("message")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned(),
    };
    MessageContent {
        message: sentence,
        metadata: Map::from_iter([("content".to_owned(), value)]),
    }
}

impl TryFrom<TranscriptRow> for StoredTranscript {
    type Error = StoreError;

    fn try_from(row: TranscriptRow) -> Result<Self, StoreError> {
        let id = format_args!("{}/{}", row.session_id, row.seq).to_string();
        let Value::Object(detail) = row.detail.0 else {
            return Err(broken("transcript", id, "detail", "it is no object"));
        };
        Ok(Self {
            sequence: number("transcript", &id, "seq", row.seq)?,
            attempt: AttemptNumber::new(number("transcript", &id, "attempt", row.attempt)?),
            at: row.at.0,
            entry: TranscriptEntry {
                kind: row.kind,
                parent: row.parent,
                summary: row.summary,
                detail,
            },
        })
    }
}

/// A session's status, by its name.
pub(crate) fn status(session: SessionId, name: &str) -> Result<SessionStatus, StoreError> {
    name.parse()
        .map_err(|error| broken("sessions", session, "status", error))
}

/// A token's hash, from its bytes.
pub(crate) fn token_hash(
    table: &'static str,
    id: &str,
    column: &str,
    bytes: &[u8],
) -> Result<TokenHash, StoreError> {
    bytes
        .try_into()
        .map(TokenHash::from_bytes)
        .map_err(|_| broken(table, id, column, "it has not 32 bytes"))
}

/// All rows, or the first broken one.
pub(crate) fn all<T, Row: TryInto<T, Error = StoreError>>(rows: Vec<Row>) -> Result<Vec<T>, StoreError> {
    rows.into_iter().map(TryInto::try_into).collect()
}

/// The rows that can be read. A broken one is left to people: it must not keep all others from being claimed, or answered.
pub(crate) fn readable<T, Row: TryInto<T, Error = StoreError>>(rows: Vec<Row>) -> Vec<T> {
    rows.into_iter()
        .filter_map(|row| {
            row.try_into()
                .inspect_err(|error| tracing::error!(%error, "a row cannot be read"))
                .ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn foreign_content_is_kept_whole() {
        let ours = json!({"message": "hello", "metadata": {"code": "x"}});
        assert_eq!(
            message_content(ours),
            MessageContent::text("hello").with("code", "x")
        );
        assert_eq!(message_content(json!({})), MessageContent::text(""));
        for (foreign, sentence) in [
            (json!("just text"), "just text"),
            (json!([1, 2]), ""),
            (json!(null), ""),
            (json!({"message": "hello", "percent": 5}), "hello"),
            (json!({"message": {"text": "hello"}}), ""),
            (json!({"message": "hello", "metadata": [1]}), "hello"),
        ] {
            let expected = MessageContent::text(sentence).with("content", foreign.clone());
            assert_eq!(message_content(foreign), expected);
        }
    }
}
