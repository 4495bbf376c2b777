//! Claiming sessions and keeping their leases.

use std::time::Duration;

use fabrica_core::ids::{AttemptNumber, Fence, SessionId, WorkerId};
use fabrica_core::ports::StoreError;
use fabrica_core::ports::store::{ClaimRequest, Claimed, Retired, Storable as _};
use sqlx::types::Uuid;
use sqlx::{PgConnection, PgPool};

use super::write::{add_messages, end_attempts, set_status};
use crate::error::database;
use crate::rows::{ClaimedRow, all, session_columns};
use crate::shared::retirement;
use crate::values::{integer, microseconds};

/// How many sessions one claim ends at most; the next claim goes on.
const RETIRED_AT_ONCE: i64 = 100;

/// Who may be claimed, whatever its time is. The first condition is that of the partial index.
macro_rules! due {
    () => {
        "s.status in ('pending', 'running')
         and exists (select 1 from specs p where p.session_id = s.id)"
    };
}

/// Whose time has come.
macro_rules! anyone {
    () => {
        " and s.run_at <= now()"
    };
}

/// The one with that id, which need not wait while it is new.
macro_rules! only {
    ($id:literal) => {
        concat!(
            " and s.id = ",
            $id,
            " and (s.run_at <= now() or (s.status = 'pending' and s.attempt = 0))"
        )
    };
}

/// `$1` worker, `$2` lease, `$3` limit. Another claimer's rows are skipped, never waited for.
macro_rules! claim {
    ($only:expr) => {
        concat!(
            "with candidate as (
                select s.id, s.run_at from sessions s
                where ",
            due!(),
            " and not s.cancel_requested
                  and (s.status = 'pending' or s.attempt < s.max_attempts)",
            $only,
            "
                order by s.run_at, s.id limit $3 for update of s skip locked
            ), claimed as (
                update sessions s
                set status = 'running', attempt = s.attempt + 1, worker = $1, completed_at = null,
                    run_at = now() + $2::bigint * interval '1 microsecond'
                from candidate c where s.id = c.id
                returning s.*, c.run_at as due
            ), lost as (
                update attempts a set outcome = 'lost', ended_at = now()
                from claimed c where a.session_id = c.id and a.outcome is null
            ), opened as (
                insert into attempts (session_id, number, worker) select id, attempt, worker from claimed
            )
            select ",
            session_columns!(),
            ", p.*, u.unpublished
            from claimed s
            cross join lateral (
                select id as spec_id, session_id, version, content, created_at as spec_created_at
                from specs where session_id = s.id order by version desc, created_at desc limit 1
            ) p
            left join lateral (
                select case when a.outcome is null or a.outcome = 'lost' then a.result end as unpublished
                from attempts a
                where a.session_id = s.id and (a.result is not null or a.outcome <> 'lost')
                order by a.number desc limit 1
            ) u on true
            order by s.due, s.id"
        )
    };
}

/// `$1` limit.
macro_rules! retired {
    ($only:expr) => {
        concat!(
            "select s.id, s.attempt, s.message_seq, s.cancel_requested from sessions s
             where ",
            due!(),
            "
               and (s.cancel_requested or (s.status = 'running' and s.attempt >= s.max_attempts))",
            $only,
            "
             order by s.run_at, s.id limit $1 for update of s skip locked"
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

#[tracing::instrument(name = "store.postgres.claim", skip_all, fields(worker.id = %request.worker), err)]
pub(super) async fn claim(pool: &PgPool, request: &ClaimRequest) -> Result<Vec<Claimed>, StoreError> {
    let mut transaction = pool.begin().await.map_err(database)?;
    retire(&mut transaction, request.only).await?;
    let query = match request.only {
        None => sqlx::query_as(claim!(anyone!())),
        Some(_) => sqlx::query_as(claim!(only!("$4"))),
    };
    let query = query
        .bind(request.worker.clone().storable().as_str().to_owned())
        .bind(microseconds(request.lease))
        .bind(i64::from(request.limit));
    let query = match request.only {
        None => query,
        Some(only) => query.bind(*only.as_uuid()),
    };
    let rows: Vec<ClaimedRow> = query.fetch_all(&mut *transaction).await.map_err(database)?;
    transaction.commit().await.map_err(database)?;
    all(rows)
}

/// Ends the sessions that are not to be run again.
async fn retire(connection: &mut PgConnection, only: Option<SessionId>) -> Result<(), StoreError> {
    let query = match only {
        None => sqlx::query_as(retired!(anyone!())).bind(RETIRED_AT_ONCE),
        Some(only) => sqlx::query_as(retired!(only!("$2")))
            .bind(RETIRED_AT_ONCE)
            .bind(*only.as_uuid()),
    };
    let rows: Vec<RetiredRow> = query.fetch_all(&mut *connection).await.map_err(database)?;
    for row in rows {
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
    Ok(())
}

#[tracing::instrument(name = "store.postgres.renew_leases", skip_all, fields(worker.id = %worker), err)]
pub(super) async fn renew_leases(
    pool: &PgPool,
    worker: &WorkerId,
    attempts: &[Fence],
    lease: Duration,
) -> Result<Vec<Fence>, StoreError> {
    let sessions: Vec<Uuid> = attempts.iter().map(|fence| *fence.session.as_uuid()).collect();
    let numbers: Vec<i32> = attempts
        .iter()
        .map(|fence| integer(fence.attempt.get()))
        .collect();
    let held: Vec<(Uuid, i32)> = sqlx::query_as(
        "update sessions s set run_at = now() + $4::bigint * interval '1 microsecond'
         from unnest($1::uuid[], $2::int[]) as held (session_id, attempt)
         where s.id = held.session_id and s.attempt = held.attempt and s.status = 'running' and s.worker = $3
         returning s.id, s.attempt",
    )
    .bind(sessions)
    .bind(numbers)
    .bind(worker.clone().storable().as_str().to_owned())
    .bind(microseconds(lease))
    .fetch_all(pool)
    .await
    .map_err(database)?;
    Ok(held
        .into_iter()
        .map(|(session, attempt)| Fence {
            session: SessionId::from_uuid(session),
            attempt: AttemptNumber::new(attempt.unsigned_abs()),
        })
        .collect())
}
