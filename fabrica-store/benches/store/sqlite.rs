//! The same over SQLite, on the same disk.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use fabrica_core::ports::Store;
use fabrica_store::SqliteStore;
use serde_json::Value;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::types::Json;
use sqlx::{ConnectOptions as _, Executor as _, SqliteConnection};

use crate::report::Rounds;
use crate::work::{ids, message, per_second, produce, running};

const ROUNDS: u64 = 5;
const PRODUCERS: usize = 64;
/// Events of each producer, in one round.
const EACH: u64 = 40;
/// Rows of the one that inserts them singly, in one round.
const SINGLE: u64 = 400;

/// Many producers, against one insert a transaction, both with `synchronous = FULL`.
pub(crate) async fn group() -> Result<Value> {
    // Not where temporary files are: those may be in memory.
    let place = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    let directory = tempfile::tempdir_in(place)?;
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(directory.path().join("fabrica.db")).await?);
    let fences = running(&*store, PRODUCERS).await?;
    let mut bare = SqliteConnectOptions::new()
        .filename(directory.path().join("bare.db"))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .connect()
        .await?;
    bare.execute(
        "create table messages (id blob not null primary key, session_id blob not null, type text not null,
                                content text not null check (json_valid(content)), created_at integer not null default 0,
                                read_at integer, seq integer) strict;
         create index messages_session_id_idx on messages (session_id);
         create index messages_unread_idx on messages (session_id, read_at) where read_at is null;
         create unique index messages_session_id_seq_idx on messages (session_id, seq)",
    )
    .await?;
    let mut rounds = Rounds::default();
    for round in 0..=ROUNDS {
        let begin = Instant::now();
        for _ in 0..SINGLE {
            insert(&mut bare).await?;
        }
        let single = per_second(SINGLE, begin);
        let measured = produce(store.clone(), &fences, round * EACH + 1, EACH).await?;
        if round > 0 {
            rounds.add(measured, single);
        }
    }
    Ok(rounds.measure(
        "recorded_per_second",
        "inserted_per_second",
        "The pages: each session has a leaf of its own in the index of its messages, and the log takes all of them at \
         every commit; then the rows, of which each message has two, since the notice is one.",
    ))
}

async fn insert(connection: &mut SqliteConnection) -> Result<()> {
    let message = message();
    sqlx::query("insert into messages (id, session_id, type, content, seq) values (?1, ?2, ?3, ?4, 1)")
        .bind(message.id.as_uuid())
        .bind(ids().session().as_uuid())
        .bind(message.kind.as_str())
        .bind(Json(&message.content))
        .execute(connection)
        .await?;
    Ok(())
}
