//! Creating a session.

use fabrica_core::ids::SessionId;
use fabrica_core::ports::StoreError;
use fabrica_core::ports::store::{Created, IDEMPOTENCY_WINDOW, NewSession};
use sqlx::types::{Json, Uuid};
use sqlx::{PgConnection, PgPool};

use crate::error::database;
use crate::shared::other_plan;
use crate::values::{integer, microseconds};

/// One statement, so one round trip.
const CREATE: &str = "
    with created as (
        insert into sessions (id, repo_url, title, max_attempts, priority, submitter, idempotency_key, message_seq, run_at)
        values ($1, $2, $3, $4, $13, $5, $6, 1, now() + $12::bigint * interval '1 microsecond')
        on conflict do nothing
        returning id
    ), spec as (
        insert into specs (id, session_id, content) select $7, id, $8 from created
    )
    insert into messages (id, session_id, type, content, seq) select $9, id, $10, $11, 1 from created";

#[tracing::instrument(name = "store.postgres.create_session", skip_all, fields(session.id = %session.id), err)]
pub(super) async fn create_session(pool: &PgPool, session: NewSession) -> Result<Created, StoreError> {
    loop {
        let mut connection = pool.acquire().await.map_err(database)?;
        if insert(&mut connection, &session).await? {
            return Ok(Created::New(session.id));
        }
        drop(connection);
        // Somebody was there before, which may be long ago.
        let mut transaction = pool.begin().await.map_err(database)?;
        let freed = free_expired(&mut transaction, &session).await?;
        let created = if freed && insert(&mut transaction, &session).await? {
            Some(Created::New(session.id))
        } else {
            existing(&mut transaction, &session).await?
        };
        transaction.commit().await.map_err(database)?;
        // Whoever was in the way may have been removed meanwhile.
        if let Some(created) = created {
            return Ok(created);
        }
    }
}

/// Whether nothing was in the way.
async fn insert(connection: &mut PgConnection, session: &NewSession) -> Result<bool, StoreError> {
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
        .bind(session.priority)
        .execute(connection)
        .await
        .map_err(database)?;
    Ok(created.rows_affected() == 1)
}

/// Takes the key from the session that has had it for longer than it stands for one.
async fn free_expired(connection: &mut PgConnection, session: &NewSession) -> Result<bool, StoreError> {
    let freed = sqlx::query(
        "update sessions set idempotency_key = null
         where idempotency_key = $1 and created_at <= now() - $2::bigint * interval '1 microsecond'",
    )
    .bind(&session.idempotency_key)
    .bind(microseconds(IDEMPOTENCY_WINDOW))
    .execute(connection)
    .await
    .map_err(database)?;
    Ok(freed.rows_affected() > 0)
}

async fn existing(
    connection: &mut PgConnection,
    session: &NewSession,
) -> Result<Option<Created>, StoreError> {
    let found: Option<(Uuid, bool, bool)> = sqlx::query_as(
        "select s.id, coalesce(s.idempotency_key = $2, false),
                coalesce((select p.content = $3 from specs p where p.session_id = s.id order by p.version limit 1), false)
         from sessions s where s.id = $1 or s.idempotency_key = $2
         order by 2 desc limit 1",
    )
    .bind(session.id.as_uuid())
    .bind(&session.idempotency_key)
    .bind(&session.content)
    .fetch_optional(connection)
    .await
    .map_err(database)?;
    let Some((id, by_key, same)) = found else {
        return Ok(None);
    };
    let id = SessionId::from_uuid(id);
    match (same, by_key) {
        (true, _) => Ok(Some(Created::Existing(id))),
        (false, true) => Err(StoreError::IdempotencyConflict(id)),
        (false, false) => Err(other_plan(id)),
    }
}
