//! The specification's tables, exactly.

use std::collections::BTreeMap;

use sqlx::{Connection as _, PgConnection};

use crate::support::with_postgres;

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
