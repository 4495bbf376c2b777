//! Claiming sessions and keeping their leases.

use std::time::Duration;

use fabrica_core::ids::{Fence, SessionId, WorkerId};
use fabrica_core::ports::StoreError;
use fabrica_core::ports::store::{ClaimRequest, Claimed, Retired, Storable as _};
use sqlx::SqliteConnection;
use sqlx::types::Uuid;

use super::write::{add_messages, end_attempts, set_status};
use super::{SqliteStore, now};
use crate::error::database;
use crate::rows::{ClaimedRow, session_columns};
use crate::shared::retirement;
use crate::values::{integer, microseconds};

/// How many sessions one claim ends at most; the next claim goes on.
const RETIRED_AT_ONCE: i64 = 100;

/// Whose time has come; the one that is asked for alone need not wait while it is new.
macro_rules! due {
    () => {
        concat!(
            "s.status in ('pending', 'running') and (s.run_at <= ",
            now!(),
            "
             or (?1 is not null and s.status = 'pending' and s.attempt = 0))
             and exists (select 1 from specs p where p.session_id = s.id) and (?1 is null or s.id = ?1)"
        )
    };
}

#[derive(sqlx::FromRow)]
struct RetiredRow {
    id: Uuid,
    attempt: i32,
    message_seq: i64,
    cancel_requested: bool,
}

#[tracing::instrument(name = "store.sqlite.claim", skip_all, fields(worker.id = %request.worker), err)]
pub(super) async fn claim(store: &SqliteStore, request: &ClaimRequest) -> Result<Vec<Claimed>, StoreError> {
    let mut transaction = store.write().await?;
    let retired = retire(&mut transaction, request.only).await?;
    let due: Vec<Uuid> = sqlx::query_scalar(concat!(
        "select s.id from sessions s
         where ",
        due!(),
        " and not s.cancel_requested and (s.status = 'pending' or s.attempt < s.max_attempts)
         order by s.run_at, s.id limit ?2"
    ))
    .bind(request.only.map(|only| *only.as_uuid()))
    .bind(i64::from(request.limit))
    .fetch_all(&mut *transaction)
    .await
    .map_err(database)?;
    let mut claimed = Vec::with_capacity(due.len());
    for id in due {
        claimed.push(take(&mut transaction, id, request).await?.try_into()?);
    }
    // Whoever asks and gets nothing shall cost no write.
    if retired || !claimed.is_empty() {
        store.commit(transaction).await?;
    }
    Ok(claimed)
}

async fn take(
    connection: &mut SqliteConnection,
    id: Uuid,
    request: &ClaimRequest,
) -> Result<ClaimedRow, StoreError> {
    end_attempts(connection, SessionId::from_uuid(id), "lost", None).await?;
    sqlx::query(concat!(
        "update sessions
         set status = 'running', attempt = attempt + 1, worker = ?2, completed_at = null, run_at = ",
        now!(),
        " + ?3
         where id = ?1"
    ))
    .bind(id)
    .bind(request.worker.clone().storable().as_str().to_owned())
    .bind(microseconds(request.lease))
    .execute(&mut *connection)
    .await
    .map_err(database)?;
    sqlx::query("insert into attempts (session_id, number, worker) select id, attempt, worker from sessions where id = ?1")
        .bind(id)
        .execute(&mut *connection)
        .await
        .map_err(database)?;
    sqlx::query_as(concat!(
        "select ", session_columns!(), ",
                p.id as spec_id, p.session_id, p.version, p.content, p.created_at as spec_created_at,
                (select case when a.outcome is null or a.outcome = 'lost' then a.result end from attempts a
                 where a.session_id = s.id and a.number < s.attempt and (a.result is not null or a.outcome <> 'lost')
                 order by a.number desc limit 1) as unpublished
         from sessions s
         join specs p on p.id = (select n.id from specs n where n.session_id = s.id
                                 order by n.version desc, n.created_at desc limit 1)
         where s.id = ?1"
    ))
    .bind(id)
    .fetch_one(connection)
    .await
    .map_err(database)
}

/// Ends the sessions that are not to be run again; whether there were any.
async fn retire(connection: &mut SqliteConnection, only: Option<SessionId>) -> Result<bool, StoreError> {
    let rows: Vec<RetiredRow> = sqlx::query_as(concat!(
        "select s.id, s.attempt, s.message_seq, s.cancel_requested from sessions s
         where ",
        due!(),
        " and (s.cancel_requested or (s.status = 'running' and s.attempt >= s.max_attempts))
         order by s.run_at, s.id limit ?2"
    ))
    .bind(only.map(|only| *only.as_uuid()))
    .bind(RETIRED_AT_ONCE)
    .fetch_all(&mut *connection)
    .await
    .map_err(database)?;
    for row in &rows {
        let session = SessionId::from_uuid(row.id);
        let (retired, outcome) = if row.cancel_requested {
            (Retired::Cancelled, "cancelled")
        } else {
            (Retired::Exhausted, "lost")
        };
        let message = retirement(retired, u32::try_from(row.attempt).unwrap_or(0));
        let seq = add_messages(connection, session, row.message_seq, &[message]).await?;
        set_status(connection, session, retired.status(), 0, seq).await?;
        end_attempts(connection, session, outcome, None).await?;
    }
    Ok(!rows.is_empty())
}

#[tracing::instrument(name = "store.sqlite.renew_leases", skip_all, fields(worker.id = %worker), err)]
pub(super) async fn renew_leases(
    store: &SqliteStore,
    worker: &WorkerId,
    attempts: &[Fence],
    lease: Duration,
) -> Result<Vec<Fence>, StoreError> {
    let worker = worker.clone().storable();
    let mut transaction = store.write().await?;
    let mut held = Vec::with_capacity(attempts.len());
    for fence in attempts {
        let renewed = sqlx::query(concat!(
            "update sessions set run_at = ",
            now!(),
            " + ?4
             where id = ?1 and attempt = ?2 and status = 'running' and worker = ?3"
        ))
        .bind(fence.session.as_uuid())
        .bind(integer(fence.attempt.get()))
        .bind(worker.as_str())
        .bind(microseconds(lease))
        .execute(&mut *transaction)
        .await
        .map_err(database)?;
        if renewed.rows_affected() == 1 {
            held.push(*fence);
        }
    }
    store.commit(transaction).await?;
    Ok(held)
}
