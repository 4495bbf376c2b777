//! Questions to people, and their answers. Whoever changes one holds the database's write lock.

use fabrica_core::ids::{Fence, QuestionId, SessionId};
use fabrica_core::message::NewMessage;
use fabrica_core::ports::StoreError;
use fabrica_core::ports::store::{Answered, Due, NewAnswer, NewQuestion, Question};
use fabrica_core::session::SessionStatus;
use sqlx::types::{Json, Uuid};
use sqlx::{SqliteConnection, SqlitePool};

use super::write::{After, add_message, add_messages, json_rows, set_status};
use super::{SqliteStore, now};
use crate::error::database;
use crate::questions::{DueRow, QuestionRow, Waiting, answered_before, open_question, question_columns};
use crate::rows::{ClaimedRow, all, readable, status};
use crate::values::integer;

/// Stores what an attempt asks at its end.
pub(super) async fn ask(
    connection: &mut SqliteConnection,
    fence: Fence,
    question: &NewQuestion,
) -> Result<(), StoreError> {
    // Another program may have sent the session on without an answer.
    close(connection, fence.session).await?;
    let waiting = Waiting::of(question);
    sqlx::query(concat!(
        "insert into questions (id, session_id, attempt, question, options, context, urgency, on_deadline, asked_at, due_at,
                                deadline)
         select ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, p.now, p.now + ?9, p.now + ?10
         from (select ",
        now!(),
        " as now) p"
    ))
    .bind(question.id.as_uuid())
    .bind(fence.session.as_uuid())
    .bind(integer(fence.attempt.get()))
    .bind(&question.escalation.question)
    .bind(Json(&question.escalation.options))
    .bind(&question.escalation.context)
    .bind(question.escalation.urgency.as_str())
    .bind(waiting.then.as_str())
    .bind(waiting.reminder)
    .bind(waiting.deadline)
    .execute(connection)
    .await
    .map_err(database)?;
    Ok(())
}

/// Nobody waits for an answer any more.
pub(super) async fn close(connection: &mut SqliteConnection, session: SessionId) -> Result<(), StoreError> {
    sqlx::query(concat!(
        "update questions set closed_at = ",
        now!(),
        " where session_id = ?1 and ",
        open_question!()
    ))
    .bind(session.as_uuid())
    .execute(connection)
    .await
    .map_err(database)?;
    Ok(())
}

/// The newest questions of those sessions, as far as they have answers. A first attempt has none before it, so most
/// claims need not look.
pub(super) async fn answered(
    connection: &mut SqliteConnection,
    claimed: &[ClaimedRow],
) -> Result<Vec<QuestionRow>, StoreError> {
    let ids: Vec<_> = claimed.iter().filter_map(ClaimedRow::may_have_asked).collect();
    if ids.is_empty() {
        return Ok(vec![]);
    }
    sqlx::query_as(concat!(
        "select ",
        question_columns!(),
        " from questions q
         where q.session_id in (select unhex(value) from json_each(?1)) and q.answered_at is not null
           and q.attempt = (select max(n.attempt) from questions n where n.session_id = q.session_id)"
    ))
    .bind(json_rows(ids.iter().map(|id| id.simple().to_string()))?)
    .fetch_all(connection)
    .await
    .map_err(database)
}

#[tracing::instrument(name = "store.sqlite.answer", skip_all, fields(session.id = %answer.session), err)]
pub(super) async fn answer(store: &SqliteStore, answer: NewAnswer) -> Result<Answered, StoreError> {
    let session = answer.session;
    let mut transaction = store.write().await?;
    let (name, seq): (String, i64) = sqlx::query_as("select status, message_seq from sessions where id = ?1")
        .bind(session.as_uuid())
        .fetch_optional(&mut *transaction)
        .await
        .map_err(database)?
        .ok_or(StoreError::NoSuchSession(session))?;
    let row = question(&mut transaction, session, answer.question)
        .await?
        .ok_or(StoreError::NoSuchQuestion(session))?;
    let id = row.id();
    if let Some(question) = answered_before(row, session, status(session, &name)?)? {
        return Ok(Answered::Already(question));
    }
    let row = set_answer(&mut transaction, id, &answer).await?;
    if let Some((spec, content)) = answer.plan {
        add_plan(&mut transaction, session, *spec.as_uuid(), content).await?;
    }
    let seq = add_messages(&mut transaction, session, seq, &[answer.message]).await?;
    let after = After {
        granted: 1,
        ..After::now(seq)
    };
    set_status(&mut transaction, session, SessionStatus::Pending, after).await?;
    store.commit(transaction).await?;
    row.try_into().map(Answered::Accepted)
}

/// That question of the session, or its newest one.
async fn question(
    connection: &mut SqliteConnection,
    session: SessionId,
    question: Option<QuestionId>,
) -> Result<Option<QuestionRow>, StoreError> {
    sqlx::query_as(concat!(
        "select ",
        question_columns!(),
        " from questions where session_id = ?1 and (?2 is null or id = ?2) order by attempt desc limit 1"
    ))
    .bind(session.as_uuid())
    .bind(question.map(|question| *question.as_uuid()))
    .fetch_optional(connection)
    .await
    .map_err(database)
}

async fn set_answer(
    connection: &mut SqliteConnection,
    id: Uuid,
    answer: &NewAnswer,
) -> Result<QuestionRow, StoreError> {
    sqlx::query_as(concat!(
        "update questions set answer = ?2, answered_by = ?3, answered_at = ",
        now!(),
        " where id = ?1 returning ",
        question_columns!()
    ))
    .bind(id)
    .bind(&answer.text)
    .bind(&answer.by)
    .fetch_one(connection)
    .await
    .map_err(database)
}

/// The next version of the plan.
async fn add_plan(
    connection: &mut SqliteConnection,
    session: SessionId,
    id: Uuid,
    content: String,
) -> Result<(), StoreError> {
    sqlx::query(
        "insert into specs (id, session_id, content, version)
         select ?2, ?1, ?3, max(coalesce(max(version), 0), 0) + 1 from specs where session_id = ?1",
    )
    .bind(session.as_uuid())
    .bind(id)
    .bind(content)
    .execute(connection)
    .await
    .map_err(database)?;
    Ok(())
}

#[tracing::instrument(name = "store.sqlite.questions", skip_all, fields(session.id = %session), err)]
pub(super) async fn questions(pool: &SqlitePool, session: SessionId) -> Result<Vec<Question>, StoreError> {
    let rows: Vec<QuestionRow> = sqlx::query_as(concat!(
        "select ",
        question_columns!(),
        " from questions where session_id = ?1 order by attempt"
    ))
    .bind(session.as_uuid())
    .fetch_all(pool)
    .await
    .map_err(database)?;
    all(rows)
}

#[tracing::instrument(name = "store.sqlite.due_questions", skip_all, err)]
pub(super) async fn due_questions(pool: &SqlitePool, limit: u32) -> Result<Vec<(Question, Due)>, StoreError> {
    let rows: Vec<DueRow> = sqlx::query_as(concat!(
        "select ",
        question_columns!(),
        ", deadline <= ",
        now!(),
        " as over from questions q where due_at <= ",
        now!(),
        " and ",
        open_question!(),
        " and exists (select 1 from sessions s where s.id = q.session_id and s.status = 'escalated')
         order by deadline, id limit ?1"
    ))
    .bind(i64::from(limit))
    .fetch_all(pool)
    .await
    .map_err(database)?;
    Ok(readable(rows))
}

/// Locks the session that waits for an answer to that question, and with it the number of its last message.
async fn hold_waiting(
    connection: &mut SqliteConnection,
    question: QuestionId,
) -> Result<Option<(SessionId, i64)>, StoreError> {
    let held: Option<(Uuid, i64)> = sqlx::query_as(
        "select s.id, s.message_seq from sessions s
         where s.id = (select q.session_id from questions q where q.id = ?1) and s.status = 'escalated'",
    )
    .bind(question.as_uuid())
    .fetch_optional(connection)
    .await
    .map_err(database)?;
    Ok(held.map(|(session, seq)| (SessionId::from_uuid(session), seq)))
}

#[tracing::instrument(name = "store.sqlite.remind", skip_all, fields(question.id = %question), err)]
pub(super) async fn remind(
    store: &SqliteStore,
    question: QuestionId,
    message: NewMessage,
) -> Result<bool, StoreError> {
    let mut transaction = store.write().await?;
    let Some((session, seq)) = hold_waiting(&mut transaction, question).await? else {
        return Ok(false);
    };
    let reminded = sqlx::query(concat!(
        "update questions set reminded_at = ",
        now!(),
        ", due_at = deadline where id = ?1 and reminded_at is null and ",
        open_question!()
    ))
    .bind(question.as_uuid())
    .execute(&mut *transaction)
    .await
    .map_err(database)?;
    if reminded.rows_affected() == 0 {
        return Ok(false);
    }
    add_message(&mut transaction, session, seq, message).await?;
    store.commit(transaction).await?;
    Ok(true)
}

#[tracing::instrument(name = "store.sqlite.give_up", skip_all, fields(question.id = %question), err)]
pub(super) async fn give_up(
    store: &SqliteStore,
    question: QuestionId,
    message: NewMessage,
) -> Result<bool, StoreError> {
    let mut transaction = store.write().await?;
    let Some((session, seq)) = hold_waiting(&mut transaction, question).await? else {
        return Ok(false);
    };
    let given_up = sqlx::query(concat!(
        "update questions set closed_at = ",
        now!(),
        " where id = ?1 and deadline <= ",
        now!(),
        " and ",
        open_question!()
    ))
    .bind(question.as_uuid())
    .execute(&mut *transaction)
    .await
    .map_err(database)?;
    if given_up.rows_affected() == 0 {
        return Ok(false);
    }
    let seq = add_messages(&mut transaction, session, seq, &[message]).await?;
    set_status(&mut transaction, session, SessionStatus::Failed, After::now(seq)).await?;
    store.commit(transaction).await?;
    Ok(true)
}
