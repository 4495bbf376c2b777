//! What the agent did, made safe outside of the sandbox while it works on, and put back into a fresh one.
//!
//! A checkpoint is a commit that no branch knows: its tree is the working directory, and its parents are the commit that
//! `HEAD` is at, a commit of the index, and the checkpoint before. Neither the branch nor the index nor the working
//! directory is touched. The agent may be alive meanwhile, so no process is given the runner's token: git only makes a
//! pack, and the runner sends that itself.

mod checkpointer;
mod pack;
mod push;
mod restore;
mod snapshot;
mod wire;

pub(crate) use checkpointer::{Checkpointer, Last, slow};
pub(crate) use restore::restore;
