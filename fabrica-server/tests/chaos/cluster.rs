//! A PostgreSQL cluster of the suite's own, so that its restarts disturb nobody.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Executor as _};
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::process::{Note, as_worker, give_to_worker, output};

const USER: &str = "fabrica";
const PASSWORD: &str = "chaos";

/// A cluster that can be restarted.
#[derive(Debug)]
pub(crate) struct Cluster {
    data: PathBuf,
    log: PathBuf,
    port: u16,
    programs: PathBuf,
    note: Mutex<Option<Note>>,
}

impl Cluster {
    /// Makes and starts one below a directory, which may be a small file system.
    pub(crate) async fn start(directory: &Path, small: bool) -> Result<Self> {
        std::fs::create_dir_all(directory)?;
        give_to_worker(directory).await?;
        let cluster = Self {
            data: directory.join("data"),
            log: directory.join("server.log"),
            port: free_port()?,
            programs: programs()?,
            note: Mutex::default(),
        };
        let password = directory.join("password");
        std::fs::write(&password, PASSWORD)?;
        give_to_worker(&password).await?;
        let mut initdb = as_worker(&cluster.programs.join("initdb"), &[]);
        initdb
            .args([
                "-U",
                USER,
                "-A",
                "scram-sha-256",
                "-E",
                "UTF8",
                "--no-locale",
                "--no-sync",
            ])
            .arg(format!("--pwfile={}", password.display()))
            .arg("-D")
            .arg(&cluster.data);
        if small {
            initdb.arg("--wal-segsize=1");
        }
        output(&mut initdb).await?;
        let mut settings = format!(
            "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = ''\nmax_connections = 200\n\
             restart_after_crash = on\n",
            cluster.port
        );
        if small {
            settings.push_str(
                "max_wal_size = 4MB\nmin_wal_size = 2MB\nwal_recycle = off\nshared_buffers = 4MB\n",
            );
        }
        let include = directory.join("settings.conf");
        std::fs::write(&include, settings)?;
        give_to_worker(&include).await?;
        let mut copy = as_worker(Path::new("cp"), &[]);
        copy.arg(&include).arg(cluster.data.join("postgresql.auto.conf"));
        output(&mut copy).await?;
        cluster.up().await?;
        Ok(cluster)
    }

    fn control(&self, arguments: &[&str]) -> Command {
        let mut command = as_worker(&self.programs.join("pg_ctl"), &[]);
        command.arg("-D").arg(&self.data).arg("-s").args(arguments);
        command
    }

    /// Starts it after a stop, and waits until it answers.
    pub(crate) async fn up(&self) -> Result<()> {
        let log = self.log.display().to_string();
        let mut start = self.control(&["-w", "-t", "60", "-l", &log, "start"]);
        // Its output must not be a pipe: the server would keep it open.
        let status = start
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status()
            .await?;
        if !status.success() {
            bail!("PostgreSQL does not start: see {log}");
        }
        let process = std::fs::read_to_string(self.data.join("postmaster.pid")).unwrap_or_default();
        let process = process.lines().next().and_then(|line| line.parse().ok());
        *self.note.lock().unwrap_or_else(PoisonError::into_inner) = process.map(Note::of);
        Ok(())
    }

    /// Stops it as a power failure would: connections are cut, nothing is finished.
    pub(crate) async fn stop_immediately(&self) -> Result<()> {
        output(&mut self.control(&["-m", "immediate", "-w", "stop"])).await?;
        Ok(())
    }

    /// Whether its main process runs.
    pub(crate) async fn is_up(&self) -> bool {
        output(&mut self.control(&["status"])).await.is_ok()
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// The address of a database, by way of that port.
    pub(crate) fn url(database: &str, port: u16) -> String {
        format!("postgres://{USER}:{PASSWORD}@127.0.0.1:{port}/{database}")
    }

    /// Makes a database.
    pub(crate) async fn create(&self, database: &str) -> Result<()> {
        let options: PgConnectOptions = Self::url("postgres", self.port).parse()?;
        let mut connection = options.connect().await?;
        connection
            .execute(AssertSqlSafe(format!("CREATE DATABASE {database}")))
            .await?;
        Ok(())
    }

    /// The suite's own way in, which is never cut on purpose.
    pub(crate) async fn pool(&self, database: &str) -> Result<PgPool> {
        let deadline = Instant::now() + Duration::from_mins(1);
        let options: PgConnectOptions = Self::url(database, self.port).parse()?;
        loop {
            let pool = PgPoolOptions::new()
                .max_connections(4)
                .acquire_timeout(Duration::from_secs(5))
                .connect_with(options.clone().application_name("chaos"))
                .await;
            match pool {
                Ok(pool) => return Ok(pool),
                Err(error) if Instant::now() > deadline => return Err(error.into()),
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// Ends it for good.
    pub(crate) async fn end(&self) {
        // Whatever does not end by itself ends with its directory.
        let _ = output(&mut self.control(&["-m", "immediate", "-w", "stop"])).await;
    }
}

fn programs() -> Result<PathBuf> {
    let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|entries| entries.flatten().map(|entry| entry.path().join("bin")).collect())
        .unwrap_or_default();
    versions.extend(std::env::split_paths(
        &std::env::var_os("PATH").unwrap_or_default(),
    ));
    versions
        .into_iter()
        .find(|directory| directory.join("initdb").exists())
        .context("initdb is missing: run scripts/install-packages.sh test")
}

/// A port of the loopback that nobody listens on at this moment.
pub(crate) fn free_port() -> Result<u16> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    Ok(listener.local_addr()?.port())
}
