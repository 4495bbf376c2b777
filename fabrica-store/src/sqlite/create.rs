//! Creating a session.

use fabrica_core::ids::SessionId;
use fabrica_core::ports::StoreError;
use fabrica_core::ports::store::{Created, IDEMPOTENCY_WINDOW, NewSession};
use sqlx::SqliteConnection;
use sqlx::types::Uuid;

use super::write::add_messages;
use super::{SqliteStore, now};
use crate::error::database;
use crate::shared::other_plan;
use crate::values::{integer, microseconds};

#[tracing::instrument(name = "store.sqlite.create_session", skip_all, fields(session.id = %session.id), err)]
pub(super) async fn create_session(store: &SqliteStore, session: NewSession) -> Result<Created, StoreError> {
    let mut transaction = store.write().await?;
    free_expired(&mut transaction, &session).await?;
    if !insert(&mut transaction, &session).await? {
        let created = existing(&mut transaction, &session).await?;
        store.commit(transaction).await?;
        return Ok(created);
    }
    sqlx::query("insert into specs (id, session_id, content) values (?1, ?2, ?3)")
        .bind(session.spec.as_uuid())
        .bind(session.id.as_uuid())
        .bind(&session.content)
        .execute(&mut *transaction)
        .await
        .map_err(database)?;
    add_messages(&mut transaction, session.id, 0, &[session.message]).await?;
    store.commit(transaction).await?;
    Ok(Created::New(session.id))
}

/// Whether nothing was in the way.
async fn insert(connection: &mut SqliteConnection, session: &NewSession) -> Result<bool, StoreError> {
    let created = sqlx::query(concat!(
        "insert into sessions (id, repo_url, title, max_attempts, priority, submitter, idempotency_key, message_seq, run_at)
         values (?1, ?2, ?3, ?4, ?8, ?5, ?6, 1, ",
        now!(),
        " + ?7) on conflict do nothing"
    ))
    .bind(session.id.as_uuid())
    .bind(&session.repo_url)
    .bind(&session.title)
    .bind(integer(session.max_attempts))
    .bind(&session.submitter)
    .bind(&session.idempotency_key)
    .bind(microseconds(session.held))
    .bind(session.priority)
    .execute(connection)
    .await
    .map_err(database)?;
    Ok(created.rows_affected() == 1)
}

/// Takes the key from the session that has had it for longer than it stands for one.
async fn free_expired(connection: &mut SqliteConnection, session: &NewSession) -> Result<(), StoreError> {
    if session.idempotency_key.is_none() {
        return Ok(());
    }
    sqlx::query(concat!(
        "update sessions set idempotency_key = null where idempotency_key = ?1 and created_at <= ",
        now!(),
        " - ?2"
    ))
    .bind(&session.idempotency_key)
    .bind(microseconds(IDEMPOTENCY_WINDOW))
    .execute(connection)
    .await
    .map_err(database)?;
    Ok(())
}

async fn existing(connection: &mut SqliteConnection, session: &NewSession) -> Result<Created, StoreError> {
    let (id, by_key, same): (Uuid, bool, bool) = sqlx::query_as(
        "select s.id, coalesce(s.idempotency_key = ?2, 0) as by_key,
                coalesce((select p.content = ?3 from specs p where p.session_id = s.id order by p.version limit 1), 0)
         from sessions s where s.id = ?1 or s.idempotency_key = ?2
         order by by_key desc limit 1",
    )
    .bind(session.id.as_uuid())
    .bind(&session.idempotency_key)
    .bind(&session.content)
    .fetch_one(connection)
    .await
    .map_err(database)?;
    let id = SessionId::from_uuid(id);
    match (same, by_key) {
        (true, _) => Ok(Created::Existing(id)),
        (false, true) => Err(StoreError::IdempotencyConflict(id)),
        (false, false) => Err(other_plan(id)),
    }
}
