//! Hashes of the installation's secrets.

use fabrica_core::ports::StoreError;
use fabrica_core::ports::store::Storable as _;
use fabrica_core::secrets::TokenHash;
use sqlx::PgPool;

use crate::error::database;
use crate::rows::token_hash;

#[tracing::instrument(name = "store.postgres.token", skip_all, err)]
pub(super) async fn token(pool: &PgPool, name: &str) -> Result<Option<TokenHash>, StoreError> {
    let hash: Option<Vec<u8>> = sqlx::query_scalar("select hash from tokens where name = $1")
        .bind(name.to_owned().storable())
        .fetch_optional(pool)
        .await
        .map_err(database)?;
    hash.map(|hash| token_hash("tokens", name, "hash", &hash))
        .transpose()
}

/// The row that is there is updated to itself, so that it is returned and seen by whoever waited for it.
#[tracing::instrument(name = "store.postgres.create_token", skip_all, err)]
pub(super) async fn create_token(
    pool: &PgPool,
    name: &str,
    hash: TokenHash,
) -> Result<TokenHash, StoreError> {
    let hash: Vec<u8> = sqlx::query_scalar(
        "insert into tokens (name, hash) values ($1, $2)
         on conflict (name) do update set hash = tokens.hash returning hash",
    )
    .bind(name.to_owned().storable())
    .bind(hash.as_bytes().as_slice())
    .fetch_one(pool)
    .await
    .map_err(database)?;
    token_hash("tokens", name, "hash", &hash)
}
