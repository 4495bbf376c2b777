//! Single writes that only the current attempt may do.

use fabrica_core::ids::Fence;
use fabrica_core::message::NewMessage;
use fabrica_core::ports::StoreError;
use fabrica_core::ports::store::{AttemptStart, NewArtifact, Storable as _};

use super::write::{self, hold};
use super::{SqliteStore, now};
use crate::error::database;
use crate::values::integer;

#[tracing::instrument(name = "store.sqlite.start_attempt", skip_all, fields(session.id = %fence.session), err)]
pub(super) async fn start_attempt(
    store: &SqliteStore,
    fence: Fence,
    start: AttemptStart,
) -> Result<(), StoreError> {
    let mut transaction = store.write().await?;
    hold(&mut transaction, fence).await?;
    sqlx::query("update sessions set branch_name = ?2, title = coalesce(title, ?3) where id = ?1")
        .bind(fence.session.as_uuid())
        .bind(&start.branch)
        .bind(start.title)
        .execute(&mut *transaction)
        .await
        .map_err(database)?;
    sqlx::query(
        "update attempts set container = ?3, branch = ?4, runner_token_hash = ?5, agent_token_hash = ?6
         where session_id = ?1 and number = ?2",
    )
    .bind(fence.session.as_uuid())
    .bind(integer(fence.attempt.get()))
    .bind(start.container)
    .bind(&start.branch)
    .bind(start.runner_token.as_bytes().as_slice())
    .bind(start.agent_token.as_bytes().as_slice())
    .execute(&mut *transaction)
    .await
    .map_err(database)?;
    store.commit(transaction).await
}

#[tracing::instrument(name = "store.sqlite.add_messages", skip_all, fields(session.id = %fence.session), err)]
pub(super) async fn add_messages(
    store: &SqliteStore,
    fence: Fence,
    messages: Vec<NewMessage>,
) -> Result<(), StoreError> {
    let mut transaction = store.write().await?;
    let held = hold(&mut transaction, fence).await?;
    let seq = write::add_messages(&mut transaction, fence.session, held.message_seq, &messages).await?;
    write::set_message_seq(&mut transaction, fence.session, seq).await?;
    store.commit(transaction).await
}

#[tracing::instrument(name = "store.sqlite.store_artifact", skip_all, fields(session.id = %fence.session), err)]
pub(super) async fn store_artifact(
    store: &SqliteStore,
    fence: Fence,
    artifact: NewArtifact,
) -> Result<(), StoreError> {
    let mut transaction = store.write().await?;
    hold(&mut transaction, fence).await?;
    sqlx::query(concat!(
        "insert into artifacts (id, session_id, name, attempt, content) values (?1, ?2, ?3, ?4, ?5)
         on conflict (session_id, name) do update
         set id = excluded.id, attempt = excluded.attempt, content = excluded.content, created_at = ",
        now!()
    ))
    .bind(artifact.id.as_uuid())
    .bind(fence.session.as_uuid())
    .bind(artifact.name)
    .bind(integer(fence.attempt.get()))
    .bind(artifact.content)
    .execute(&mut *transaction)
    .await
    .map_err(database)?;
    store.commit(transaction).await
}

#[tracing::instrument(name = "store.sqlite.set_pull_request", skip_all, fields(session.id = %fence.session), err)]
pub(super) async fn set_pull_request(store: &SqliteStore, fence: Fence, url: &str) -> Result<(), StoreError> {
    let mut transaction = store.write().await?;
    hold(&mut transaction, fence).await?;
    sqlx::query("update sessions set pr_url = ?2 where id = ?1")
        .bind(fence.session.as_uuid())
        .bind(url.to_owned().storable())
        .execute(&mut *transaction)
        .await
        .map_err(database)?;
    store.commit(transaction).await
}
