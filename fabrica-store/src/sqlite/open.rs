//! Opening a file and migrating it.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection as _, Sqlite, SqlitePool};

use super::SqliteStore;
use super::record::Recording;
use super::tail::Tail;
use crate::connect::ConnectError;
use crate::error::is_transient;

static MIGRATIONS: Migrator = sqlx::migrate!("../migrations/sqlite");

/// How long a connection waits for another process's lock.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait before a file that is locked while it is opened is tried again.
const PAUSE: Duration = Duration::from_millis(20);
const READERS: u32 = 4;
/// How many pages the write-ahead log holds before they go into the file: 32 MiB. The same few are written again and
/// again, and most of them then go there once.
const LOG_PAGES: &str = "8000";
/// How much of the file a connection keeps in memory, in KiB (that is what the sign means), once it has read it.
const CACHE: &str = "-8000";

impl SqliteStore {
    /// Opens the file, which is created if it is missing, and brings its tables up to date. Several processes may do so
    /// at once.
    ///
    /// # Errors
    ///
    /// [`ConnectError`].
    #[tracing::instrument(name = "store.sqlite.open", skip_all)]
    pub async fn open(path: impl Into<PathBuf> + Send) -> Result<Self, ConnectError> {
        let path = path.into();
        let place = path.display().to_string();
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(PATIENCE)
            // What a statement would undo is kept in memory, not in a file of its own.
            .pragma("temp_store", "memory")
            .pragma("wal_autocheckpoint", LOG_PAGES)
            .pragma("cache_size", CACHE);
        private(&path);
        let writer = pool(1).connect_lazy_with(options.clone().create_if_missing(true));
        migrate_patiently(&writer, &place).await?;
        let readers = pool(READERS).connect_lazy_with(options.pragma("query_only", "on"));
        let tail = Tail::default();
        Ok(Self {
            recording: Recording::new(&writer, &readers, tail.written()),
            tail,
            path,
            writer,
            readers,
        })
    }

    /// Ends every subscription and closes the file, once what is being done is done.
    pub async fn close(&self) {
        self.recording.close();
        self.tail.stop().await;
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// Makes the file, if it is not there, for its owner alone: plans and transcripts are nobody else's business. What goes
/// wrong here goes wrong again when the database is opened, which then tells why.
fn private(path: &Path) {
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    if let Err(error) = made {
        tracing::debug!(%error, "the database's file is not new, or cannot be made");
    }
}

/// Connections to a file do not go stale. But when the disk is full, SQLite itself takes the transaction back, and the driver
/// never learns that it has ended: such a connection could not begin another one, and is closed.
fn pool(size: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .after_release(|connection, _| {
            Box::pin(async move {
                if connection.is_in_transaction() {
                    // Most likely the end of it is only on its way.
                    connection.ping().await?;
                }
                Ok(!connection.is_in_transaction())
            })
        })
        .max_connections(size)
        .acquire_timeout(PATIENCE * 2)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
}

/// Switching a new file to its write-ahead log fails at once while another process does the same.
async fn migrate_patiently(writer: &SqlitePool, place: &str) -> Result<(), ConnectError> {
    let started = Instant::now();
    loop {
        match migrate(writer).await {
            Ok(()) => return Ok(()),
            Err(error) if is_locked(&error) && started.elapsed() < PATIENCE => {
                tokio::time::sleep(PAUSE).await;
            }
            Err(MigrateError::Execute(error)) => return Err(ConnectError::unreachable(place, error)),
            Err(error) => return Err(ConnectError::migration(place, error)),
        }
    }
}

/// All migrations in one transaction under the write lock, so that one process does it and the others find it done.
async fn migrate(writer: &SqlitePool) -> Result<(), MigrateError> {
    let mut transaction: sqlx::Transaction<'static, Sqlite> = writer.begin_with("begin immediate").await?;
    // `run` would make the future of `open` impossible to spawn.
    MIGRATIONS.run_direct(None, &mut *transaction, false).await?;
    transaction.commit().await?;
    Ok(())
}

fn is_locked(error: &MigrateError) -> bool {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            matches!(error, sqlx::Error::Database(_)) && is_transient(error)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use fabrica_core::clock::{IdSource, SystemClock, SystemEntropy};
    use fabrica_core::message::{MessageContent, MessageKind, NewMessage};
    use fabrica_core::ports::Store as _;
    use fabrica_core::ports::store::NewSession;

    use super::*;

    fn session() -> NewSession {
        let ids = IdSource::new(&SystemClock, &SystemEntropy);
        NewSession {
            id: ids.session(),
            spec: ids.spec(),
            content: "# Do it".into(),
            repo_url: "https://git.example.com/acme/app.git".into(),
            title: "Do it".into(),
            max_attempts: 2,
            priority: 0,
            submitter: None,
            idempotency_key: None,
            held: Duration::ZERO,
            message: NewMessage {
                id: ids.message(),
                kind: MessageKind::Progress,
                content: MessageContent::text("accepted"),
            },
        }
    }

    #[tokio::test]
    async fn a_transaction_that_the_database_took_back_keeps_nobody_from_writing() {
        let directory = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(directory.path().join("fabrica.sqlite"))
            .await
            .unwrap();
        let mut transaction = store.write().await.unwrap();
        // As it does itself when it cannot write a commit.
        sqlx::query("rollback").execute(&mut *transaction).await.unwrap();
        assert!(transaction.commit().await.is_err());
        store.create_session(session()).await.unwrap();
        store.close().await;
    }
}
