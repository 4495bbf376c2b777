//! Creating sessions, against the three inserts alone.

use std::sync::Arc;

use anyhow::Result;
use fabrica_core::ports::Store;
use fabrica_core::ports::store::NewSession;
use serde_json::Value;
use sqlx::types::Json;
use sqlx::{Connection as _, PgConnection};

use crate::database::Database;
use crate::report::{Rounds, rounded};
use crate::work::{race, session};

const ROUNDS: usize = 7;
/// Who submits at the same time.
const SUBMITTERS: usize = 16;
/// Sessions of each, in one round.
const EACH: u64 = 60;

/// Many submitters, and one.
pub(crate) async fn submit(database: &Database) -> Result<Value> {
    let many = rounds(database, SUBMITTERS, EACH).await?;
    let one = rounds(database, 1, 4 * EACH).await?;
    let mut measure = many.measure(
        "sessions_per_second",
        "bare_transactions_per_second",
        "Three notices a session, whose lock at commit lets the server commit one transaction at a time; one statement \
         instead of five makes up for it.",
    );
    measure["submitters"] = SUBMITTERS.into();
    measure["ratio_of_one_submitter"] = rounded(one.ratio()).into();
    Ok(measure)
}

async fn rounds(database: &Database, submitters: usize, each: u64) -> Result<Rounds> {
    let mut rounds = Rounds::default();
    for round in 0..=ROUNDS {
        let connections = database.connections(submitters).await?;
        let bare = race(
            connections
                .into_iter()
                .map(|connection| inserts(connection, each)),
            each,
        )
        .await?;
        let measured = race(
            (0..submitters).map(|_| creates(database.store.clone(), each)),
            each,
        )
        .await?;
        if round > 0 {
            rounds.add(measured, bare);
        }
    }
    Ok(rounds)
}

async fn creates(store: Arc<dyn Store>, each: u64) -> Result<()> {
    for _ in 0..each {
        store.create_session(session()).await?;
    }
    Ok(())
}

async fn inserts(mut connection: PgConnection, each: u64) -> Result<()> {
    for _ in 0..each {
        insert(&mut connection, session()).await?;
    }
    Ok(())
}

async fn insert(connection: &mut PgConnection, session: NewSession) -> Result<()> {
    let mut transaction = connection.begin().await?;
    sqlx::query("insert into bare_sessions (id, repo_url) values ($1, $2)")
        .bind(session.id.as_uuid())
        .bind(&session.repo_url)
        .execute(&mut *transaction)
        .await?;
    sqlx::query("insert into bare_specs (id, session_id, content) values ($1, $2, $3)")
        .bind(session.spec.as_uuid())
        .bind(session.id.as_uuid())
        .bind(&session.content)
        .execute(&mut *transaction)
        .await?;
    sqlx::query(
        "insert into bare_first_messages (id, session_id, type, content, seq) values ($1, $2, $3, $4, 1)",
    )
    .bind(session.message.id.as_uuid())
    .bind(session.id.as_uuid())
    .bind(session.message.kind.as_str())
    .bind(Json(&session.message.content))
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(())
}
