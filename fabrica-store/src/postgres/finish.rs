//! How attempts end, and sessions with them.

use fabrica_core::ids::{Fence, SessionId};
use fabrica_core::message::NewMessage;
use fabrica_core::ports::StoreError;
use fabrica_core::ports::store::{AttemptEnd, CancelOutcome};
use fabrica_core::session::SessionStatus;
use sqlx::PgPool;

use super::write::{After, add_messages, end_attempts, hold, set_status};
use super::{asking, saying};
use crate::error::database;
use crate::rows::status;
use crate::shared::Ending;
use crate::values::microseconds;

#[tracing::instrument(
    name = "store.postgres.finish_attempt",
    skip_all,
    fields(session.id = %fence.session, attempt.number = %fence.attempt),
    err
)]
pub(super) async fn finish_attempt(
    pool: &PgPool,
    fence: Fence,
    end: AttemptEnd,
    messages: Vec<NewMessage>,
) -> Result<SessionStatus, StoreError> {
    let mut transaction = pool.begin().await.map_err(database)?;
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
    transaction.commit().await.map_err(database)?;
    Ok(ending.status)
}

#[tracing::instrument(name = "store.postgres.request_cancel", skip_all, fields(session.id = %id), err)]
pub(super) async fn request_cancel(
    pool: &PgPool,
    id: SessionId,
    message: NewMessage,
) -> Result<CancelOutcome, StoreError> {
    let mut transaction = pool.begin().await.map_err(database)?;
    let (name, seq): (String, i64) =
        sqlx::query_as("select status, message_seq from sessions where id = $1 for no key update")
            .bind(id.as_uuid())
            .fetch_optional(&mut *transaction)
            .await
            .map_err(database)?
            .ok_or(StoreError::NoSuchSession(id))?;
    let status = status(id, &name)?;
    if status.is_terminal() {
        return Ok(CancelOutcome::AlreadyTerminal(status));
    }
    sqlx::query("update sessions set cancel_requested = true where id = $1")
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
    transaction.commit().await.map_err(database)?;
    Ok(outcome)
}
