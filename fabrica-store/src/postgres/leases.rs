//! Keeping leases and giving them up. Rows are locked in the order of their ids, so that nobody waits in a circle.

use std::time::Duration;

use fabrica_core::ids::{AttemptNumber, Fence, LeaseNumber, SessionId, WorkerId};
use fabrica_core::ports::StoreError;
use fabrica_core::ports::store::Storable as _;
use sqlx::PgPool;
use sqlx::types::Uuid;

use crate::error::database;
use crate::values::{bigint, integer, microseconds};

/// Fences, column by column.
fn columns(fences: &[Fence]) -> (Vec<Uuid>, Vec<i32>, Vec<i64>) {
    (
        fences.iter().map(|fence| *fence.session.as_uuid()).collect(),
        fences.iter().map(|fence| integer(fence.attempt.get())).collect(),
        fences.iter().map(|fence| bigint(fence.lease.get())).collect(),
    )
}

#[tracing::instrument(name = "store.postgres.renew_leases", skip_all, fields(worker.id = %worker), err)]
pub(super) async fn renew_leases(
    pool: &PgPool,
    worker: &WorkerId,
    attempts: &[Fence],
    lease: Duration,
) -> Result<Vec<Fence>, StoreError> {
    let (sessions, numbers, leases) = columns(attempts);
    let held: Vec<(Uuid, i32, i64)> = sqlx::query_as(
        "with held as (
             select s.id from sessions s
             join unnest($1::uuid[], $2::int[], $3::bigint[]) as f (session_id, attempt, lease)
                 on s.id = f.session_id and s.attempt = f.attempt and s.lease = f.lease
             where s.status = 'running' and s.worker = $4
             order by s.id for no key update of s
         )
         update sessions s set run_at = now() + $5::bigint * interval '1 microsecond'
         from held where s.id = held.id
         returning s.id, s.attempt, s.lease",
    )
    .bind(sessions)
    .bind(numbers)
    .bind(leases)
    .bind(worker.clone().storable().as_str().to_owned())
    .bind(microseconds(lease))
    .fetch_all(pool)
    .await
    .map_err(database)?;
    Ok(held
        .into_iter()
        .map(|(session, attempt, lease)| Fence {
            session: SessionId::from_uuid(session),
            attempt: AttemptNumber::new(attempt.unsigned_abs()),
            lease: LeaseNumber::new(lease.unsigned_abs()),
        })
        .collect())
}

#[tracing::instrument(name = "store.postgres.release_leases", skip_all, fields(worker.id = %worker), err)]
pub(super) async fn release_leases(
    pool: &PgPool,
    worker: &WorkerId,
    only: Option<Vec<Fence>>,
) -> Result<u64, StoreError> {
    let all = only.is_none();
    let (sessions, numbers, leases) = columns(&only.unwrap_or_default());
    let released = sqlx::query(
        "with held as (
             select s.id from sessions s
             where s.status = 'running' and s.attempt > 0 and s.worker = $4
               and ($5 or (s.id, s.attempt, s.lease) in (select * from unnest($1::uuid[], $2::int[], $3::bigint[])))
             order by s.id for no key update of s
         )
         update sessions s set worker = null, run_at = now() from held where s.id = held.id",
    )
    .bind(sessions)
    .bind(numbers)
    .bind(leases)
    .bind(worker.clone().storable().as_str().to_owned())
    .bind(all)
    .execute(pool)
    .await
    .map_err(database)?;
    Ok(released.rows_affected())
}
