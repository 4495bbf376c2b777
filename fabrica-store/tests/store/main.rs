//! The port's conformance suite over both adapters, and what is particular to each.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests panic where a promise is broken, as tests do"
)]

mod conformance;
mod connecting;
mod foreign_postgres;
mod foreign_sqlite;
mod schema;
mod support;
