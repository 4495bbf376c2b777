//! Opening databases: again, at once, and in vain.

use fabrica_core::ports::store::SessionFilter;
use fabrica_store::{PostgresStore, SqliteStore, connect};
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::support::{database_url, server_url, with_database, with_sqlite};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_processes_may_migrate_postgres_at_once() {
    with_database(|url| async move {
        let opening = (0..6).map(|_| PostgresStore::open(&url));
        for store in futures::future::join_all(opening).await {
            store.unwrap().close().await;
        }
        PostgresStore::open(&url).await.unwrap().close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_processes_may_migrate_sqlite_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fabrica.db");
    let opening = (0..6).map(|_| tokio::spawn(SqliteStore::open(path.clone())));
    for store in futures::future::join_all(opening).await {
        store.unwrap().unwrap().close().await;
    }
    SqliteStore::open(&path).await.unwrap().close().await;
}

#[tokio::test]
async fn the_address_chooses_the_adapter() {
    with_sqlite(|_, path| async move {
        for address in [path.clone(), format!("sqlite://{path}"), format!("sqlite:{path}")] {
            let store = connect(&address).await.unwrap();
            assert_eq!(store.sessions(&SessionFilter::default(), 1).await.unwrap(), []);
        }
    })
    .await;
    with_database(|url| async move {
        let store = connect(&url).await.unwrap();
        assert_eq!(store.sessions(&SessionFilter::default(), 1).await.unwrap(), []);
    })
    .await;
}

async fn refused(address: &str) -> (String, &'static str) {
    let error = connect(address).await.unwrap_err();
    let mut text = format!("{error} {error:?} {}", error.advice());
    let mut source: Option<&dyn std::error::Error> = std::error::Error::source(&error);
    while let Some(cause) = source {
        text.push_str(&format!(" {cause} {cause:?}"));
        source = cause.source();
    }
    assert!(!text.contains("hunter2"), "{text}");
    (error.to_string(), error.code())
}

#[tokio::test]
async fn an_address_that_leads_nowhere_is_explained_without_the_password() {
    // Port 1 is reserved and nobody listens there.
    let (text, code) = refused("postgres://fabrica:hunter2@127.0.0.1:1/fabrica").await;
    assert_eq!(code, "database.unreachable");
    assert!(text.contains("127.0.0.1:1"), "{text}");
    assert_eq!(
        refused("postgres://fabrica:hunter2@127.0.0.1:notaport/x").await.1,
        "database.address_invalid"
    );
    assert_eq!(
        refused("mysql://fabrica:hunter2@127.0.0.1/x").await.1,
        "database.address_invalid"
    );
    assert_eq!(refused("").await.1, "database.address_invalid");
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing/fabrica.db");
    let (text, code) = refused(missing.to_str().unwrap()).await;
    assert_eq!(code, "database.unreachable", "{text}");
    assert!(text.contains("missing/fabrica.db"), "{text}");
    let garbage = directory.path().join("garbage.db");
    std::fs::write(
        &garbage,
        "this is no database, and long enough to be none".repeat(100),
    )
    .unwrap();
    let (text, _) = refused(garbage.to_str().unwrap()).await;
    assert!(text.contains("not a database"), "{text}");
}

#[tokio::test]
async fn a_refused_login_and_a_missing_database_are_told_apart() {
    let server = server_url();
    let (before, host) = server
        .rsplit_once('@')
        .expect("the test server's URL names a user");
    let scheme = before.split_once("://").unwrap().0;
    let (text, code) = refused(&format!("{scheme}://fabrica_nobody:hunter2@{host}")).await;
    assert_eq!(code, "database.login_refused", "{text}");
    let (text, code) = refused(&database_url(&server, "fabrica_no_such_database")).await;
    assert_eq!(code, "database.missing", "{text}");
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_left_alone() {
    with_database(|url| async move {
        PostgresStore::open(&url).await.unwrap().close().await;
        let mut psql = PgConnection::connect(&url).await.unwrap();
        psql.execute(
            "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
             values (9999, 'later', true, '', 0)",
        )
        .await
        .unwrap();
        assert_eq!(
            PostgresStore::open(&url).await.unwrap_err().code(),
            "database.newer"
        );
    })
    .await;
}
