//! Removing what is old.

use std::time::Duration;

use fabrica_core::ports::StoreError;
use fabrica_core::ports::store::{Reaped, Retention};
use sqlx::types::Uuid;
use sqlx::{PgConnection, PgPool};

use crate::error::database;
use crate::values::microseconds;

/// Whose end is longer ago than `$1` microseconds.
macro_rules! ended {
    () => {
        "s.completed_at is not null and s.completed_at <= now() - $1::bigint * interval '1 microsecond'
         and s.status in ('completed', 'failed', 'cancelled')"
    };
}

#[tracing::instrument(name = "store.postgres.reap", skip_all, err)]
pub(super) async fn reap(pool: &PgPool, retention: &Retention, limit: u32) -> Result<Reaped, StoreError> {
    let limit = i64::from(limit);
    let mut transaction = pool.begin().await.map_err(database)?;
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
    transaction.commit().await.map_err(database)?;
    Ok(reaped)
}

/// Messages and plans go before their session; attempts, questions, transcript and artifacts with it.
async fn sessions(connection: &mut PgConnection, age: Duration, limit: i64) -> Result<u64, StoreError> {
    let ids: Vec<Uuid> = sqlx::query_scalar(concat!(
        "select s.id from sessions s where ",
        ended!(),
        " order by s.completed_at, s.id limit $2 for update of s skip locked"
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
        "delete from messages where session_id = any ($1)",
        "delete from specs where session_id = any ($1)",
        "delete from sessions where id = any ($1)",
    ] {
        sqlx::query(statement)
            .bind(&ids)
            .execute(&mut *connection)
            .await
            .map_err(database)?;
    }
    Ok(u64::try_from(ids.len()).unwrap_or(u64::MAX))
}

/// A session whose transcript is gone is marked, so that nobody looks at it again.
async fn transcripts(connection: &mut PgConnection, age: Duration, limit: i64) -> Result<u64, StoreError> {
    let mut removed: u64 = 0;
    loop {
        let left = limit.saturating_sub_unsigned(removed);
        if left <= 0 {
            return Ok(removed);
        }
        let ids: Vec<Uuid> = sqlx::query_scalar(concat!(
            "select s.id from sessions s where ",
            ended!(),
            " and s.transcript_kept
              order by s.completed_at, s.id limit $2 for no key update of s skip locked"
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
                 from unnest($1::uuid[]) with ordinality as old (id, place) join transcript t on t.session_id = old.id
                 order by old.place, t.seq limit $2
             )",
        )
        .bind(&ids)
        .bind(left)
        .execute(&mut *connection)
        .await
        .map_err(database)?
        .rows_affected();
        sqlx::query(
            "update sessions s set transcript_kept = false
             where s.id = any ($1) and not exists (select 1 from transcript t where t.session_id = s.id)",
        )
        .bind(&ids)
        .execute(&mut *connection)
        .await
        .map_err(database)?;
    }
}

/// An artifact was stored before its session ended, so its own age leads to it.
async fn artifacts(connection: &mut PgConnection, age: Duration, limit: i64) -> Result<u64, StoreError> {
    sqlx::query(concat!(
        "delete from artifacts where id in (
             select a.id from artifacts a join sessions s on s.id = a.session_id
             where a.created_at <= now() - $1::bigint * interval '1 microsecond' and ",
        ended!(),
        "
             order by a.created_at limit $2
         )"
    ))
    .bind(microseconds(age))
    .bind(limit)
    .execute(connection)
    .await
    .map(|deleted| deleted.rows_affected())
    .map_err(database)
}
