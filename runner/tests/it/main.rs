//! Whole sessions with the real runner: what it promises, what a hostile agent tries, and the real agent.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod asking;
mod checkpoint;
mod claude;
mod distrust;
mod flood;
mod large_files;
mod place;
mod session;
mod signing;
mod submodules;
mod support;
mod takeover;
