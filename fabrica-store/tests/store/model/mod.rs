//! Random sequences of calls, against the fake, SQLite and PostgreSQL side by side: step by step they must answer the
//! same and end up in the same state. `PROPTEST_CASES` says how many sequences.

mod call;
mod outcome;
mod step;

use std::sync::Arc;

use fabrica_core::clock::{Clock as _, SystemClock};
use fabrica_core::ports::Store;
use fabrica_core::testing::FakeStore;
use fabrica_store::{PostgresStore, SqliteStore};
use proptest::collection::vec;
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};
use sqlx::{Connection as _, Executor as _, PgConnection};

use self::call::{Call, World};
use self::step::{Step, step};
use crate::support::with_postgres;

/// So few that the suite stays quick.
const CASES: u32 = 40;
const STEPS: usize = 100;

/// The same implementation of the contract, three times.
struct Subjects([(&'static str, Arc<dyn Store>); 3]);

impl Subjects {
    /// Makes the call everywhere; it fails where the answers differ.
    async fn call(&self, world: &mut World, call: &Call) -> Result<(), TestCaseError> {
        tick().await;
        let [(_, model), others @ ..] = &self.0;
        let expected = outcome::of(&**model, call).await;
        for (name, store) in others {
            let actual = outcome::of(&**store, call).await;
            agree(name, call, &expected.told, &actual.told)?;
        }
        world.learn(call, expected);
        Ok(())
    }

    /// Compares what anybody can see of all sessions.
    async fn compare(&self, call: &Call, thoroughly: bool) -> Result<(), TestCaseError> {
        let [(_, model), others @ ..] = &self.0;
        let expected = outcome::state(&**model, thoroughly).await;
        for (name, store) in others {
            agree(name, call, &expected, &outcome::state(&**store, thoroughly).await)?;
        }
        Ok(())
    }

    async fn run(&self, steps: &[Step]) -> Result<(), TestCaseError> {
        let mut world = World::default();
        for step in steps {
            let Some(call) = world.call(step) else {
                continue;
            };
            for call in self.one_at_a_time(&call).await.iter().chain([&call]) {
                self.call(&mut world, call).await?;
                self.compare(call, false).await?;
            }
        }
        self.compare(&Call::End, true).await
    }

    /// A claim ends all the cancelled sessions that wait: where the clock is coarse, which of them ended first depends
    /// on the store, and with it which is reaped first. So they are ended one by one.
    async fn one_at_a_time(&self, call: &Call) -> Vec<Call> {
        let Call::Claim(request) = call else {
            return vec![];
        };
        outcome::waiting_for_their_end(&*self.0[0].1)
            .await
            .into_iter()
            .map(|id| Call::retire(request, id))
            .collect()
    }
}

fn agree(name: &str, call: &Call, expected: &str, actual: &str) -> Result<(), TestCaseError> {
    if expected == actual {
        return Ok(());
    }
    Err(TestCaseError::fail(format!(
        "{name} differs after {call:#?}\n--- the model:\n{expected}\n--- {name}:\n{actual}"
    )))
}

/// The coarsest of the clocks counts milliseconds: what happens one after the other shall also look like it.
async fn tick() {
    let now = || SystemClock.now().timestamp_millis();
    let started = now();
    while now() < started + 2 {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

async fn run(postgres: Arc<PostgresStore>, url: &str, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut connection = PgConnection::connect(url).await.expect("the test server answers");
    connection
        .execute("truncate sessions, specs, messages, attempts, transcript, artifacts, questions, notes")
        .await
        .expect("the tables are emptied");
    let directory = tempfile::tempdir().expect("there is room for a file");
    let sqlite = SqliteStore::open(directory.path().join("fabrica.db"))
        .await
        .expect("a file is opened");
    let sqlite = Arc::new(sqlite);
    let subjects = Subjects([
        ("the fake", Arc::new(FakeStore::default())),
        ("SQLite", sqlite.clone()),
        ("PostgreSQL", postgres),
    ]);
    let outcome = subjects.run(steps).await;
    sqlite.close().await;
    outcome
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_store_answers_any_sequence_of_calls_alike() {
    let cases = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|number| number.parse().ok());
    let config = Config {
        cases: cases.unwrap_or(CASES),
        max_shrink_iters: 400,
        failure_persistence: None,
        ..Config::default()
    };
    with_postgres(|postgres, url| async move {
        tokio::task::block_in_place(|| {
            let runtime = tokio::runtime::Handle::current();
            let outcome = TestRunner::new(config).run(&vec(step(), 1..STEPS), |steps| {
                runtime.block_on(run(postgres.clone(), &url, &steps))
            });
            if let Err(TestError::Fail(reason, steps)) = outcome {
                panic!("{reason}\nafter {steps:#?}");
            }
        });
    })
    .await;
}
