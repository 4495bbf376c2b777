//! Claiming, with many sessions in the table and with few.

use std::sync::Arc;

use anyhow::{Result, ensure};
use fabrica_core::ports::Store;
use serde_json::Value;
use sqlx::Executor as _;

use crate::database::Database;
use crate::report::Rounds;
use crate::work::{race, request};

const ROUNDS: usize = 7;
const FEW: i32 = 10_000;
const MANY: i32 = 1_000_000;
/// Who claims at the same time.
const WORKERS: usize = 8;
/// Sessions that each claims in one round, one at a time.
const EACH: u64 = 40;

/// Waiting sessions of a hundred submitters.
pub(crate) async fn million() -> Result<Value> {
    let (few, many) = (Database::create().await?, Database::create().await?);
    let outcome = rounds(&few, &many).await;
    few.drop().await?;
    many.drop().await?;
    Ok(outcome?.measure(
        "claims_per_second_of_a_million",
        "claims_per_second_of_ten_thousand",
        "The commit and the three round trips of a claim, which are the same; a million rows only make the indexes one \
         level deeper and spread the pages that are written.",
    ))
}

async fn rounds(few: &Database, many: &Database) -> Result<Rounds> {
    fill(few, FEW).await?;
    fill(many, MANY).await?;
    let mut rounds = Rounds::default();
    for round in 0..=ROUNDS {
        let limit = claims(few).await?;
        let measured = claims(many).await?;
        if round > 0 {
            rounds.add(measured, limit);
        }
    }
    Ok(rounds)
}

async fn fill(database: &Database, number: i32) -> Result<()> {
    let mut connection = database.connect().await?;
    connection
        .execute(
            "alter table sessions disable trigger user; alter table specs disable trigger user;
             set synchronous_commit = off",
        )
        .await?;
    sqlx::query(
        "insert into sessions (repo_url, title, submitter, run_at)
         select 'https://github.com/acme/' || n % 50 || '.git', 'Number ' || n, 'submitter ' || n % 100,
                now() - ($1 - n) * interval '1 millisecond'
         from generate_series(1, $1) n",
    )
    .bind(number)
    .execute(&mut connection)
    .await?;
    connection
        .execute(
            "insert into specs (session_id, content) select id, '# Do it' from sessions;
             alter table sessions enable trigger user; alter table specs enable trigger user",
        )
        .await?;
    connection.execute("vacuum analyze sessions, specs").await?;
    connection.execute("checkpoint").await?;
    Ok(())
}

async fn claims(database: &Database) -> Result<f64> {
    let workers = (0..WORKERS).map(|worker| {
        let store: Arc<dyn Store> = database.store.clone();
        async move {
            let request = request(&format!("worker {worker}"), 1);
            for _ in 0..EACH {
                ensure!(
                    store.claim(&request).await?.len() == 1,
                    "there is one more to claim"
                );
            }
            Ok(())
        }
    });
    race(workers, EACH).await
}
