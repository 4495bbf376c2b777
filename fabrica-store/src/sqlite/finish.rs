//! How attempts end, and sessions with them; and what becomes of messages.

use fabrica_core::ids::{Fence, MessageId, SessionId};
use fabrica_core::message::NewMessage;
use fabrica_core::ports::StoreError;
use fabrica_core::ports::store::{AttemptEnd, CancelOutcome};
use fabrica_core::session::SessionStatus;

use super::write::{After, add_messages, end_attempts, hold, set_status};
use super::{SqliteStore, now};
use super::{asking, saying};
use crate::error::database;
use crate::rows::status;
use crate::shared::Ending;
use crate::values::microseconds;

#[tracing::instrument(
    name = "store.sqlite.finish_attempt",
    skip_all,
    fields(session.id = %fence.session, attempt.number = %fence.attempt),
    err
)]
pub(super) async fn finish_attempt(
    store: &SqliteStore,
    fence: Fence,
    end: AttemptEnd,
    messages: Vec<NewMessage>,
) -> Result<SessionStatus, StoreError> {
    let mut transaction = store.write().await?;
    let held = hold(&mut transaction, fence).await?;
    // A statement of its own: it sees what was said until the lock was granted.
    let unheard = match end {
        AttemptEnd::Completed { heard } => saying::last(&mut transaction, fence.session).await? > heard,
        _ => false,
    };
    let mut ending = Ending::of(fence.session, end, held.standing())?;
    if unheard {
        ending = ending.going_on();
    }
    let seq = add_messages(&mut transaction, fence.session, held.message_seq, &messages).await?;
    let after = After {
        delay: microseconds(ending.delay),
        replaced: ending.replaced,
        granted: ending.granted,
        ..After::now(seq)
    };
    set_status(&mut transaction, fence.session, ending.status, after).await?;
    end_attempts(
        &mut transaction,
        fence.session,
        ending.outcome,
        ending.failure.as_ref(),
    )
    .await?;
    if let Some(question) = &ending.question {
        asking::ask(&mut transaction, fence, question).await?;
    }
    store.commit(transaction).await?;
    Ok(ending.status)
}

#[tracing::instrument(name = "store.sqlite.request_cancel", skip_all, fields(session.id = %id), err)]
pub(super) async fn request_cancel(
    store: &SqliteStore,
    id: SessionId,
    message: NewMessage,
) -> Result<CancelOutcome, StoreError> {
    let mut transaction = store.write().await?;
    let (name, seq): (String, i64) = sqlx::query_as("select status, message_seq from sessions where id = ?1")
        .bind(id.as_uuid())
        .fetch_optional(&mut *transaction)
        .await
        .map_err(database)?
        .ok_or(StoreError::NoSuchSession(id))?;
    let status = status(id, &name)?;
    if status.is_terminal() {
        return Ok(CancelOutcome::AlreadyTerminal(status));
    }
    sqlx::query("update sessions set cancel_requested = 1 where id = ?1")
        .bind(id.as_uuid())
        .execute(&mut *transaction)
        .await
        .map_err(database)?;
    let outcome = if status == SessionStatus::Running {
        CancelOutcome::Requested
    } else {
        let seq = add_messages(&mut transaction, id, seq, &[message]).await?;
        set_status(&mut transaction, id, SessionStatus::Cancelled, After::now(seq)).await?;
        if status == SessionStatus::Escalated {
            asking::close(&mut transaction, id).await?;
        }
        CancelOutcome::Cancelled
    };
    store.commit(transaction).await?;
    Ok(outcome)
}

#[tracing::instrument(name = "store.sqlite.mark_read", skip_all, fields(message.id = %message), err)]
pub(super) async fn mark_read(store: &SqliteStore, message: MessageId) -> Result<bool, StoreError> {
    let mut transaction = store.write().await?;
    let marked = sqlx::query(concat!(
        "update messages set read_at = coalesce(read_at, ",
        now!(),
        ") where id = ?1"
    ))
    .bind(message.as_uuid())
    .execute(&mut *transaction)
    .await
    .map_err(database)?;
    store.commit(transaction).await?;
    Ok(marked.rows_affected() == 1)
}
