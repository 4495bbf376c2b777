//! Notes of people to agents. Whoever adds one holds the database's write lock.

use fabrica_core::ids::SessionId;
use fabrica_core::ports::StoreError;
use fabrica_core::ports::store::{NewNote, Note, Said};
use fabrica_core::session::SessionStatus;
use sqlx::{SqliteConnection, SqlitePool};

use super::SqliteStore;
use super::write::{After, add_messages, set_message_seq, set_status};
use crate::error::database;
use crate::notes::NoteRow;
use crate::rows::{all, status};
use crate::values::integer;

#[tracing::instrument(name = "store.sqlite.say", skip_all, fields(session.id = %note.session), err)]
pub(super) async fn say(store: &SqliteStore, note: NewNote) -> Result<Said, StoreError> {
    let session = note.session;
    let mut transaction = store.write().await?;
    let (name, seq, attempt, max_attempts): (String, i64, i32, i32) =
        sqlx::query_as("select status, message_seq, attempt, max_attempts from sessions where id = ?1")
            .bind(session.as_uuid())
            .fetch_optional(&mut *transaction)
            .await
            .map_err(database)?
            .ok_or(StoreError::NoSuchSession(session))?;
    let status = status(session, &name)?;
    if status == SessionStatus::Escalated {
        return Err(StoreError::WaitsForAnswer(session));
    }
    let row: NoteRow = sqlx::query_as(
        "insert into notes (id, session_id, number, author, text)
         select ?1, ?2, coalesce(max(number), 0) + 1, ?3, ?4 from notes where session_id = ?2
         returning id, session_id, number, author, text, created_at",
    )
    .bind(note.id.as_uuid())
    .bind(session.as_uuid())
    .bind(&note.by)
    .bind(&note.text)
    .fetch_one(&mut *transaction)
    .await
    .map_err(database)?;
    let stored: Note = row.try_into()?;
    let seq = add_messages(&mut transaction, session, seq, &[note.message]).await?;
    let said = if status.is_terminal() {
        let granted = attempt
            .saturating_add(integer(note.attempts.max(1)))
            .saturating_sub(max_attempts);
        let after = After {
            granted,
            ..After::now(seq)
        };
        set_status(&mut transaction, session, SessionStatus::Pending, after).await?;
        sqlx::query("update sessions set cancel_requested = false where id = ?1")
            .bind(session.as_uuid())
            .execute(&mut *transaction)
            .await
            .map_err(database)?;
        Said::Continued(stored)
    } else {
        set_message_seq(&mut transaction, session, seq).await?;
        Said::Queued(stored)
    };
    store.commit(transaction).await?;
    Ok(said)
}

#[tracing::instrument(name = "store.sqlite.notes", skip_all, fields(session.id = %session), err)]
pub(super) async fn notes(
    pool: &SqlitePool,
    session: SessionId,
    after: u32,
) -> Result<Vec<Note>, StoreError> {
    let rows: Vec<NoteRow> = sqlx::query_as(
        "select id, session_id, number, author, text, created_at
         from notes where session_id = ?1 and number > ?2 order by number",
    )
    .bind(session.as_uuid())
    .bind(integer(after))
    .fetch_all(pool)
    .await
    .map_err(database)?;
    all(rows)
}

/// The number of a session's last note; 0 if there is none.
pub(super) async fn last(connection: &mut SqliteConnection, session: SessionId) -> Result<u32, StoreError> {
    let number: i32 = sqlx::query_scalar("select coalesce(max(number), 0) from notes where session_id = ?1")
        .bind(session.as_uuid())
        .fetch_one(connection)
        .await
        .map_err(database)?;
    Ok(number.unsigned_abs())
}
