//! The token of the API: the operator's, or one that is made at the first start and shown once.

use std::io::Write;

use fabrica_core::clock::Entropy;
use fabrica_core::ports::store::Store;
use fabrica_core::secrets::{TokenHash, new_token};
use secrecy::{ExposeSecret as _, SecretString};

use crate::error::ServerError;

/// The name under which the store keeps the hash.
pub(crate) const TOKEN_NAME: &str = "api";
/// The shortest token that an operator may choose.
const SHORTEST: usize = 16;

/// Where the token of the API comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiToken {
    /// The operator chose it.
    Configured(TokenHash),
    /// It was made and shown now.
    Made(TokenHash),
    /// It was made and shown at an earlier start.
    Stored(TokenHash),
}

impl ApiToken {
    /// Its hash.
    pub const fn hash(self) -> TokenHash {
        match self {
            Self::Configured(hash) | Self::Made(hash) | Self::Stored(hash) => hash,
        }
    }
}

/// The token of the API. One that the operator chose counts; without one, the first start makes one of 256 random
/// bits, stores its hash and writes it to `show`, once.
///
/// # Errors
///
/// [`ServerError::UnusableToken`], [`ServerError::TokenNotShown`], or the store's failure.
pub async fn api_token(
    configured: Option<&SecretString>,
    store: &dyn Store,
    entropy: &dyn Entropy,
    show: &mut (dyn Write + Send),
) -> Result<ApiToken, ServerError> {
    if let Some(token) = configured {
        return check(token.expose_secret()).map(ApiToken::Configured);
    }
    if let Some(hash) = store.token(TOKEN_NAME).await? {
        return Ok(ApiToken::Stored(hash));
    }
    let token = new_token(entropy, TOKEN_NAME);
    let hash = TokenHash::of(token.expose_secret());
    let stored = store.create_token(TOKEN_NAME, hash).await?;
    if stored != hash {
        // Another server on the same store was faster, and showed its own.
        return Ok(ApiToken::Stored(stored));
    }
    let text = token.expose_secret();
    writeln!(show, "API token (shown only now, keep it): {text}")
        .and_then(|()| show.flush())
        .map_err(ServerError::TokenNotShown)?;
    Ok(ApiToken::Made(hash))
}

fn check(token: &str) -> Result<TokenHash, ServerError> {
    if token.len() < SHORTEST {
        return Err(ServerError::UnusableToken("is shorter than 16 characters"));
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(ServerError::UnusableToken(
            "has characters other than visible ASCII",
        ));
    }
    Ok(TokenHash::of(token))
}

#[cfg(test)]
mod tests {
    use fabrica_core::clock::SystemEntropy;
    use fabrica_core::testing::{FakeStore, MockStore};

    use super::*;

    async fn obtain(store: &dyn Store, configured: Option<&str>) -> (Result<ApiToken, ServerError>, String) {
        let mut shown = Vec::new();
        let configured = configured.map(|token| SecretString::from(token.to_owned()));
        let token = api_token(configured.as_ref(), store, &SystemEntropy, &mut shown).await;
        (token, String::from_utf8(shown).unwrap())
    }

    #[tokio::test]
    async fn the_first_start_shows_a_token_and_later_ones_do_not() {
        let store = FakeStore::default();
        let (first, shown) = obtain(&store, None).await;
        let token = shown.trim_end().rsplit(' ').next().unwrap();
        assert_eq!(token.len(), "fabrica-api-".len() + 64);
        let hash = TokenHash::of(token);
        assert_eq!(first.unwrap(), ApiToken::Made(hash));
        let (second, shown) = obtain(&store, None).await;
        assert_eq!(second.unwrap(), ApiToken::Stored(hash));
        assert_eq!(shown, "");
    }

    #[tokio::test]
    async fn a_token_that_lost_the_race_is_not_shown() {
        let other = TokenHash::of("the token of the other server");
        let mut store = MockStore::new();
        store.expect_token().returning(|_| Ok(None));
        store.expect_create_token().returning(move |_, _| Ok(other));
        let (token, shown) = obtain(&store, None).await;
        assert_eq!(token.unwrap(), ApiToken::Stored(other));
        assert_eq!(shown, "");
    }

    #[tokio::test]
    async fn a_configured_token_is_neither_stored_nor_shown_and_has_to_be_long() {
        // A mock without expectations: any call to the store fails the test.
        let store = MockStore::new();
        let (token, shown) = obtain(&store, Some("0123456789abcdef")).await;
        assert_eq!(
            token.unwrap(),
            ApiToken::Configured(TokenHash::of("0123456789abcdef"))
        );
        assert_eq!(shown, "");
        for bad in ["", "0123456789abcde", "0123456789 abcdef", "0123456789abcdé"] {
            let error = obtain(&store, Some(bad)).await.0.unwrap_err();
            assert_eq!(error.code(), "server.unusable_token", "{bad}");
            assert!(
                bad.is_empty() || !error.to_string().contains(bad),
                "the error shows the token"
            );
        }
    }
}
