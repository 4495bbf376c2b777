//! How near the store comes to what its database can do. Each number is a ratio to a limit that is measured in the same
//! run, on the same server, in turn with it. Adds to `target/bench/report.json`; run it by `make bench BENCH=store`.
#![expect(clippy::print_stdout, reason = "a report that speaks to the terminal")]

mod claim;
mod database;
mod delivery;
mod ingest;
mod report;
mod sqlite;
mod submit;
mod work;

use anyhow::Result;

use crate::database::Database;
use crate::report::Report;

#[tokio::main]
async fn main() -> Result<()> {
    // What is asked for by name, or everything. Cargo passes `--bench`.
    let asked: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let wanted = |name: &str| asked.is_empty() || asked.iter().any(|asked| name.contains(asked.as_str()));
    let mut report = Report::default();
    let database = Database::create().await?;
    let outcome = measure(&database, &wanted, &mut report).await;
    database.drop().await?;
    outcome?;
    report.save()
}

async fn measure(
    database: &Database,
    wanted: &(impl Fn(&str) -> bool + Sync),
    report: &mut Report,
) -> Result<()> {
    if wanted("ingest_copy_ratio") {
        report.add("ingest_copy_ratio", ingest::copy(database).await?);
    }
    if wanted("single_ingest_ratio") {
        report.add("single_ingest_ratio", ingest::single(database).await?);
    }
    if wanted("group_commit_ratio") {
        report.add("group_commit_ratio", ingest::group(database).await?);
    }
    if wanted("submit_ratio") {
        report.add("submit_ratio", submit::submit(database).await?);
    }
    if wanted("delivery_p99_ratio") {
        report.add("delivery_p99_ratio", delivery::delivery(database).await?);
    }
    if wanted("sqlite_group_commit_ratio") {
        report.add("sqlite_group_commit_ratio", sqlite::group().await?);
    }
    if wanted("claim_million_ratio") {
        report.add("claim_million_ratio", claim::million().await?);
    }
    Ok(())
}
