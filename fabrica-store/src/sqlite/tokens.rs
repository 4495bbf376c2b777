//! Hashes of the installation's secrets.

use fabrica_core::ports::StoreError;
use fabrica_core::ports::store::Storable as _;
use fabrica_core::secrets::TokenHash;
use sqlx::SqlitePool;

use super::SqliteStore;
use crate::error::database;
use crate::rows::token_hash;

#[tracing::instrument(name = "store.sqlite.token", skip_all, err)]
pub(super) async fn token(pool: &SqlitePool, name: &str) -> Result<Option<TokenHash>, StoreError> {
    let hash: Option<Vec<u8>> = sqlx::query_scalar("select hash from tokens where name = ?1")
        .bind(name.to_owned().storable())
        .fetch_optional(pool)
        .await
        .map_err(database)?;
    hash.map(|hash| token_hash("tokens", name, "hash", &hash))
        .transpose()
}

#[tracing::instrument(name = "store.sqlite.create_token", skip_all, err)]
pub(super) async fn create_token(
    store: &SqliteStore,
    name: &str,
    hash: TokenHash,
) -> Result<TokenHash, StoreError> {
    let mut transaction = store.write().await?;
    let hash: Vec<u8> = sqlx::query_scalar(
        "insert into tokens (name, hash) values (?1, ?2)
         on conflict (name) do update set hash = tokens.hash returning hash",
    )
    .bind(name.to_owned().storable())
    .bind(hash.as_bytes().as_slice())
    .fetch_one(&mut *transaction)
    .await
    .map_err(database)?;
    store.commit(transaction).await?;
    token_hash("tokens", name, "hash", &hash)
}
