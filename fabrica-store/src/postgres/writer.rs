//! The connection of a task that writes for many.

use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::{Connection as _, PgConnection, PgPool, Postgres};

use crate::error::is_transient;

/// A connection that was unused for so long may have been cut.
const STALE: Duration = Duration::from_secs(1);
/// The plans never depend on the values: planning costs more than the statement. Nobody is waited for long, since many
/// wait for this connection: what somebody else has locked is written on another one.
const SETTINGS: &str = "set plan_cache_mode = force_generic_plan; set lock_timeout = '100ms'";

/// A connection that is kept, and made again when it was lost.
pub(super) struct WriterConnection {
    pool: PgPool,
    connection: Option<PoolConnection<Postgres>>,
    used: Instant,
}

impl WriterConnection {
    pub(super) fn new(pool: &PgPool) -> Self {
        Self {
            pool: pool.clone(),
            connection: None,
            used: Instant::now(),
        }
    }

    pub(super) fn pool(&self) -> &PgPool {
        &self.pool
    }

    pub(super) async fn get(&mut self) -> Result<&mut PgConnection, sqlx::Error> {
        let kept = match self.connection.take() {
            Some(mut connection) if self.used.elapsed() > STALE => {
                connection.ping().await.is_ok().then_some(connection)
            }
            kept => kept,
        };
        let connection = match kept {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        self.used = Instant::now();
        Ok(self.connection.insert(connection))
    }

    async fn connect(&self) -> Result<PoolConnection<Postgres>, sqlx::Error> {
        let mut connection = self.pool.acquire().await?;
        // With its settings it is of no use to others.
        connection.close_on_drop();
        sqlx::raw_sql(SETTINGS).execute(&mut *connection).await?;
        Ok(connection)
    }

    /// Lets go of a connection whose last use may have broken it.
    pub(super) fn after<T>(&mut self, outcome: Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
        self.used = Instant::now();
        if let Err(error) = &outcome
            && (is_transient(error) || !matches!(error, sqlx::Error::Database(_)))
        {
            self.connection = None;
        }
        outcome
    }
}
