//! Single writes that only the current attempt may do.

use fabrica_core::ids::Fence;
use fabrica_core::message::NewMessage;
use fabrica_core::ports::StoreError;
use fabrica_core::ports::store::{AttemptStart, NewArtifact, Storable as _};
use sqlx::PgPool;
use sqlx::postgres::PgQueryResult;

use super::write;
use crate::error::database;
use crate::values::{bigint, integer};

/// A write that met no row met no current attempt under its current lease.
fn accepted(fence: Fence, outcome: Result<PgQueryResult, sqlx::Error>) -> Result<(), StoreError> {
    match outcome.map_err(database)?.rows_affected() {
        0 => Err(StoreError::Fenced(fence)),
        _ => Ok(()),
    }
}

#[tracing::instrument(name = "store.postgres.start_attempt", skip_all, fields(session.id = %fence.session), err)]
pub(super) async fn start_attempt(
    pool: &PgPool,
    fence: Fence,
    start: AttemptStart,
) -> Result<(), StoreError> {
    let outcome = sqlx::query(
        "with session as (
             update sessions set branch_name = $4, title = coalesce(title, $5)
             where id = $1 and attempt = $2 and lease = $8 and status = 'running'
             returning id, attempt
         )
         update attempts a set container = $3, branch = $4, runner_token_hash = $6, agent_token_hash = $7
         from session s where a.session_id = s.id and a.number = s.attempt",
    )
    .bind(fence.session.as_uuid())
    .bind(integer(fence.attempt.get()))
    .bind(start.container)
    .bind(start.branch)
    .bind(start.title)
    .bind(start.runner_token.as_bytes().as_slice())
    .bind(start.agent_token.as_bytes().as_slice())
    .bind(bigint(fence.lease.get()))
    .execute(pool)
    .await;
    accepted(fence, outcome)
}

#[tracing::instrument(name = "store.postgres.add_messages", skip_all, fields(session.id = %fence.session), err)]
pub(super) async fn add_messages(
    pool: &PgPool,
    fence: Fence,
    messages: Vec<NewMessage>,
) -> Result<(), StoreError> {
    let mut transaction = pool.begin().await.map_err(database)?;
    let held = write::hold(&mut transaction, fence).await?;
    let seq = write::add_messages(&mut transaction, fence.session, held.message_seq, &messages).await?;
    write::set_message_seq(&mut transaction, fence.session, seq).await?;
    transaction.commit().await.map_err(database)
}

/// `for share`: a takeover waits for the artifact, and the other way round.
#[tracing::instrument(name = "store.postgres.store_artifact", skip_all, fields(session.id = %fence.session), err)]
pub(super) async fn store_artifact(
    pool: &PgPool,
    fence: Fence,
    artifact: NewArtifact,
) -> Result<(), StoreError> {
    let outcome = sqlx::query(
        "insert into artifacts (id, session_id, name, attempt, content)
         select $3, s.id, $4, s.attempt, $5
         from sessions s where s.id = $1 and s.attempt = $2 and s.lease = $6 and s.status = 'running' for share
         on conflict (session_id, name) do update
         set id = excluded.id, attempt = excluded.attempt, content = excluded.content, created_at = now()",
    )
    .bind(fence.session.as_uuid())
    .bind(integer(fence.attempt.get()))
    .bind(artifact.id.as_uuid())
    .bind(artifact.name)
    .bind(artifact.content)
    .bind(bigint(fence.lease.get()))
    .execute(pool)
    .await;
    accepted(fence, outcome)
}

#[tracing::instrument(name = "store.postgres.set_pull_request", skip_all, fields(session.id = %fence.session), err)]
pub(super) async fn set_pull_request(pool: &PgPool, fence: Fence, url: &str) -> Result<(), StoreError> {
    let outcome =
        sqlx::query("update sessions set pr_url = $3 where id = $1 and attempt = $2 and lease = $4 and status = 'running'")
            .bind(fence.session.as_uuid())
            .bind(integer(fence.attempt.get()))
            .bind(url.to_owned().storable())
            .bind(bigint(fence.lease.get()))
            .execute(pool)
            .await;
    accepted(fence, outcome)
}
