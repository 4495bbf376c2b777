//! What is read of the traffic with the model while it passes: which model is asked for, and what its answers used.
//!
//! Nothing is changed, and nothing that streams is held back for longer than it takes to read it.

mod asked;
mod counted;
mod events;
mod figures;
mod limit;
mod reader;
mod scan;

pub(crate) use asked::{Asked, drain};
pub(crate) use counted::counted;
pub(crate) use limit::{Limit, Read, may_tell};
