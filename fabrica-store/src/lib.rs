//! The [`Store`] port of Fabrica over PostgreSQL and over SQLite.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! # let directory = tempfile::tempdir().unwrap();
//! # let path = directory.path().join("fabrica.db");
//! let store = fabrica_store::connect(path.to_str().unwrap()).await?;
//! let newest = store.sessions(&Default::default(), 10).await?;
//! assert!(newest.is_empty());
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```
//!
//! Both adapters keep the tables of `migrations/`, which other programs may read and write directly.

mod address;
mod connect;
mod error;
mod events;
mod group;
mod notes;
mod notices;
mod postgres;
mod questions;
mod rows;
mod settle;
mod shared;
mod sqlite;
mod turns;
mod values;

use std::sync::Arc;

pub use self::address::{Address, InvalidAddress};
pub use self::connect::ConnectError;
pub use self::postgres::PostgresStore;
pub use self::sqlite::SqliteStore;
use fabrica_core::ports::Store;

/// Opens the database at that address, migrated: `postgres://…` and `postgresql://…` are PostgreSQL, `sqlite:///path`
/// and plain paths are SQLite files, which are created where they are missing.
///
/// # Errors
///
/// [`ConnectError`] if the address cannot be read, or the database cannot be reached, opened or migrated.
pub async fn connect(database: &str) -> Result<Arc<dyn Store>, ConnectError> {
    Ok(match database.parse()? {
        Address::Postgres(url) => Arc::new(PostgresStore::open(&url).await?),
        Address::Sqlite(path) => Arc::new(SqliteStore::open(path).await?),
    })
}
