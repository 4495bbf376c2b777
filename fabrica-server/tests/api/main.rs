//! The API as its callers see it: over a real connection, with everything behind it in memory.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's helper fails the test, as its assertions do"
)]

mod access;
mod answering;
mod errors;
mod lifecycle;
mod routes;
mod support;
mod transcript;
