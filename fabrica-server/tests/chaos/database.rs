//! What the database says, read past Fabrica.

use std::time::Duration;

use anyhow::{Result, bail};
use fabrica_core::ids::{AttemptNumber, Fence, LeaseNumber, SessionId};
use serde_json::Value;
use sqlx::PgPool;
use sqlx::{AssertSqlSafe, Row as _};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

/// A session's row.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(crate) struct SessionRow {
    pub(crate) id: Uuid,
    pub(crate) status: String,
    pub(crate) attempt: i32,
    pub(crate) worker: Option<String>,
    /// Whether its lease has not run out.
    pub(crate) leased: bool,
    pub(crate) message_seq: i64,
    pub(crate) branch_name: Option<String>,
    pub(crate) pr_url: Option<String>,
    /// Seconds since 1970.
    pub(crate) ended: Option<f64>,
}

impl SessionRow {
    pub(crate) fn is_terminal(&self) -> bool {
        ["completed", "failed", "cancelled"].contains(&self.status.as_str())
    }

    /// The process that holds the lease: it stands in the worker's name.
    pub(crate) fn owner(&self) -> Option<i32> {
        let mut parts = self.worker.as_deref()?.rsplit('-');
        parts.next()?;
        parts.next()?.parse().ok()
    }

    /// The container of its latest attempt.
    pub(crate) fn container(&self) -> String {
        format!("fabrica-{}-{}", self.id, self.attempt)
    }
}

/// A message's row.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(crate) struct MessageRow {
    pub(crate) seq: i64,
    #[sqlx(rename = "type")]
    pub(crate) kind: String,
    pub(crate) content: Value,
}

impl MessageRow {
    pub(crate) fn metadata(&self, key: &str) -> &str {
        self.content["metadata"][key].as_str().unwrap_or_default()
    }
}

/// An attempt's row.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(crate) struct AttemptRow {
    pub(crate) number: i32,
    pub(crate) outcome: Option<String>,
    /// Whether its runner reported success.
    pub(crate) reported: bool,
}

/// A line of the agent's output.
#[derive(Debug, Clone)]
pub(crate) struct OutputRow {
    pub(crate) attempt: i32,
    pub(crate) text: String,
}

/// What of a session is read by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Numbered {
    Messages,
    Transcript,
}

impl Numbered {
    /// Its name in addresses.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Transcript => "transcript",
        }
    }
}

/// One world's database. It waits while PostgreSQL is away.
#[derive(Debug, Clone)]
pub(crate) struct Database(pub(crate) PgPool);

/// How long PostgreSQL may be away before a question is given up.
const PATIENCE: Duration = Duration::from_mins(1);

const SESSION: &str =
    "select id, status, attempt, worker, run_at > now() as leased, message_seq, branch_name, pr_url,
    extract(epoch from completed_at)::float8 as ended from sessions";

impl Database {
    /// Asks again for as long as PostgreSQL is being restarted.
    async fn patiently<T, F: Future<Output = sqlx::Result<T>>>(&self, ask: impl Fn() -> F) -> Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match ask().await {
                Ok(answer) => return Ok(answer),
                Err(error) if Instant::now() > deadline => bail!("the database does not answer: {error}"),
                Err(sqlx::Error::RowNotFound) => return Err(sqlx::Error::RowNotFound.into()),
                Err(sqlx::Error::Database(error))
                    if !matches!(
                        error.code().as_deref(),
                        Some("57P01" | "57P02" | "57P03" | "53300")
                    ) =>
                {
                    return Err(sqlx::Error::Database(error).into());
                }
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        }
    }

    pub(crate) async fn sessions(&self) -> Result<Vec<SessionRow>> {
        self.patiently(|| sqlx::query_as(SESSION).fetch_all(&self.0))
            .await
    }

    pub(crate) async fn session(&self, id: Uuid) -> Result<Option<SessionRow>> {
        self.patiently(|| {
            sqlx::query_as(AssertSqlSafe(format!("{SESSION} where id = $1")))
                .bind(id)
                .fetch_optional(&self.0)
        })
        .await
    }

    /// Under which lease a session's attempt runs.
    pub(crate) async fn fence(&self, id: Uuid) -> Result<Fence> {
        let (attempt, lease): (i32, i64) =
            sqlx::query_as("select attempt, lease from sessions where id = $1")
                .bind(id)
                .fetch_one(&self.0)
                .await?;
        Ok(Fence {
            session: SessionId::from_uuid(id),
            attempt: AttemptNumber::new(attempt.unsigned_abs()),
            lease: LeaseNumber::new(lease.unsigned_abs()),
        })
    }

    pub(crate) async fn messages(&self, id: Uuid) -> Result<Vec<MessageRow>> {
        let query = "select seq, type, content from messages where session_id = $1 order by seq";
        self.patiently(|| sqlx::query_as(query).bind(id).fetch_all(&self.0))
            .await
    }

    pub(crate) async fn attempts(&self, id: Uuid) -> Result<Vec<AttemptRow>> {
        let query = "select number, outcome, coalesce(result ->> 'event' = 'completed', false) as reported
            from attempts where session_id = $1 order by number";
        self.patiently(|| sqlx::query_as(query).bind(id).fetch_all(&self.0))
            .await
    }

    /// Who answered the session's questions.
    pub(crate) async fn answers(&self, id: Uuid) -> Result<Vec<String>> {
        let query = "select answered_by from questions where session_id = $1 and answered_at is not null order by asked_at";
        self.patiently(|| sqlx::query_scalar(query).bind(id).fetch_all(&self.0))
            .await
    }

    /// What the agent wrote, line by line, in the order of the store.
    pub(crate) async fn output(&self, id: Uuid) -> Result<Vec<OutputRow>> {
        let query = "select t.attempt, line.value #>> '{}' as text from transcript t,
            jsonb_array_elements(t.detail -> 'lines') with ordinality as line (value, place)
            where t.session_id = $1 and t.kind = 'output' and t.detail ->> 'step' = 'agent'
                and t.detail ->> 'stream' = 'stdout' order by t.seq, line.place";
        let rows = self
            .patiently(|| sqlx::query(query).bind(id).fetch_all(&self.0))
            .await?;
        rows.iter()
            .map(|row| {
                Ok(OutputRow {
                    attempt: row.try_get("attempt")?,
                    text: row.try_get("text")?,
                })
            })
            .collect()
    }

    /// The id of a session's first message.
    pub(crate) async fn first_message(&self, id: Uuid) -> Result<Uuid> {
        let query = "select id from messages where session_id = $1 order by seq limit 1";
        self.patiently(|| sqlx::query_scalar(query).bind(id).fetch_one(&self.0))
            .await
    }

    /// The numbers of what a session has, in order.
    pub(crate) async fn numbers(&self, id: Uuid, kind: Numbered) -> Result<Vec<i64>> {
        let query = match kind {
            Numbered::Messages => "select seq from messages where session_id = $1 order by seq",
            Numbered::Transcript => "select seq from transcript where session_id = $1 order by seq",
        };
        self.patiently(|| sqlx::query_scalar(query).bind(id).fetch_all(&self.0))
            .await
    }

    /// How many entries of its agent are stored.
    pub(crate) async fn entries(&self, id: Uuid) -> Result<i64> {
        let query = "select count(*) from transcript where session_id = $1";
        self.patiently(|| sqlx::query_scalar(query).bind(id).fetch_one(&self.0))
            .await
    }

    /// What the installation's containers are labelled with.
    pub(crate) async fn owner(&self) -> Result<String> {
        let query = "select substring(encode(hash, 'hex') for 12) from tokens where name = 'installation'";
        let digits: String = self
            .patiently(|| sqlx::query_scalar(query).fetch_one(&self.0))
            .await?;
        Ok(format!("fabrica-{digits}"))
    }

    /// Cuts so many of Fabrica's connections; returns how many were cut.
    pub(crate) async fn terminate_connections(&self, most: i64) -> Result<u64> {
        let query = "select pg_terminate_backend(pid) from pg_stat_activity
            where datname = current_database() and pid <> pg_backend_pid() and application_name <> 'chaos'
            order by (state = 'active') desc, random() limit $1";
        let cut = self
            .patiently(|| sqlx::query(query).bind(most).fetch_all(&self.0))
            .await?;
        Ok(cut.len() as u64)
    }

    /// Removes everything about a session, as an operator might.
    pub(crate) async fn delete(&self, id: Uuid) -> Result<()> {
        for query in [
            "delete from messages where session_id = $1",
            "delete from specs where session_id = $1",
            "delete from sessions where id = $1",
        ] {
            self.patiently(|| sqlx::query(query).bind(id).execute(&self.0))
                .await?;
        }
        Ok(())
    }
}
