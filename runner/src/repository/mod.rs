//! The repository: cloned through the gateway, looked at with distrust after the agent, pushed from a clean place.

mod checkout;
mod git;
mod leftovers;
mod preflight;
mod push;

pub(crate) use checkout::{Checkout, Remotely, clone};
pub(crate) use git::Git;
pub(crate) use leftovers::{Work, commit_leftovers, inspect};
pub(crate) use preflight::preflight;
pub(crate) use push::Pusher;
