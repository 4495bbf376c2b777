//! Removing what is old.

use std::time::Duration;

use fabrica_core::ports::StoreError;
use fabrica_core::ports::store::{Reaped, Retention};
use sqlx::SqliteConnection;
use sqlx::types::Uuid;

use super::write::json_rows;
use super::{SqliteStore, now};
use crate::error::database;
use crate::values::microseconds;

/// Whose end is longer ago than `?1` microseconds.
macro_rules! ended {
    () => {
        concat!(
            "s.completed_at is not null and s.completed_at <= ",
            now!(),
            " - ?1 and s.status in ('completed', 'failed', 'cancelled')"
        )
    };
}

/// The ids of a list.
macro_rules! listed {
    () => {
        "(select unhex(value) from json_each(?1))"
    };
}

#[tracing::instrument(name = "store.sqlite.reap", skip_all, err)]
pub(super) async fn reap(
    store: &SqliteStore,
    retention: &Retention,
    limit: u32,
) -> Result<Reaped, StoreError> {
    let limit = i64::from(limit);
    let mut transaction = store.write().await?;
    let mut reaped = Reaped::default();
    if let Some(age) = retention.sessions {
        reaped.sessions = sessions(&mut transaction, age, limit).await?;
    }
    if let Some(age) = retention.transcripts {
        reaped.transcript_entries = transcripts(&mut transaction, age, limit).await?;
    }
    if let Some(age) = retention.artifacts {
        reaped.artifacts = artifacts(&mut transaction, age, limit).await?;
    }
    store.commit(transaction).await?;
    Ok(reaped)
}

/// Ids for `json_each`.
fn list(ids: &[Uuid]) -> Result<String, StoreError> {
    json_rows(ids.iter().map(|id| id.simple().to_string()))
}

/// Messages and plans go before their session; attempts, questions, transcript and artifacts with it.
async fn sessions(connection: &mut SqliteConnection, age: Duration, limit: i64) -> Result<u64, StoreError> {
    let ids: Vec<Uuid> = sqlx::query_scalar(concat!(
        "select s.id from sessions s where ",
        ended!(),
        " order by s.completed_at, s.id limit ?2"
    ))
    .bind(microseconds(age))
    .bind(limit)
    .fetch_all(&mut *connection)
    .await
    .map_err(database)?;
    if ids.is_empty() {
        return Ok(0);
    }
    for statement in [
        concat!("delete from messages where session_id in ", listed!()),
        concat!("delete from specs where session_id in ", listed!()),
        concat!("delete from sessions where id in ", listed!()),
    ] {
        sqlx::query(statement)
            .bind(list(&ids)?)
            .execute(&mut *connection)
            .await
            .map_err(database)?;
    }
    Ok(u64::try_from(ids.len()).unwrap_or(u64::MAX))
}

/// A session whose transcript is gone is marked, so that nobody looks at it again.
async fn transcripts(
    connection: &mut SqliteConnection,
    age: Duration,
    limit: i64,
) -> Result<u64, StoreError> {
    let mut removed: u64 = 0;
    loop {
        let left = limit.saturating_sub_unsigned(removed);
        if left <= 0 {
            return Ok(removed);
        }
        let ids: Vec<Uuid> = sqlx::query_scalar(concat!(
            "select s.id from sessions s where ",
            ended!(),
            " and s.transcript_kept = 1 order by s.completed_at, s.id limit ?2"
        ))
        .bind(microseconds(age))
        .bind(left)
        .fetch_all(&mut *connection)
        .await
        .map_err(database)?;
        if ids.is_empty() {
            return Ok(removed);
        }
        removed += sqlx::query(
            "delete from transcript where (session_id, seq) in (
                 select t.session_id, t.seq
                 from json_each(?1) old join transcript t on t.session_id = unhex(old.value)
                 order by old.key, t.seq limit ?2
             )",
        )
        .bind(list(&ids)?)
        .bind(left)
        .execute(&mut *connection)
        .await
        .map_err(database)?
        .rows_affected();
        sqlx::query(concat!(
            "update sessions set transcript_kept = 0
             where id in ",
            listed!(),
            " and not exists (select 1 from transcript t where t.session_id = sessions.id)"
        ))
        .bind(list(&ids)?)
        .execute(&mut *connection)
        .await
        .map_err(database)?;
    }
}

/// An artifact was stored before its session ended, so its own age leads to it.
async fn artifacts(connection: &mut SqliteConnection, age: Duration, limit: i64) -> Result<u64, StoreError> {
    sqlx::query(concat!(
        "delete from artifacts where id in (
             select a.id from artifacts a join sessions s on s.id = a.session_id
             where a.created_at <= ",
        now!(),
        " - ?1 and ",
        ended!(),
        " order by a.created_at limit ?2
         )"
    ))
    .bind(microseconds(age))
    .bind(limit)
    .execute(connection)
    .await
    .map(|deleted| deleted.rows_affected())
    .map_err(database)
}
