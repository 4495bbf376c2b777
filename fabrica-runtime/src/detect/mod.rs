//! Which engine there is, and how to reach it.

mod address;

pub use address::Address;
