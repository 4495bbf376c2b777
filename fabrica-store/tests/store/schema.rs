//! The specification's tables, exactly.

use std::collections::BTreeMap;

use fabrica_core::ports::Store as _;
use sqlx::{Connection as _, PgConnection, SqliteConnection};

use crate::support::{new_session, with_postgres, with_sqlite};

type Column = (String, String, Option<String>, String);
type Specified = (&'static str, &'static str, Option<&'static str>, &'static str);

/// Name, type, default, nullable; in this order, and before all others.
const TABLES: [(&str, &[Specified]); 3] = [
    (
        "specs",
        &[
            ("id", "uuid", Some("gen_random_uuid()"), "NO"),
            ("session_id", "uuid", None, "NO"),
            ("content", "text", None, "NO"),
            ("version", "integer", Some("1"), "NO"),
            ("created_at", "timestamp with time zone", Some("now()"), "NO"),
        ],
    ),
    (
        "sessions",
        &[
            ("id", "uuid", Some("gen_random_uuid()"), "NO"),
            ("repo_url", "text", None, "NO"),
            ("branch_name", "text", None, "YES"),
            ("pr_url", "text", None, "YES"),
            ("status", "text", Some("'pending'::text"), "NO"),
            ("created_at", "timestamp with time zone", Some("now()"), "NO"),
            ("completed_at", "timestamp with time zone", None, "YES"),
        ],
    ),
    (
        "messages",
        &[
            ("id", "uuid", Some("gen_random_uuid()"), "NO"),
            ("session_id", "uuid", None, "NO"),
            ("type", "text", None, "NO"),
            ("content", "jsonb", None, "NO"),
            ("created_at", "timestamp with time zone", Some("now()"), "NO"),
            ("read_at", "timestamp with time zone", None, "YES"),
        ],
    ),
];

#[tokio::test]
async fn the_columns_are_those_of_the_specification() {
    with_postgres(|_, url| async move {
        let mut psql = PgConnection::connect(&url).await.unwrap();
        for (table, expected) in TABLES {
            let columns: Vec<Column> = sqlx::query_as(
                "select column_name::text, data_type::text, column_default::text, is_nullable::text
                 from information_schema.columns where table_name = $1 order by ordinal_position",
            )
            .bind(table)
            .fetch_all(&mut psql)
            .await
            .unwrap();
            let expected: Vec<Column> = expected
                .iter()
                .map(|(name, kind, default, null)| {
                    (
                        (*name).into(),
                        (*kind).into(),
                        default.map(Into::into),
                        (*null).into(),
                    )
                })
                .collect();
            assert_eq!(columns[..expected.len()], expected, "{table}");
            // Another program that inserts names none of ours.
            for (name, _, default, null) in &columns[expected.len()..] {
                assert!(
                    default.is_some() || null == "YES" || name == "seq",
                    "{table}.{name}"
                );
            }
        }
    })
    .await;
}

#[tokio::test]
async fn the_indexes_and_keys_are_those_of_the_specification() {
    with_postgres(|_, url| async move {
        let mut psql = PgConnection::connect(&url).await.unwrap();
        let indexes: Vec<(String, String)> =
            sqlx::query_as("select tablename::text, indexdef from pg_indexes where schemaname = 'public'")
                .fetch_all(&mut psql)
                .await
                .unwrap();
        let mut by_table: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (table, definition) in indexes {
            by_table.entry(table).or_default().push(definition);
        }
        for (table, definition) in [
            ("specs", "USING btree (session_id)"),
            ("specs", "USING btree (id)"),
            ("sessions", "USING btree (id)"),
            ("messages", "USING btree (id)"),
            ("messages", "USING btree (session_id)"),
            ("messages", "USING btree (session_id, read_at) WHERE (read_at IS NULL)"),
        ] {
            let found = by_table[table].iter().any(|index| index.ends_with(definition));
            assert!(found, "{table}: {definition}: {by_table:?}");
        }
        let keys: Vec<String> = sqlx::query_scalar(
            "select pg_get_constraintdef(oid) from pg_constraint where conrelid = 'messages'::regclass and contype = 'f'",
        )
        .fetch_all(&mut psql)
        .await
        .unwrap();
        assert_eq!(keys, ["FOREIGN KEY (session_id) REFERENCES sessions(id)"]);
    })
    .await;
}

/// Whatever writes to it: the database itself keeps a session from waiting for two answers.
#[tokio::test]
async fn a_session_has_one_open_question_at_most() {
    with_postgres(|store, url| async move {
        let mut psql = PgConnection::connect(&url).await.unwrap();
        let id = store.create_session(new_session()).await.unwrap().session();
        let mut ask = async |attempt: i32| {
            sqlx::query(
                "insert into questions (id, session_id, attempt, question, options, context, urgency, on_deadline)
                 values (gen_random_uuid(), $1, $2, 'Which?', '[]', '', 'normal', 'fail')",
            )
            .bind(id.as_uuid())
            .bind(attempt)
            .execute(&mut psql)
            .await
        };
        ask(1).await.unwrap();
        let refused = ask(2).await.unwrap_err().to_string();
        assert!(refused.contains("questions_open_idx"), "{refused}");
    })
    .await;
    with_sqlite(|store, path| async move {
        let mut file = SqliteConnection::connect(&path).await.unwrap();
        let id = store.create_session(new_session()).await.unwrap().session();
        let mut ask = async |attempt: i32| {
            sqlx::query(
                "insert into questions (id, session_id, attempt, question, options, context, urgency, on_deadline)
                 values (randomblob(16), ?1, ?2, 'Which?', '[]', '', 'normal', 'fail')",
            )
            .bind(id.as_uuid())
            .bind(attempt)
            .execute(&mut file)
            .await
        };
        ask(1).await.unwrap();
        let refused = ask(2).await.unwrap_err().to_string();
        assert!(refused.contains("questions.session_id"), "{refused}");
    })
    .await;
}

/// What many reports change stands in no index, so that a row's new version can stay on its page.
#[tokio::test]
async fn checkpoints_stand_in_no_index() {
    with_postgres(|_, url| async move {
        let mut psql = PgConnection::connect(&url).await.unwrap();
        let indexes: Vec<String> =
            sqlx::query_scalar("select indexdef from pg_indexes where tablename = 'sessions'")
                .fetch_all(&mut psql)
                .await
                .unwrap();
        assert!(!indexes.is_empty());
        for index in indexes {
            assert!(!index.contains("checkpoint"), "{index}");
        }
    })
    .await;
}
