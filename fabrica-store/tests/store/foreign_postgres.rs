//! Other programs that read and write the specification's tables, as psql would.

use std::sync::Arc;
use std::time::Duration;

use fabrica_core::ids::SessionId;
use fabrica_core::message::{MessageKind, NewMessage};
use fabrica_core::ports::store::{AttemptStart, EventRecord, Notice};
use fabrica_core::ports::{Store, StoreError};
use fabrica_core::secrets::TokenHash;
use fabrica_store::PostgresStore;
use futures::StreamExt as _;
use sqlx::postgres::PgListener;
use sqlx::types::Uuid;
use sqlx::{Connection as _, Executor as _, PgConnection, PgPool};

use crate::support::{claim, with_postgres};

async fn foreign_session(connection: &mut PgConnection) -> SessionId {
    let id: Uuid =
        sqlx::query_scalar("insert into sessions (repo_url) values ('https://h/r.git') returning id")
            .fetch_one(&mut *connection)
            .await
            .unwrap();
    SessionId::from_uuid(id)
}

async fn add_spec(connection: &mut PgConnection, session: SessionId) {
    sqlx::query("insert into specs (session_id, content) values ($1, '# A plan')")
        .bind(session.as_uuid())
        .execute(connection)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_foreign_session_is_claimed_once_it_has_a_spec() {
    with_postgres(|store, url| async move {
        let mut psql = PgConnection::connect(&url).await.unwrap();
        let mut notices = store.subscribe().await.unwrap();
        let id = foreign_session(&mut psql).await;
        assert_eq!(claim(&*store).await, []);
        assert_eq!(store.session(id).await.unwrap().unwrap().title, None);
        assert_eq!(notices.next().await, Some(Notice::Claimable), "it was pending");
        add_spec(&mut psql, id).await;
        assert_eq!(notices.next().await, Some(Notice::Claimable));

        let claimed = claim(&*store).await.remove(0);
        assert_eq!(
            (
                claimed.session.id,
                claimed.spec.content.as_str(),
                claimed.spec.version
            ),
            (id, "# A plan", 1)
        );
        let start = AttemptStart {
            container: "c".into(),
            branch: "b".into(),
            title: "A plan".into(),
            runner_token: TokenHash::of("r"),
            agent_token: TokenHash::of("a"),
        };
        store.start_attempt(claimed.fence(), start).await.unwrap();
        assert_eq!(
            store.session(id).await.unwrap().unwrap().title.as_deref(),
            Some("A plan")
        );
    })
    .await;
}

#[tokio::test]
async fn the_newest_version_of_a_spec_counts() {
    with_postgres(|store, url| async move {
        let mut psql = PgConnection::connect(&url).await.unwrap();
        let id = foreign_session(&mut psql).await;
        add_spec(&mut psql, id).await;
        sqlx::query("insert into specs (session_id, content, version) values ($1, 'newer', 2)")
            .bind(id.as_uuid())
            .execute(&mut psql)
            .await
            .unwrap();
        assert_eq!(claim(&*store).await[0].spec.content, "newer");
        assert_eq!(store.specs(id).await.unwrap().len(), 2);
    })
    .await;
}

fn event(number: u64) -> EventRecord {
    use fabrica_core::clock::{IdSource, SystemClock, SystemEntropy};
    use fabrica_core::message::MessageContent;

    let id = IdSource::new(&SystemClock, &SystemEntropy).message();
    let content = MessageContent::text(format!("event {number}"));
    EventRecord {
        event: number,
        messages: vec![NewMessage {
            id,
            kind: MessageKind::Progress,
            content,
        }],
        ..EventRecord::default()
    }
}

async fn insert_message(pool: PgPool, session: SessionId) {
    sqlx::query(
        r#"insert into messages (session_id, type, content) values ($1, 'progress', '{"message": "hi"}')"#,
    )
    .bind(session.as_uuid())
    .execute(&pool)
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_messages_are_numbered_among_ours() {
    with_postgres(|store, url| async move {
        let pool = PgPool::connect(&url).await.unwrap();
        let mut psql = pool.acquire().await.unwrap();
        let id = foreign_session(&mut psql).await;
        add_spec(&mut psql, id).await;
        let fence = claim(&*store).await[0].fence();
        let mut writers = tokio::task::JoinSet::new();
        for _ in 0..40 {
            writers.spawn(insert_message(pool.clone(), id));
        }
        let ours: Arc<PostgresStore> = store.clone();
        writers.spawn(async move {
            for number in 1..=20 {
                ours.record(fence, vec![event(number)]).await.unwrap();
            }
        });
        writers.join_all().await;
        let sequences: Vec<_> = store
            .messages(id, 0, 100)
            .await
            .unwrap()
            .iter()
            .map(|one| one.sequence)
            .collect();
        assert_eq!(sequences, (1..=60).collect::<Vec<_>>());
        drop(psql);
        pool.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_message_without_session_is_refused_by_the_foreign_key() {
    with_postgres(|_, url| async move {
        let mut psql = PgConnection::connect(&url).await.unwrap();
        let error = psql
            .execute("insert into messages (session_id, type, content) values (gen_random_uuid(), 'progress', '{}')")
            .await
            .unwrap_err();
        assert!(error.as_database_error().unwrap().is_foreign_key_violation(), "{error}");
    })
    .await;
}

#[tokio::test]
async fn foreign_types_and_contents_can_be_read() {
    with_postgres(|store, url| async move {
        let mut psql = PgConnection::connect(&url).await.unwrap();
        let id = foreign_session(&mut psql).await;
        for (kind, content) in [
            ("remark", r#"{"message": "hi"}"#),
            ("error", "[1, 2]"),
            ("progress", "{}"),
        ] {
            sqlx::query("insert into messages (session_id, type, content) values ($1, $2, $3::jsonb)")
                .bind(id.as_uuid())
                .bind(kind)
                .bind(content)
                .execute(&mut psql)
                .await
                .unwrap();
        }
        let messages = store.messages(id, 0, 9).await.unwrap();
        assert_eq!(
            (messages[0].kind, messages[0].content.message.as_str()),
            (MessageKind::Progress, "hi")
        );
        assert_eq!(messages[0].content.metadata["type"], "remark");
        assert_eq!(messages[1].kind, MessageKind::Error);
        assert_eq!(messages[1].content.metadata["content"], serde_json::json!([1, 2]));
        assert!(messages[2].content.metadata.is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_listener_gets_one_notice_for_each_message() {
    with_postgres(|store, url| async move {
        let mut listener = PgListener::connect(&url).await.unwrap();
        listener.listen("fabrica_messages").await.unwrap();
        let mut psql = PgConnection::connect(&url).await.unwrap();
        let id = foreign_session(&mut psql).await;
        add_spec(&mut psql, id).await;
        let fence = claim(&*store).await[0].fence();
        store.record(fence, (1..=3).map(event).collect()).await.unwrap();
        psql.execute(
            sqlx::query("insert into messages (session_id, type, content) values ($1, 'error', '{}')")
                .bind(id.as_uuid()),
        )
        .await
        .unwrap();

        let stored = store.messages(id, 0, 9).await.unwrap();
        assert_eq!(stored.len(), 4);
        for message in stored {
            let payload: serde_json::Value =
                serde_json::from_str(listener.recv().await.unwrap().payload()).unwrap();
            let expected = serde_json::json!({
                "id": message.id.to_string(), "session_id": id.to_string(), "type": message.kind.as_str(),
            });
            assert_eq!(payload, expected);
        }
        // Whatever others write as its type, the payload can be read.
        let strange = "a \"quoted\"\\\ntype";
        psql.execute(
            sqlx::query("insert into messages (session_id, type, content) values ($1, $2, '{}')")
                .bind(id.as_uuid())
                .bind(strange),
        )
        .await
        .unwrap();
        let payload = listener.recv().await.unwrap();
        let payload: serde_json::Value = serde_json::from_str(payload.payload()).unwrap();
        assert_eq!(payload["type"], strange);
        let more = tokio::time::timeout(Duration::from_millis(200), listener.recv()).await;
        assert!(more.is_err(), "no more than one notice each: {more:?}");
    })
    .await;
}

#[tokio::test]
async fn a_broken_row_is_named() {
    with_postgres(|store, url| async move {
        let mut psql = PgConnection::connect(&url).await.unwrap();
        let id = foreign_session(&mut psql).await;
        psql.execute("update sessions set status = 'odd'").await.unwrap();
        let error = store.session(id).await.unwrap_err();
        assert!(
            matches!(
                error,
                StoreError::BrokenRow {
                    table: "sessions",
                    ..
                }
            ),
            "{error:?}"
        );
        let text = error.to_string();
        assert!(
            text.contains(&id.to_string()) && text.contains("status") && text.contains("odd"),
            "{text}"
        );
    })
    .await;
}

#[tokio::test]
async fn a_lost_listener_says_that_notices_may_be_missing() {
    with_postgres(|store, url| async move {
        let mut notices = store.subscribe().await.unwrap();
        let mut psql = PgConnection::connect(&url).await.unwrap();
        psql.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity
             where datname = current_database() and pid <> pg_backend_pid()",
        )
        .await
        .unwrap();
        let notice = tokio::time::timeout(Duration::from_secs(20), notices.next())
            .await
            .unwrap();
        assert_eq!(notice, Some(Notice::Missed));
        foreign_session(&mut psql).await;
        let notice = tokio::time::timeout(Duration::from_secs(20), notices.next())
            .await
            .unwrap();
        assert_eq!(notice, Some(Notice::Claimable));
        store.close().await;
        assert_eq!(notices.next().await, None, "the stream ends with the store");
    })
    .await;
}
