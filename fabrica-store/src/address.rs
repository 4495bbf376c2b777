//! Where a database is: a URL or a path.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use thiserror::Error;

/// A database, by the scheme of its address.
#[derive(Clone, PartialEq, Eq)]
pub enum Address {
    /// A URL of PostgreSQL; it may hold a password.
    Postgres(String),
    /// A file of SQLite.
    Sqlite(PathBuf),
}

/// The text is not the address of a database.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum InvalidAddress {
    /// There is none.
    #[error("the database address is empty")]
    Empty,
    /// A scheme of something else.
    #[error("no database has addresses that begin with `{0}://`")]
    Scheme(String),
    /// `sqlite:` and then no path.
    #[error("the address names SQLite but no file")]
    NoFile,
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postgres(_) => f.write_str("Postgres(…)"),
            Self::Sqlite(path) => f.debug_tuple("Sqlite").field(path).finish(),
        }
    }
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let text = text.trim();
        if let Some(path) = text.strip_prefix("sqlite:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            let file = !path.is_empty() && !path.starts_with(':');
            return if file {
                Ok(Self::Sqlite(path.into()))
            } else {
                Err(InvalidAddress::NoFile)
            };
        }
        match text.split_once("://") {
            Some(("postgres" | "postgresql", _)) => Ok(Self::Postgres(text.to_owned())),
            // What comes after the scheme may be a password.
            Some((scheme, _)) => Err(InvalidAddress::Scheme(scheme.chars().take(32).collect())),
            None if text.is_empty() => Err(InvalidAddress::Empty),
            None => Ok(Self::Sqlite(text.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_chooses_the_database() {
        let sqlite = |path: &str| Ok(Address::Sqlite(path.into()));
        assert_eq!(
            "sqlite:///var/lib/fabrica.db".parse(),
            sqlite("/var/lib/fabrica.db")
        );
        assert_eq!("sqlite:fabrica.db".parse(), sqlite("fabrica.db"));
        assert_eq!("sqlite://fabrica.db".parse(), sqlite("fabrica.db"));
        assert_eq!(" ./fabrica.db\n".parse(), sqlite("./fabrica.db"));
        for url in ["postgres://u:p@h/d", "postgresql:///d"] {
            assert_eq!(url.parse(), Ok(Address::Postgres(url.into())));
        }
        assert_eq!("".parse::<Address>(), Err(InvalidAddress::Empty));
        for none in ["sqlite:", "sqlite://", "sqlite::memory:"] {
            assert_eq!(none.parse::<Address>(), Err(InvalidAddress::NoFile));
        }
    }

    #[test]
    fn a_password_is_never_shown() {
        let error = "mysql://root:hunter2@host/db".parse::<Address>().unwrap_err();
        assert_eq!(error, InvalidAddress::Scheme("mysql".into()));
        let address: Address = "postgres://root:hunter2@host/db".parse().unwrap();
        assert!(!format!("{address:?} {error:?} {error}").contains("hunter2"));
    }
}
