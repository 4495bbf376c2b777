//! Steps that several transactions share.

use fabrica_core::ids::{Fence, SessionId};
use fabrica_core::message::NewMessage;
use fabrica_core::ports::StoreError;
use fabrica_core::session::SessionStatus;
use sqlx::PgConnection;

use crate::error::database;
use crate::shared::Standing;
use crate::values::{bigint, integer};

/// What a writer has to know of the attempt that it writes for.
#[derive(sqlx::FromRow)]
pub(super) struct Held {
    pub(super) message_seq: i64,
    pub(super) cancel_requested: bool,
    pub(super) attempts_left: bool,
    pub(super) uncounted: i32,
}

impl Held {
    pub(super) const fn standing(&self) -> Standing {
        Standing {
            attempts_left: self.attempts_left,
            uncounted: self.uncounted,
            cancel_requested: self.cancel_requested,
        }
    }
}

/// Locks the session, and with it the numbers of its messages, for the current attempt under its current lease and
/// nobody else.
pub(super) async fn hold(connection: &mut PgConnection, fence: Fence) -> Result<Held, StoreError> {
    sqlx::query_as(
        "select s.message_seq, s.cancel_requested, s.attempt < s.max_attempts as attempts_left, s.uncounted
         from sessions s
         where s.id = $1 and s.attempt = $2 and s.lease = $3 and s.status = 'running'
         for no key update of s",
    )
    .bind(fence.session.as_uuid())
    .bind(integer(fence.attempt.get()))
    .bind(bigint(fence.lease.get()))
    .fetch_optional(connection)
    .await
    .map_err(database)?
    .ok_or(StoreError::Fenced(fence))
}

/// Inserts messages after that sequence number and returns the last one. The caller holds the session's row and
/// writes the number back.
pub(super) async fn add_messages(
    connection: &mut PgConnection,
    session: SessionId,
    after: i64,
    messages: &[NewMessage],
) -> Result<i64, StoreError> {
    if messages.is_empty() {
        return Ok(after);
    }
    let ids: Vec<_> = messages.iter().map(|message| *message.id.as_uuid()).collect();
    let types: Vec<_> = messages.iter().map(|message| message.kind.as_str()).collect();
    let contents: Vec<_> = messages
        .iter()
        .map(|message| sqlx::types::Json(&message.content))
        .collect();
    let inserted = sqlx::query(
        "insert into messages (id, session_id, type, content, seq)
         select m.id, $1, m.type, m.content, $2 + m.place
         from unnest($3::uuid[], $4::text[], $5::jsonb[]) with ordinality as m (id, type, content, place)
         order by m.place",
    )
    .bind(session.as_uuid())
    .bind(after)
    .bind(ids)
    .bind(types)
    .bind(contents)
    .execute(connection)
    .await
    .map_err(database)?;
    Ok(after.saturating_add_unsigned(inserted.rows_affected()))
}

/// Adds a message to a session whose row the caller holds, and changes nothing else of it.
pub(super) async fn add_message(
    connection: &mut PgConnection,
    session: SessionId,
    after: i64,
    message: NewMessage,
) -> Result<(), StoreError> {
    let seq = add_messages(connection, session, after, &[message]).await?;
    set_message_seq(connection, session, seq).await
}

/// Writes the last sequence number of a session's messages.
pub(super) async fn set_message_seq(
    connection: &mut PgConnection,
    session: SessionId,
    seq: i64,
) -> Result<(), StoreError> {
    sqlx::query("update sessions set message_seq = $2 where id = $1")
        .bind(session.as_uuid())
        .bind(seq)
        .execute(connection)
        .await
        .map_err(database)?;
    Ok(())
}

/// What a session's new status brings with it.
#[derive(Debug, Clone, Copy)]
pub(super) struct After {
    /// How long it waits, in microseconds, if it is pending.
    pub(super) delay: i64,
    /// How many attempts it gets in place of one that does not count.
    pub(super) replaced: i32,
    /// How many attempts it gets on top.
    pub(super) granted: i32,
    /// The last sequence number of its messages.
    pub(super) message_seq: i64,
}

impl After {
    /// Without delay and without another attempt.
    pub(super) const fn now(message_seq: i64) -> Self {
        Self {
            delay: 0,
            replaced: 0,
            granted: 0,
            message_seq,
        }
    }
}

/// Ends the session, or sends it back to wait, and writes the last sequence number of its messages.
pub(super) async fn set_status(
    connection: &mut PgConnection,
    session: SessionId,
    status: SessionStatus,
    after: After,
) -> Result<(), StoreError> {
    sqlx::query(
        "update sessions
         set status = $2, worker = null, run_at = now() + $3::bigint * interval '1 microsecond', message_seq = $4,
             completed_at = case when $5 then now() end, uncounted = uncounted + $6,
             max_attempts = least(max_attempts::bigint + $6 + $7, 2147483647)
         where id = $1",
    )
    .bind(session.as_uuid())
    .bind(status.as_str())
    .bind(after.delay)
    .bind(after.message_seq)
    .bind(status.is_terminal())
    .bind(after.replaced)
    .bind(after.granted)
    .execute(connection)
    .await
    .map_err(database)?;
    Ok(())
}

/// Ends the attempts of a session that have not ended.
pub(super) async fn end_attempts(
    connection: &mut PgConnection,
    session: SessionId,
    outcome: &str,
    failure: Option<&fabrica_core::failure::Failure>,
) -> Result<(), StoreError> {
    sqlx::query(
        "update attempts set outcome = $2, failure = $3, ended_at = now() where session_id = $1 and outcome is null",
    )
    .bind(session.as_uuid())
    .bind(outcome)
    .bind(failure.map(sqlx::types::Json))
    .execute(connection)
    .await
    .map_err(database)?;
    Ok(())
}
