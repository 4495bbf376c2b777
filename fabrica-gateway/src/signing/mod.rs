//! Signing commits: the operator's key, and what it signs. The key never leaves this process; sandboxes send the commit
//! and get the signature.

mod commit;
mod error;
mod key;

pub(crate) use commit::{Commit, Objection};
pub use error::SigningKeyError;
pub use key::SigningKey;
