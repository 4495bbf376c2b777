//! The port's conformance suite over both adapters, and what is particular to each.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests panic where a promise is broken, as tests do"
)]

mod ageing;
mod conformance;
mod connecting;
mod foreign_postgres;
mod foreign_sqlite;
mod group_commit;
mod model;
mod schema;
mod support;
