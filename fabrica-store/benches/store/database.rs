//! A database of its own, with Fabrica's tables and bare ones beside them.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use fabrica_store::PostgresStore;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use crate::work::ids;

const VARIABLE: &str = "FABRICA_TEST_DATABASE_URL";

pub(crate) struct Database {
    name: String,
    pub(crate) url: String,
    pub(crate) store: Arc<PostgresStore>,
}

fn server() -> Result<String> {
    std::env::var(VARIABLE).with_context(|| format!("{VARIABLE} is not set: run `make bench`"))
}

async fn connect(url: &str) -> Result<PgConnection> {
    PgConnection::connect(url)
        .await
        .context("the server does not answer")
}

impl Database {
    pub(crate) async fn create() -> Result<Self> {
        let server = server()?;
        let mut admin = connect(&server).await?;
        let fsync: String = sqlx::query_scalar("show fsync").fetch_one(&mut admin).await?;
        ensure!(
            fsync == "on",
            "the server does not write to the disk (fsync is off), so its numbers mean nothing: \
             run `make bench` when no tests use it"
        );
        let name = format!("fabrica_bench_{}", ids().session().as_uuid().simple());
        admin
            .execute(AssertSqlSafe(format!("create database {name}")))
            .await?;
        let base = server.split('?').next().unwrap_or_default();
        let end = base.rfind('/').context("the URL names a database")?;
        let url = format!("{}/{name}", &base[..end]);
        let store = Arc::new(PostgresStore::open(&url).await?);
        let database = Self { name, url, store };
        database.add_bare_tables().await?;
        Ok(database)
    }

    /// The same columns, indexes and references, and no triggers: nobody is told, and nobody counts.
    async fn add_bare_tables(&self) -> Result<()> {
        self.connect()
            .await?
            .execute(
                "create table bare_sessions (like sessions including all);
                 create table bare_specs (like specs including all);
                 create table bare_messages (like messages including all,
                     foreign key (session_id) references sessions (id));
                 create table bare_first_messages (like messages including all,
                     foreign key (session_id) references bare_sessions (id));",
            )
            .await?;
        Ok(())
    }

    /// A connection like those of the store.
    pub(crate) async fn connect(&self) -> Result<PgConnection> {
        connect(&self.url).await
    }

    pub(crate) async fn connections(&self, number: usize) -> Result<Vec<PgConnection>> {
        let mut connections = Vec::with_capacity(number);
        for _ in 0..number {
            connections.push(self.connect().await?);
        }
        Ok(connections)
    }

    pub(crate) async fn drop(self) -> Result<()> {
        self.store.close().await;
        connect(&server()?)
            .await?
            .execute(AssertSqlSafe(format!("drop database {} with (force)", self.name)))
            .await?;
        Ok(())
    }
}
