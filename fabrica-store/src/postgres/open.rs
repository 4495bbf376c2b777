//! Connecting and migrating.

use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection as _, PgConnection};

use super::PostgresStore;
use super::messages::Reading;
use super::record::Recording;
use super::submit::Submitting;
use super::subscribe::Listening;
use crate::connect::ConnectError;

static MIGRATIONS: Migrator = sqlx::migrate!("../migrations/postgres");

/// How long the first connection may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// One of them listens, one records, one creates sessions, one reads messages.
const CONNECTIONS: u32 = 12;
/// A connection that was unused for so long may have been cut: it is tried before it is used.
const STALE: Duration = Duration::from_secs(1);

impl PostgresStore {
    /// Connects to the database at that URL and brings its tables up to date. Several processes may do so at once.
    ///
    /// # Errors
    ///
    /// [`ConnectError`]; it never shows the URL's password.
    #[tracing::instrument(name = "store.postgres.open", skip_all)]
    pub async fn open(url: &str) -> Result<Self, ConnectError> {
        let options = options(url)?;
        let place = match options.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => format!("{}:{}", options.get_host(), options.get_port()),
        };
        // Not through the pool: that would go on trying where nobody listens.
        let mut connection = tokio::time::timeout(PATIENCE, PgConnection::connect_with(&options))
            .await
            .map_err(|_| ConnectError::timed_out(&place))?
            .map_err(|error| ConnectError::refused(&place, error))?;
        // `run` would make the future of `open` impossible to spawn.
        MIGRATIONS
            .run_direct(None, &mut connection, false)
            .await
            .map_err(|error| ConnectError::migration(&place, error))?;
        // A connection that ends badly harms nobody any more.
        let _ = connection.close().await;
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(PATIENCE)
            .test_before_acquire(false)
            .before_acquire(|connection, idle| {
                Box::pin(async move {
                    if idle.idle_for > STALE {
                        connection.ping().await?;
                    }
                    Ok(true)
                })
            })
            .connect_lazy_with(options);
        Ok(Self {
            recording: Recording::new(&pool),
            submitting: Submitting::new(&pool),
            reading: Reading::new(&pool),
            pool,
            place,
            listening: Listening::default(),
        })
    }

    /// Ends every subscription and closes the connections, once what they do is done.
    pub async fn close(&self) {
        self.recording.close();
        self.submitting.close();
        self.reading.close();
        self.listening.stop().await;
        self.pool.close().await;
    }
}

fn options(url: &str) -> Result<PgConnectOptions, ConnectError> {
    if has_raw_password(url) {
        let reason =
            "the password holds characters that have to be percent-encoded, such as / (%2F) or # (%23)"
                .into();
        return Err(ConnectError::InvalidAddress { reason });
    }
    let options: PgConnectOptions =
        url.parse()
            .map_err(|error: sqlx::Error| ConnectError::InvalidAddress {
                reason: error.to_string(),
            })?;
    let named = options.get_application_name().is_some();
    let options = if named {
        options
    } else {
        options.application_name("fabrica")
    };
    // A generic plan would scan small tables and keep on doing so when they have grown. Where a scan is the only way it
    // counts as so dear that the server would compile the statement, for a tenth of a second.
    // A process that is frozen in the middle of a transaction must not keep others from its sessions: the server ends it.
    Ok(options.options([
        ("enable_seqscan", "off"),
        ("jit", "off"),
        ("idle_in_transaction_session_timeout", "5s"),
    ]))
}

/// Whether the URL would be cut in the middle of its password, whose rest would then be taken, and shown, as a host.
fn has_raw_password(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let Some((before, _)) = rest.rsplit_once('@') else {
        return false;
    };
    match before.find(['/', '?', '#']) {
        // In a query an @ is a character like any other.
        Some(end) if before[end..].contains('?') => !before[end..].contains('='),
        Some(_) => true,
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_that_would_be_cut_is_refused_unseen() {
        for url in [
            "postgres://u:hun/ter2@host/db",
            "postgres://u:hun#ter2@host",
            "postgres://u:hun?ter2@host/db",
        ] {
            let error = options(url).unwrap_err();
            assert_eq!(error.code(), "database.address_invalid");
            assert!(!format!("{error} {error:?}").contains("hun"), "{error}");
        }
        for url in [
            "postgres://u:p%2Fq@host/db",
            "postgres://host:5432/db?user=a@b",
            "postgres:///db?host=/tmp",
        ] {
            assert!(options(url).is_ok(), "{url}");
        }
    }
}
