//! What another program sees in PostgreSQL.

use anyhow::{Context as _, Result};
use fabrica_cli::rehearsal::scripts;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Executor as _, Row as _};

use crate::rig::{CLONE, Database, Engine, World, on_each_engine};

/// A database of one test, in the cluster of `make test`.
pub(crate) struct TestDatabase {
    pub(crate) url: String,
    maintenance: PgConnectOptions,
    name: String,
}

impl TestDatabase {
    pub(crate) async fn create() -> Result<Self> {
        let url = std::env::var("FABRICA_TEST_DATABASE_URL")
            .context("FABRICA_TEST_DATABASE_URL is not set: run `make test`")?;
        let maintenance: PgConnectOptions = url.parse()?;
        let mut bytes = [0; 8];
        rand::fill(&mut bytes);
        let name = format!("fabrica_e2e_{:x}", u64::from_le_bytes(bytes));
        let mut connection = maintenance.connect().await?;
        connection
            .execute(AssertSqlSafe(format!("CREATE DATABASE {name}")))
            .await?;
        let url = maintenance.clone().database(&name).to_url_lossy().to_string();
        Ok(Self {
            url,
            maintenance,
            name,
        })
    }

    pub(crate) async fn remove(self) -> Result<()> {
        let mut connection = self.maintenance.connect().await?;
        connection
            .execute(AssertSqlSafe(format!("DROP DATABASE {} WITH (FORCE)", self.name)))
            .await?;
        Ok(())
    }
}

on_each_engine!(other_programs_see_the_session_and_one_notice_per_message);

async fn other_programs_see_the_session_and_one_notice_per_message(engine: Engine) -> Result<()> {
    let world = World::new(engine, Database::Postgres, scripts::sample_job(CLONE)).await?;
    // The schema has to be there before somebody can listen to what happens in it.
    world.store().await?;
    let mut listener = PgListener::connect(&world.database_url).await?;
    listener.listen("fabrica_messages").await?;
    let plan = scripts::sample_plan(&world.rehearsal.repository_url());
    let run = world.run(&plan).await?;
    run.assert_status("completed", 0);

    let pool = PgPoolOptions::new()
        .max_connections(1)
        .connect(&world.database_url)
        .await?;
    let session = sqlx::query("SELECT * FROM sessions").fetch_one(&pool).await?;
    assert_eq!(session.get::<String, _>("status"), "completed");
    assert_eq!(
        session.get::<Option<String>, _>("branch_name"),
        Some(run.branch())
    );
    let page = format!(
        "{}/pull/1",
        world.rehearsal.repository_url().trim_end_matches(".git")
    );
    assert_eq!(session.get::<Option<String>, _>("pr_url"), Some(page));
    assert!(
        session
            .get::<Option<chrono::DateTime<chrono::Utc>>, _>("completed_at")
            .is_some()
    );
    let spec = sqlx::query("SELECT version, content FROM specs")
        .fetch_one(&pool)
        .await?;
    assert_eq!((spec.get::<i32, _>(0), spec.get::<String, _>(1)), (1, plan));
    let ids: Vec<uuid::Uuid> = sqlx::query("SELECT id FROM messages ORDER BY seq")
        .fetch_all(&pool)
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(ids.len(), run.messages.len());

    // Every notice was sent before its row could be read, so one more is enough to know that all have come.
    pool.execute("NOTIFY fabrica_messages, 'end'").await?;
    let mut noticed = Vec::new();
    loop {
        let notice = listener.recv().await?;
        if notice.payload() == "end" {
            break;
        }
        let payload: serde_json::Value = serde_json::from_str(notice.payload())?;
        assert_eq!(payload["session_id"], run.session().id.to_string());
        assert!(payload["type"].is_string());
        noticed.push(payload["id"].as_str().context("an id")?.parse::<uuid::Uuid>()?);
    }
    assert_eq!(noticed, ids, "one notice per message, in order");
    pool.close().await;
    world.end().await
}
