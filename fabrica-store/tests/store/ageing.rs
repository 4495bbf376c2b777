//! What needs rows of another age or of another program than the port can make: keys that ran out, retention, sessions
//! that run for nobody, and databases of an older version.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use fabrica_core::ids::{AttemptNumber, LeaseNumber, SessionId, WorkerId};
use fabrica_core::ports::Store;
use fabrica_core::ports::store::{
    AttemptEnd, ClaimLimits, ClaimRequest, Created, NewSession, Reaped, Retention, StoreError,
};
use fabrica_core::session::SessionStatus;
use fabrica_store::{PostgresStore, SqliteStore};
use sqlx::migrate::Migrator;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, PgConnection};

use crate::support::{claim, new_session, with_database, with_postgres, with_sqlite};

/// The database behind a store, as another program sees it.
#[derive(Debug, Clone)]
pub(crate) enum Raw {
    Postgres(String),
    Sqlite(String),
}

impl Raw {
    /// Runs a statement in which `{age}` is two hours and `{now}` the present.
    pub(crate) async fn run(&self, statement: &str) {
        match self {
            Self::Postgres(url) => {
                let statement = statement
                    .replace("{age}", "interval '2 hours'")
                    .replace("{now}", "now()");
                let mut connection = PgConnection::connect(url).await.unwrap();
                connection.execute(AssertSqlSafe(statement)).await.unwrap();
            }
            Self::Sqlite(path) => {
                let statement = statement
                    .replace("{age}", "7200000000")
                    .replace("{now}", "cast(unixepoch('subsec') * 1000000 as integer)");
                let options = SqliteConnectOptions::new().filename(path);
                let mut connection = options.connect().await.unwrap();
                connection.execute(AssertSqlSafe(statement)).await.unwrap();
            }
        }
    }
}

/// Runs a test over each adapter.
macro_rules! over_both {
    ($($test:ident),*) => {
        mod postgres {
            $(#[tokio::test]
            async fn $test() {
                super::with_postgres(|store, url| super::$test(store, super::Raw::Postgres(url))).await;
            })*
        }
        mod sqlite {
            $(#[tokio::test]
            async fn $test() {
                super::with_sqlite(|store, path| super::$test(store, super::Raw::Sqlite(path))).await;
            })*
        }
    };
}

over_both!(
    an_idempotency_key_is_free_after_its_window,
    only_what_is_old_enough_is_reaped,
    what_runs_for_another_program_wedges_nothing,
    a_session_without_a_plan_keeps_nobody_waiting,
    a_broken_row_keeps_nobody_waiting
);

async fn an_idempotency_key_is_free_after_its_window(store: Arc<dyn Store>, raw: Raw) {
    let keyed = |content: &str| NewSession {
        idempotency_key: Some("key".into()),
        content: content.into(),
        ..new_session()
    };
    let first = keyed("one");
    store.create_session(first.clone()).await.unwrap();
    for _ in 0..11 {
        raw.run("update sessions set created_at = created_at - {age}")
            .await;
    }
    let error = store.create_session(keyed("another")).await.unwrap_err();
    assert!(
        matches!(error, StoreError::IdempotencyConflict(id) if id == first.id),
        "{error}"
    );
    raw.run("update sessions set created_at = created_at - {age}")
        .await;
    let second = keyed("another");
    assert_eq!(
        store.create_session(second.clone()).await.unwrap(),
        Created::New(second.id)
    );
    assert_eq!(
        store.create_session(keyed("another")).await.unwrap(),
        Created::Existing(second.id)
    );
    assert_eq!(
        store.create_session(first.clone()).await.unwrap_err().code(),
        "session.idempotency_conflict",
        "the key is the second one's now"
    );
    let again = NewSession {
        idempotency_key: None,
        ..first.clone()
    };
    assert_eq!(
        store.create_session(again).await.unwrap(),
        Created::Existing(first.id)
    );
}

async fn only_what_is_old_enough_is_reaped(store: Arc<dyn Store>, raw: Raw) {
    let mut ended = Vec::new();
    for _ in 0..2 {
        let id = store.create_session(new_session()).await.unwrap().session();
        let fence = claim(&*store).await[0].fence();
        let event = fabrica_core::ports::store::EventRecord {
            event: 1,
            transcript: Some((chrono::DateTime::UNIX_EPOCH, entry())),
            ..Default::default()
        };
        store.record(fence, vec![event]).await.unwrap();
        let artifact = fabrica_core::ports::store::NewArtifact {
            id: crate::support::ids().artifact(),
            name: "log".into(),
            content: vec![1],
        };
        store.store_artifact(fence, artifact).await.unwrap();
        store
            .finish_attempt(fence, AttemptEnd::Completed { heard: 0 }, vec![])
            .await
            .unwrap();
        ended.push(id);
        if ended.len() == 1 {
            raw.run("update sessions set completed_at = completed_at - {age}")
                .await;
            raw.run("update artifacts set created_at = created_at - {age}")
                .await;
        }
    }
    let (old, young) = (ended[0], ended[1]);
    let states = store.session_states(&[old]).await.unwrap();
    assert!(states[0].ended.unwrap() >= Duration::from_hours(2));
    let hour = Some(Duration::from_hours(1));
    let day = Some(Duration::from_hours(24));
    let retention = |sessions, transcripts, artifacts| Retention {
        sessions,
        transcripts,
        artifacts,
    };
    let reaped = |sessions, transcript_entries, artifacts| Reaped {
        sessions,
        transcript_entries,
        artifacts,
    };
    for (retention, expected) in [
        (retention(day, day, day), reaped(0, 0, 0)),
        (retention(day, hour, None), reaped(0, 1, 0)),
        (retention(None, hour, hour), reaped(0, 0, 1)),
        (retention(hour, hour, hour), reaped(1, 0, 0)),
        (retention(hour, hour, hour), reaped(0, 0, 0)),
    ] {
        assert_eq!(
            store.reap(&retention, 10).await.unwrap(),
            expected,
            "{retention:?}"
        );
    }
    assert_eq!(store.session(old).await.unwrap(), None);
    assert_eq!(store.transcript(young, 0, 9).await.unwrap().len(), 1);
    assert_eq!(store.artifact(young, "log").await.unwrap(), Some(vec![1]));
}

fn entry() -> fabrica_core::protocol::TranscriptEntry {
    fabrica_core::protocol::TranscriptEntry {
        kind: "text".into(),
        parent: None,
        summary: "line".into(),
        detail: serde_json::Map::new(),
    }
}

/// Without an attempt it is none of ours: nobody claims it, and it takes nobody's place.
async fn what_runs_for_another_program_wedges_nothing(store: Arc<dyn Store>, raw: Raw) {
    raw.run("insert into sessions (repo_url, status, run_at) values ('r', 'running', {now} - {age})")
        .await;
    raw.run("insert into specs (session_id, content) select id, '# Plan' from sessions")
        .await;
    let request = ClaimRequest {
        worker: WorkerId::new("worker"),
        lease: Duration::from_mins(10),
        limit: 10,
        takeovers: 10,
        only: None,
        limits: ClaimLimits {
            global: Some(1),
            per_repository: Some(1),
            per_submitter: Some(1),
        },
    };
    assert_eq!(store.claim(&request).await.unwrap(), []);
    let ours = NewSession {
        repo_url: "r".into(),
        ..new_session()
    };
    store.create_session(ours.clone()).await.unwrap();
    let claimed = store.claim(&request).await.unwrap();
    assert_eq!(claimed.len(), 1);
    assert_eq!(claimed[0].session.id, ours.id);
    raw.run("update sessions set worker = 'worker' where attempt = 0")
        .await;
    assert_eq!(store.release_leases(&request.worker, None).await.unwrap(), 1);
}

/// However many another program left without one.
async fn a_session_without_a_plan_keeps_nobody_waiting(store: Arc<dyn Store>, raw: Raw) {
    raw.run(
        "insert into sessions (repo_url, priority)
         with recursive n (i) as (select 1 union all select i + 1 from n where i < 1000) select 'r', 1 from n",
    )
    .await;
    let ours = new_session();
    store.create_session(ours.clone()).await.unwrap();
    let claimed = claim(&*store).await;
    assert_eq!(
        claimed.iter().map(|one| one.session.id).collect::<Vec<_>>(),
        [ours.id]
    );
}

/// What no version of Fabrica writes is left to people; the others are claimed.
async fn a_broken_row_keeps_nobody_waiting(store: Arc<dyn Store>, raw: Raw) {
    store.create_session(new_session()).await.unwrap();
    raw.run("update sessions set lease = -7").await;
    let ours = new_session();
    store.create_session(ours.clone()).await.unwrap();
    let claimed = claim(&*store).await;
    assert_eq!(
        claimed.iter().map(|one| one.session.id).collect::<Vec<_>>(),
        [ours.id]
    );
    store
        .release_leases(&WorkerId::new("worker"), None)
        .await
        .unwrap();
    let claimed = claim(&*store).await;
    assert_eq!(
        claimed.iter().map(|one| one.session.id).collect::<Vec<_>>(),
        [ours.id]
    );
}

/// The version before leases had numbers.
fn first_only(mut migrations: Migrator) -> Migrator {
    migrations.migrations = Cow::Owned(migrations.migrations[..1].to_vec());
    migrations
}

const OLD_ROWS: &str = "
    insert into sessions (repo_url, status, attempt, worker, run_at) values ('r', 'running', 1, 'gone', {now} - {age});
    insert into attempts (session_id, number, worker, last_event) select id, 1, 'gone', 7 from sessions;
    insert into sessions (repo_url) values ('r');
    insert into specs (session_id, content) select id, '# Plan' from sessions";

async fn goes_on_from_an_older_version(store: &dyn Store) {
    let claimed = claim(store).await;
    assert_eq!(claimed.len(), 2);
    let resumed = claimed[0].resumed.as_ref().expect("the one that ran goes on");
    assert_eq!(
        (claimed[0].session.attempt, claimed[0].lease),
        (AttemptNumber::new(1), LeaseNumber::new(1))
    );
    assert_eq!((resumed.last_event, &resumed.start), (7, &None));
    assert_eq!(claimed[1].resumed, None);
    let ids: Vec<SessionId> = claimed.iter().map(|one| one.session.id).collect();
    for state in store.session_states(&ids).await.unwrap() {
        assert_eq!(state.status, SessionStatus::Running);
    }
}

#[tokio::test]
async fn an_older_postgres_database_is_brought_up_to_date() {
    with_database(|url| async move {
        let mut connection = PgConnection::connect(&url).await.unwrap();
        let migrations = first_only(sqlx::migrate!("../migrations/postgres"));
        migrations.run_direct(None, &mut connection, false).await.unwrap();
        Raw::Postgres(url.clone()).run(OLD_ROWS).await;
        let store = PostgresStore::open(&url).await.unwrap();
        goes_on_from_an_older_version(&store).await;
        store.close().await;
    })
    .await;
}

#[tokio::test]
async fn an_older_sqlite_file_is_brought_up_to_date() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fabrica.db").to_str().unwrap().to_owned();
    let options = SqliteConnectOptions::new()
        .filename(&path)
        .create_if_missing(true);
    let mut connection = options.connect().await.unwrap();
    let migrations = first_only(sqlx::migrate!("../migrations/sqlite"));
    migrations.run_direct(None, &mut connection, false).await.unwrap();
    connection.close().await.unwrap();
    Raw::Sqlite(path.clone()).run(OLD_ROWS).await;
    let store = SqliteStore::open(&path).await.unwrap();
    goes_on_from_an_older_version(&store).await;
    store.close().await;
}
