//! Why a database could not be opened, and what to do about it.

use std::io;

use fabrica_core::ports::Source;
use sqlx::migrate::MigrateError;
use thiserror::Error;

use crate::address::InvalidAddress;

/// Why a database could not be opened. No text of it holds the password of a URL.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The address cannot be read.
    #[error("the database address is invalid: {reason}")]
    InvalidAddress {
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody answers there.
    #[error("the database at {place} cannot be reached: {reason}")]
    Unreachable {
        /// The host and port, the socket, or the path.
        place: String,
        /// What was seen.
        reason: String,
        /// The cause.
        #[source]
        source: Option<Source>,
    },
    /// The user name or the password was refused.
    #[error("the database at {place} refused the login: {reason}")]
    LoginRefused {
        /// The host and port, or the socket.
        place: String,
        /// The server's words.
        reason: String,
    },
    /// The server has no database of that name.
    #[error("the server at {place} has no such database: {reason}")]
    NoSuchDatabase {
        /// The host and port, or the socket.
        place: String,
        /// The server's words.
        reason: String,
    },
    /// A newer version of Fabrica migrated the database.
    #[error("the database at {place} was migrated by a newer version of Fabrica (migration {migration})")]
    Newer {
        /// Where it is.
        place: String,
        /// The migration that this version does not know.
        migration: i64,
    },
    /// The tables could not be brought up to date.
    #[error("the database at {place} cannot be migrated: {reason}")]
    Migration {
        /// Where it is.
        place: String,
        /// What went wrong.
        reason: String,
        /// The cause.
        #[source]
        source: Option<Source>,
    },
}

impl ConnectError {
    /// Stable code of this error.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::InvalidAddress { .. } => "database.address_invalid",
            Self::Unreachable { .. } => "database.unreachable",
            Self::LoginRefused { .. } => "database.login_refused",
            Self::NoSuchDatabase { .. } => "database.missing",
            Self::Newer { .. } => "database.newer",
            Self::Migration { .. } => "database.migration_failed",
        }
    }

    /// What to do about it.
    pub const fn advice(&self) -> &'static str {
        match self {
            Self::InvalidAddress { .. } => {
                "Give a URL such as postgres://user@host:5432/fabrica, or the path of an SQLite file."
            }
            Self::Unreachable { .. } => {
                "Check that the server runs and that host, port and network are right; for a file, that its directory \
                 exists and can be written."
            }
            Self::LoginRefused { .. } => "Check the user name and the password of the database URL.",
            Self::NoSuchDatabase { .. } => "Create the database (createdb), or correct its name in the URL.",
            Self::Newer { .. } => "Update Fabrica to the version that migrated the database, or a later one.",
            Self::Migration { .. } => {
                "Check that the database user owns the schema and that no other program changed Fabrica's tables."
            }
        }
    }

    /// Whether the same call may succeed later.
    pub const fn retryable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    pub(crate) fn unreachable(place: &str, error: sqlx::Error) -> Self {
        Self::Unreachable {
            place: place.into(),
            reason: error.to_string(),
            source: Some(Box::new(error)),
        }
    }

    /// From the first connection to a server.
    pub(crate) fn refused(place: &str, error: sqlx::Error) -> Self {
        if let sqlx::Error::Database(database) = &error {
            let (place, reason) = (place.to_owned(), database.message().to_owned());
            match database.code().as_deref() {
                Some("28000" | "28P01") => return Self::LoginRefused { place, reason },
                Some("3D000") => return Self::NoSuchDatabase { place, reason },
                _ => {}
            }
        }
        Self::unreachable(place, error)
    }

    pub(crate) fn migration(place: &str, error: MigrateError) -> Self {
        let place = place.to_owned();
        match error {
            MigrateError::VersionMissing(migration) => Self::Newer { place, migration },
            MigrateError::Execute(error) if crate::error::is_transient(&error) => {
                Self::unreachable(&place, error)
            }
            error => Self::Migration {
                place,
                reason: error.to_string(),
                source: Some(Box::new(error)),
            },
        }
    }

    pub(crate) fn timed_out(place: &str) -> Self {
        let error = io::Error::from(io::ErrorKind::TimedOut);
        Self::Unreachable {
            place: place.into(),
            reason: "nobody answered in time".into(),
            source: Some(Box::new(error)),
        }
    }
}

impl From<InvalidAddress> for ConnectError {
    fn from(error: InvalidAddress) -> Self {
        Self::InvalidAddress {
            reason: error.to_string(),
        }
    }
}
