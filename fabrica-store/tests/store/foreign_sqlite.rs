//! Other programs that have the file open.

use std::process::Command;
use std::time::Duration;

use fabrica_core::ids::SessionId;
use fabrica_core::ports::Store;
use fabrica_core::ports::store::Notice;
use fabrica_store::SqliteStore;
use futures::StreamExt as _;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::types::Uuid;
use sqlx::{ConnectOptions as _, SqliteConnection};

use crate::support::{claim, with_sqlite};

async fn connection(path: &str) -> SqliteConnection {
    SqliteConnectOptions::new()
        .filename(path)
        .connect()
        .await
        .unwrap()
}

async fn foreign_session(connection: &mut SqliteConnection) -> SessionId {
    let id: Uuid =
        sqlx::query_scalar("insert into sessions (repo_url) values ('https://h/r.git') returning id")
            .fetch_one(&mut *connection)
            .await
            .unwrap();
    SessionId::from_uuid(id)
}

async fn run(connection: &mut SqliteConnection, sql: &'static str) {
    sqlx::query(sql).execute(connection).await.unwrap();
}

const SPEC: &str = "insert into specs (session_id, content) select id, '# A plan' from sessions";
const MESSAGE: &str = r#"insert into messages (session_id, type, content) select id, 'progress', '{"message": "hi"}' from sessions"#;

async fn next(notices: &mut futures::stream::BoxStream<'static, Notice>) -> Option<Notice> {
    tokio::time::timeout(Duration::from_secs(20), notices.next())
        .await
        .expect("a notice comes")
}

#[tokio::test]
async fn a_foreign_session_is_claimed_once_it_has_a_spec() {
    with_sqlite(|store, path| async move {
        let mut other = connection(&path).await;
        let mut notices = store.subscribe().await.unwrap();
        let id = foreign_session(&mut other).await;
        assert_eq!(claim(&*store).await, []);
        run(&mut other, SPEC).await;
        assert_eq!(next(&mut notices).await, Some(Notice::Claimable));
        let claimed = claim(&*store).await.remove(0);
        assert_eq!(
            (claimed.session.id, claimed.spec.content.as_str()),
            (id, "# A plan")
        );
        assert_eq!(claimed.session.title, None);
    })
    .await;
}

#[tokio::test]
async fn foreign_messages_are_numbered_and_noticed_once() {
    with_sqlite(|store, path| async move {
        let mut other = connection(&path).await;
        let id = foreign_session(&mut other).await;
        let mut notices = store.subscribe().await.unwrap();
        for _ in 0..3 {
            run(&mut other, MESSAGE).await;
        }
        let messages = store.messages(id, 0, 9).await.unwrap();
        assert_eq!(
            messages
                .iter()
                .map(|message| message.sequence)
                .collect::<Vec<_>>(),
            [1, 2, 3]
        );
        for message in messages {
            let expected = Notice::Message {
                id: message.id,
                session: id,
                kind: message.kind,
            };
            assert_eq!(next(&mut notices).await, Some(expected));
        }
        let more = tokio::time::timeout(Duration::from_millis(300), notices.next()).await;
        assert!(more.is_err(), "{more:?}");
    })
    .await;
}

#[tokio::test]
async fn two_stores_over_one_file_notice_each_other() {
    with_sqlite(|first, path| async move {
        let second = SqliteStore::open(&path).await.unwrap();
        let mut notices = second.subscribe().await.unwrap();
        let mut other = connection(&path).await;
        let id = foreign_session(&mut other).await;
        run(&mut other, SPEC).await;
        assert_eq!(next(&mut notices).await, Some(Notice::Claimable));
        claim(&*first).await;
        first
            .request_cancel(
                id,
                fabrica_core::message::NewMessage {
                    id: fabrica_core::ids::MessageId::from_uuid(Uuid::nil()),
                    kind: fabrica_core::message::MessageKind::Progress,
                    content: fabrica_core::message::MessageContent::text("cancel"),
                },
            )
            .await
            .unwrap();
        assert_eq!(next(&mut notices).await, Some(Notice::CancelRequested(id)));
        assert!(second.session(id).await.unwrap().unwrap().cancel_requested);
        second.close().await;
        assert_eq!(notices.next().await, None);
    })
    .await;
}

#[tokio::test]
async fn many_notices_are_pruned_and_the_rest_still_comes() {
    with_sqlite(|store, path| async move {
        let mut other = connection(&path).await;
        foreign_session(&mut other).await;
        run(
            &mut other,
            "with recursive n (i) as (select 1 union all select i + 1 from n where i < 11500)
             insert into notices (event, session_id) select 'noise', x'00' from n",
        )
        .await;
        let kept: i64 = sqlx::query_scalar("select count(*) from notices")
            .fetch_one(&mut other)
            .await
            .unwrap();
        assert!((10_000..11_000).contains(&kept), "{kept}");
        let mut notices = store.subscribe().await.unwrap();
        run(&mut other, SPEC).await;
        assert_eq!(next(&mut notices).await, Some(Notice::Claimable));
    })
    .await;
}

/// The system's own `sqlite3` may be older than the bundled library.
#[tokio::test]
async fn the_command_line_tool_can_write() {
    with_sqlite(|store, path| async move {
        let script =
            format!("insert into sessions (repo_url) values ('https://h/r.git'); {SPEC}; {MESSAGE};");
        let output = match Command::new("sqlite3").arg(&path).arg(script).output() {
            Ok(output) => output,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                panic!("sqlite3 is missing: run scripts/install-packages.sh test")
            }
            Err(error) => panic!("{error}"),
        };
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let claimed = claim(&*store).await.remove(0);
        let messages = store.messages(claimed.session.id, 0, 9).await.unwrap();
        assert_eq!((messages.len(), messages[0].sequence), (1, 1));
    })
    .await;
}
