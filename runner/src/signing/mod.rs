//! Signing commits, with a key that is not here: the gateway has it.
//!
//! Git signs what it commits, the agent's git as well as the runner's: it is told to run this crate's one program for
//! that, as it would run `ssh-keygen`. [`program`] is that side: it sends the commit to the gateway, with the agent's
//! token, and writes the signature where git looks for it. [`settings`] tells git so.

mod program;
mod settings;

pub(crate) use program::{sign, variables};
pub(crate) use settings::Signing;

/// What stands before the gateway's words when it refuses.
pub(crate) const REFUSED: &str = "Fabrica does not sign this: ";
/// What stands before the cause if nobody could sign for as long as was waited.
pub(crate) const AWAY: &str = "Fabrica cannot sign at the moment, try again: ";
