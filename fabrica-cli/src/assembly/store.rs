//! The database: the one that was named, else an embedded one.

use std::sync::Arc;

use fabrica_core::clock::{Entropy as _, SystemEntropy};
use fabrica_core::ports::{Store, StoreError};
use fabrica_core::secrets::TokenHash;
use secrecy::{ExposeSecret as _, SecretString};

use super::args::DatabaseArgs;
use super::directories::Directories;
use super::error::AssemblyError;
use super::runner::hex;
use super::settings;

/// The file of the embedded database.
const FILE: &str = "fabrica.sqlite";
/// Under which name a database keeps what distinguishes its installation from others on the same engine.
const INSTALLATION: &str = "installation";

/// Opens the database that the options name, brings its schema up to date, and returns it.
///
/// # Errors
///
/// [`AssemblyError::Database`], [`AssemblyError::Directory`].
pub async fn open_store(
    args: &DatabaseArgs,
    directories: &Directories,
) -> Result<Arc<dyn Store>, AssemblyError> {
    connect(settings::database(args).as_ref(), directories).await
}

pub(super) async fn connect(
    database: Option<&SecretString>,
    directories: &Directories,
) -> Result<Arc<dyn Store>, AssemblyError> {
    let location = match database {
        Some(named) => named.expose_secret().to_owned(),
        None => directories.database()?.join(FILE).display().to_string(),
    };
    Ok(fabrica_store::connect(&location).await?)
}

/// How the database is shown to people: without password or parameters.
pub fn shown_database(database: Option<&SecretString>, directories: &Directories) -> String {
    let Some(named) = database else {
        return format!(
            "{} (embedded)",
            directories.data.join("database").join(FILE).display()
        );
    };
    let text = named.expose_secret();
    match url::Url::parse(text) {
        Ok(mut url) if url.has_host() => {
            // Neither fails for a URL with a host.
            let _ = url.set_password(None);
            url.set_query(None);
            url.to_string()
        }
        _ => text.split('?').next().unwrap_or_default().to_owned(),
    }
}

/// The installation's name, which its containers carry: the same for all processes that share a database, and another
/// one for every other database, so that installations on one engine leave one another's containers alone.
pub(super) async fn installation(store: &dyn Store) -> Result<String, StoreError> {
    let mut bytes = [0_u8; 32];
    SystemEntropy.fill(&mut bytes);
    let id = store
        .create_token(INSTALLATION, TokenHash::from_bytes(bytes))
        .await?;
    let digits = hex(id.as_bytes().iter().copied().take(6));
    Ok(format!("fabrica-{digits}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_shown_without_its_password() {
        let directories = Directories::below("/data", "/run");
        let shown = |text: &str| shown_database(Some(&SecretString::from(text)), &directories);
        assert_eq!(
            shown("postgres://me:canary@db:5432/fabrica?password=canary"),
            "postgres://me@db:5432/fabrica"
        );
        assert_eq!(shown("sqlite:/x/y.sqlite"), "sqlite:/x/y.sqlite");
        assert_eq!(
            shown_database(None, &directories),
            "/data/database/fabrica.sqlite (embedded)"
        );
    }
}
