//! Session tokens: what a sandbox shows to its gateway. They are random, live as long as one attempt, and are kept
//! only as hashes.

use std::fmt;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::clock::Entropy;

/// The SHA-256 hash of a token: what is stored and compared, never the token itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// Hashes a token. A plain hash is enough: a token has 256 bits of entropy, so it cannot be guessed.
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    /// Wraps a stored hash.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, to store or to compare in constant time.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(…)")
    }
}

/// Makes a token of 256 random bits with a prefix that says what it is for, for example `fabrica-runner-…`.
pub fn new_token(entropy: &dyn Entropy, purpose: &str) -> SecretString {
    let mut bytes = [0_u8; 32];
    entropy.fill(&mut bytes);
    let mut token = format!("fabrica-{purpose}-");
    for byte in bytes {
        use std::fmt::Write as _;
        // Writing to a String cannot fail.
        let _ = write!(token, "{byte:02x}");
    }
    SecretString::from(token)
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;
    use crate::clock::SystemEntropy;

    #[test]
    fn tokens_differ_and_never_show_in_debug_output() {
        let first = new_token(&SystemEntropy, "runner");
        let second = new_token(&SystemEntropy, "runner");
        assert_ne!(first.expose_secret(), second.expose_secret());
        assert_eq!(first.expose_secret().len(), "fabrica-runner-".len() + 64);
        assert!(!format!("{first:?}").contains(first.expose_secret()));
        assert_ne!(
            TokenHash::of(first.expose_secret()),
            TokenHash::of(second.expose_secret())
        );
    }
}
