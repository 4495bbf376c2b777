//! A database for each test.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use fabrica_core::clock::{IdSource, SystemClock, SystemEntropy};
use fabrica_core::message::{MessageContent, MessageKind, NewMessage};
use fabrica_core::ports::Store;
use fabrica_core::ports::store::{ClaimLimits, ClaimRequest, Claimed, NewSession};
use fabrica_store::{PostgresStore, SqliteStore};
use futures::FutureExt as _;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

const VARIABLE: &str = "FABRICA_TEST_DATABASE_URL";

/// The superuser's URL of the maintenance database.
pub(crate) fn server_url() -> String {
    std::env::var(VARIABLE).unwrap_or_else(|_| {
        panic!("{VARIABLE} is not set: run `make test`, or the tests under `scripts/with-services.sh`")
    })
}

/// The same server, another database.
pub(crate) fn database_url(server: &str, name: &str) -> String {
    let (base, query) = server
        .split_once('?')
        .map_or((server, String::new()), |(base, query)| {
            (base, format!("?{query}"))
        });
    let host = base.find("://").map_or(0, |at| at + 3);
    let end = base[host..].find('/').map_or(base.len(), |at| host + at);
    format!("{}/{name}{query}", &base[..end])
}

/// Runs a test with the URL of a database of its own, which is dropped afterwards, whatever happened.
pub(crate) async fn with_database<T, F: Future<Output = T>>(test: impl FnOnce(String) -> F) -> T {
    let server = server_url();
    let name = format!("fabrica_test_{}", ids().session().as_uuid().simple());
    let mut admin = PgConnection::connect(&server)
        .await
        .expect("the test server answers");
    admin
        .execute(AssertSqlSafe(format!("create database {name}")))
        .await
        .unwrap();
    let outcome = AssertUnwindSafe(test(database_url(&server, &name)))
        .catch_unwind()
        .await;
    admin
        .execute(AssertSqlSafe(format!("drop database {name} with (force)")))
        .await
        .unwrap();
    outcome.unwrap_or_else(|panic| resume_unwind(panic))
}

/// Runs a test with a store in a PostgreSQL database of its own.
pub(crate) async fn with_postgres<T, F: Future<Output = T>>(
    test: impl FnOnce(Arc<PostgresStore>, String) -> F,
) -> T {
    with_database(|url| async move {
        let store = Arc::new(PostgresStore::open(&url).await.unwrap());
        let outcome = test(store.clone(), url).await;
        store.close().await;
        outcome
    })
    .await
}

/// Runs a test with a store in an SQLite file of its own.
pub(crate) async fn with_sqlite<T, F: Future<Output = T>>(
    test: impl FnOnce(Arc<SqliteStore>, String) -> F,
) -> T {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fabrica.db").to_str().unwrap().to_owned();
    let store = Arc::new(SqliteStore::open(&path).await.unwrap());
    let outcome = test(store.clone(), path).await;
    store.close().await;
    outcome
}

pub(crate) fn ids() -> IdSource<'static> {
    IdSource::new(&SystemClock, &SystemEntropy)
}

/// A session to create.
pub(crate) fn new_session() -> NewSession {
    NewSession {
        id: ids().session(),
        spec: ids().spec(),
        content: "# Do it".into(),
        repo_url: "https://github.com/acme/billing.git".into(),
        title: "Do it".into(),
        max_attempts: 2,
        priority: 0,
        submitter: None,
        idempotency_key: None,
        held: Duration::ZERO,
        message: NewMessage {
            id: ids().message(),
            kind: MessageKind::Progress,
            content: MessageContent::text("accepted"),
        },
    }
}

/// Claims what can be claimed now.
pub(crate) async fn claim(store: &dyn Store) -> Vec<Claimed> {
    let worker = fabrica_core::ids::WorkerId::new("worker");
    let lease = Duration::from_mins(10);
    store
        .claim(&ClaimRequest {
            worker,
            lease,
            limit: 10,
            takeovers: 10,
            only: None,
            limits: ClaimLimits::default(),
        })
        .await
        .unwrap()
}
