//! Reading sessions and what belongs to them.

use fabrica_core::ids::{MessageId, SessionId};
use fabrica_core::ports::StoreError;
use fabrica_core::ports::store::{SessionFilter, SessionState, Storable as _, StoredTranscript};
use fabrica_core::session::{Session, Spec};
use sqlx::PgPool;

use crate::error::database;
use crate::rows::{SessionRow, SpecRow, StateRow, TranscriptRow, all, session_columns};
use crate::values::bigint;

#[tracing::instrument(name = "store.postgres.session", skip_all, fields(session.id = %id), err)]
pub(super) async fn session(pool: &PgPool, id: SessionId) -> Result<Option<Session>, StoreError> {
    let row: Option<SessionRow> = sqlx::query_as(concat!(
        "select ",
        session_columns!(),
        " from sessions s where s.id = $1"
    ))
    .bind(id.as_uuid())
    .fetch_optional(pool)
    .await
    .map_err(database)?;
    row.map(TryInto::try_into).transpose()
}

#[tracing::instrument(name = "store.postgres.session_states", skip_all, err)]
pub(super) async fn session_states(
    pool: &PgPool,
    ids: &[SessionId],
) -> Result<Vec<SessionState>, StoreError> {
    let rows: Vec<StateRow> = sqlx::query_as(
        "select s.id, s.status, s.attempt, (extract(epoch from now() - s.completed_at) * 1000000)::bigint as ended
         from sessions s where s.id = any ($1)",
    )
    .bind(ids.iter().map(|id| *id.as_uuid()).collect::<Vec<_>>())
    .fetch_all(pool)
    .await
    .map_err(database)?;
    all(rows)
}

macro_rules! list {
    ($after:literal) => {
        concat!(
            "select ",
            session_columns!(),
            " from sessions s where (cardinality($1::text[]) = 0 or s.status = any ($1))",
            $after,
            " order by s.created_at desc, s.id desc limit $2"
        )
    };
}

#[tracing::instrument(name = "store.postgres.sessions", skip_all, err)]
pub(super) async fn sessions(
    pool: &PgPool,
    filter: &SessionFilter,
    limit: u32,
) -> Result<Vec<Session>, StoreError> {
    let statuses: Vec<_> = filter.statuses.iter().map(|status| status.as_str()).collect();
    let query = match filter.before {
        None => sqlx::query_as(list!("")).bind(statuses).bind(i64::from(limit)),
        Some(before) => sqlx::query_as(list!(
            " and (s.created_at, s.id) < (select b.created_at, b.id from sessions b where b.id = $3)"
        ))
        .bind(statuses)
        .bind(i64::from(limit))
        .bind(*before.as_uuid()),
    };
    let rows: Vec<SessionRow> = query.fetch_all(pool).await.map_err(database)?;
    all(rows)
}

#[tracing::instrument(name = "store.postgres.specs", skip_all, fields(session.id = %session), err)]
pub(super) async fn specs(pool: &PgPool, session: SessionId) -> Result<Vec<Spec>, StoreError> {
    let rows: Vec<SpecRow> = sqlx::query_as(
        "select id as spec_id, session_id, version, content, created_at as spec_created_at
         from specs where session_id = $1 order by version, created_at",
    )
    .bind(session.as_uuid())
    .fetch_all(pool)
    .await
    .map_err(database)?;
    all(rows)
}

#[tracing::instrument(name = "store.postgres.mark_read", skip_all, fields(message.id = %message), err)]
pub(super) async fn mark_read(pool: &PgPool, message: MessageId) -> Result<bool, StoreError> {
    let marked = sqlx::query("update messages set read_at = coalesce(read_at, now()) where id = $1")
        .bind(message.as_uuid())
        .execute(pool)
        .await
        .map_err(database)?;
    Ok(marked.rows_affected() == 1)
}

#[tracing::instrument(name = "store.postgres.transcript", skip_all, fields(session.id = %session), err)]
pub(super) async fn transcript(
    pool: &PgPool,
    session: SessionId,
    after: u64,
    limit: u32,
) -> Result<Vec<StoredTranscript>, StoreError> {
    let rows: Vec<TranscriptRow> = sqlx::query_as(
        "select session_id, seq, attempt, at, kind, parent, summary, detail
         from transcript where session_id = $1 and seq > $2 order by seq limit $3",
    )
    .bind(session.as_uuid())
    .bind(bigint(after))
    .bind(i64::from(limit))
    .fetch_all(pool)
    .await
    .map_err(database)?;
    all(rows)
}

#[tracing::instrument(name = "store.postgres.artifact", skip_all, fields(session.id = %session), err)]
pub(super) async fn artifact(
    pool: &PgPool,
    session: SessionId,
    name: &str,
) -> Result<Option<Vec<u8>>, StoreError> {
    sqlx::query_scalar("select content from artifacts where session_id = $1 and name = $2")
        .bind(session.as_uuid())
        .bind(name.to_owned().storable())
        .fetch_optional(pool)
        .await
        .map_err(database)
}
