//! Creating a session.

use fabrica_core::ids::SessionId;
use fabrica_core::ports::StoreError;
use fabrica_core::ports::store::{Created, NewSession};
use sqlx::PgPool;
use sqlx::types::{Json, Uuid};

use crate::error::database;
use crate::shared::other_plan;
use crate::values::{integer, microseconds};

/// One statement, so one round trip.
const CREATE: &str = "
    with created as (
        insert into sessions (id, repo_url, title, max_attempts, submitter, idempotency_key, message_seq, run_at)
        values ($1, $2, $3, $4, $5, $6, 1, now() + $12::bigint * interval '1 microsecond')
        on conflict do nothing
        returning id
    ), spec as (
        insert into specs (id, session_id, content) select $7, id, $8 from created
    )
    insert into messages (id, session_id, type, content, seq) select $9, id, $10, $11, 1 from created";

#[tracing::instrument(name = "store.postgres.create_session", skip_all, fields(session.id = %session.id), err)]
pub(super) async fn create_session(pool: &PgPool, session: NewSession) -> Result<Created, StoreError> {
    let created = sqlx::query(CREATE)
        .bind(session.id.as_uuid())
        .bind(&session.repo_url)
        .bind(&session.title)
        .bind(integer(session.max_attempts))
        .bind(&session.submitter)
        .bind(&session.idempotency_key)
        .bind(session.spec.as_uuid())
        .bind(&session.content)
        .bind(session.message.id.as_uuid())
        .bind(session.message.kind.as_str())
        .bind(Json(&session.message.content))
        .bind(microseconds(session.held))
        .execute(pool)
        .await
        .map_err(database)?;
    if created.rows_affected() == 1 {
        Ok(Created::New(session.id))
    } else {
        existing(pool, &session).await
    }
}

async fn existing(pool: &PgPool, session: &NewSession) -> Result<Created, StoreError> {
    let (id, by_key, same): (Uuid, bool, bool) = sqlx::query_as(
        "select s.id, coalesce(s.idempotency_key = $2, false),
                coalesce((select p.content = $3 from specs p where p.session_id = s.id order by p.version limit 1), false)
         from sessions s where s.id = $1 or s.idempotency_key = $2
         order by 2 desc limit 1",
    )
    .bind(session.id.as_uuid())
    .bind(&session.idempotency_key)
    .bind(&session.content)
    .fetch_one(pool)
    .await
    .map_err(database)?;
    let id = SessionId::from_uuid(id);
    match (same, by_key) {
        (true, _) => Ok(Created::Existing(id)),
        (false, true) => Err(StoreError::IdempotencyConflict(id)),
        (false, false) => Err(other_plan(id)),
    }
}
