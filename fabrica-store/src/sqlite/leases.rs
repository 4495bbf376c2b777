//! Keeping leases and giving them up.

use std::time::Duration;

use fabrica_core::ids::{Fence, WorkerId};
use fabrica_core::ports::StoreError;
use fabrica_core::ports::store::Storable as _;

use super::write::json_rows;
use super::{SqliteStore, now};
use crate::error::database;
use crate::values::{bigint, integer, microseconds};

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
            " + ?5
             where id = ?1 and attempt = ?2 and lease = ?3 and status = 'running' and worker = ?4"
        ))
        .bind(fence.session.as_uuid())
        .bind(integer(fence.attempt.get()))
        .bind(bigint(fence.lease.get()))
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

#[tracing::instrument(name = "store.sqlite.release_leases", skip_all, fields(worker.id = %worker), err)]
pub(super) async fn release_leases(
    store: &SqliteStore,
    worker: &WorkerId,
    only: Option<Vec<Fence>>,
) -> Result<u64, StoreError> {
    let worker = worker.clone().storable();
    let mut transaction = store.write().await?;
    // One statement, so one moment.
    let only = only.map(|fences| {
        json_rows(fences.iter().map(|fence| {
            let session = fence.session.as_uuid().simple().to_string();
            (session, fence.attempt.get(), bigint(fence.lease.get()))
        }))
    });
    let released = sqlx::query(concat!(
        "update sessions set worker = null, run_at = ",
        now!(),
        " where status = 'running' and attempt > 0 and worker = ?1
            and (?2 is null or (id, attempt, lease) in (
                select unhex(f.value ->> 0), f.value ->> 1, f.value ->> 2 from json_each(?2) f
            ))"
    ))
    .bind(worker.as_str())
    .bind(only.transpose()?)
    .execute(&mut *transaction)
    .await
    .map_err(database)?;
    store.commit(transaction).await?;
    Ok(released.rows_affected())
}
