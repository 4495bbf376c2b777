//! Fabrica itself, on a stage of stand-ins.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use chrono::{DateTime, Utc};
use fabrica_cli::rehearsal::{Rehearsal, RehearsalOptions, scripts};
use fabrica_core::ports::store::SessionFilter;
use tempfile::TempDir;
use tokio::process::Command;

/// The stand-ins, and how `fabrica` is started among them.
pub(crate) struct Stage {
    pub(crate) rehearsal: Rehearsal,
    directory: TempDir,
    engine: &'static str,
    socket: String,
}

impl Stage {
    pub(crate) async fn new(engine: &str, socket: &str) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("fabrica-bench-").tempdir()?;
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755))?;
        let script = scripts::sample_job("/workspace/repository");
        let rehearsal =
            Rehearsal::start(RehearsalOptions::new(directory.path().join("stage"), script)).await?;
        let engine = if engine == "docker" { "docker" } else { "podman" };
        Ok(Self {
            rehearsal,
            directory,
            engine,
            socket: socket.to_owned(),
        })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn command(&self, program: &Path, database: &Path) -> Result<Command> {
        let url = self.rehearsal.repository_url();
        let host = url
            .trim_start_matches("http://")
            .split('/')
            .next()
            .context("a host")?
            .to_owned();
        let variable = if self.engine == "docker" {
            "DOCKER_HOST"
        } else {
            "CONTAINER_HOST"
        };
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", std::env::var("PATH")?)
            .env("HOME", self.directory.path())
            .env(variable, format!("unix://{}", self.socket))
            .env("DATABASE_URL", format!("sqlite:{}", database.display()))
            .env("ANTHROPIC_API_KEY", "rehearsal-model-key")
            .env("FABRICA_FORGE_TOKEN", "rehearsal-forge-token")
            .env("FABRICA_RUNTIME", self.engine)
            .env("FABRICA_DATA_DIRECTORY", self.path("data"))
            .env("FABRICA_MODEL_URL", self.rehearsal.model_base_url())
            .env("FABRICA_PLAIN_HTTP_HOSTS", &host)
            .env(
                "FABRICA_FORGES",
                format!("github={host},{}", self.rehearsal.forge_api_url()),
            )
            .env("FABRICA_ALLOW_UNENFORCED_LIMITS", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        Ok(command)
    }

    async fn run(&self, plan: &str) -> Result<Run> {
        let run = tempfile::Builder::new()
            .prefix("run-")
            .tempdir_in(self.directory.path())?
            .keep();
        std::fs::write(run.join("plan.md"), plan)?;
        let database = run.join("fabrica.db");
        let begin = Instant::now();
        let output = self
            .command(Path::new(env!("CARGO_BIN_EXE_fabrica")), &database)?
            .arg("run")
            .arg(run.join("plan.md"))
            .env("RUST_LOG", "error,fabrica_core::orchestrator=info")
            .output()
            .await?;
        let took = begin.elapsed();
        ensure!(
            output.status.success(),
            "fabrica run: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(Run {
            took,
            database,
            log: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// A whole `fabrica run` of the four-turn job, to its pull request.
    pub(crate) async fn whole_run(&self) -> Result<Duration> {
        let plan = scripts::sample_plan(&self.rehearsal.repository_url());
        // The agent alone is what it is held against: it verifies nothing either.
        let plan = plan
            .lines()
            .filter(|line| !line.starts_with("verify:"))
            .collect::<Vec<_>>()
            .join("\n");
        Ok(self.run(&plan).await?.took)
    }

    /// From the stored session to the runner's first stored event, in the database's time, which includes the claim; and
    /// from the claim to the engine's word that the container runs, by the log.
    pub(crate) async fn start(&self) -> Result<Start> {
        let plan = format!(
            "---\nrepo: {}\nagent: {{ command: [\"true\"] }}\n---\n# Do nothing\n\nNothing.\n",
            self.rehearsal.repository_url()
        );
        let Run { database, log, .. } = self.run(&plan).await?;
        let store = fabrica_store::connect(&format!("sqlite:{}", database.display())).await?;
        let session = store
            .sessions(&SessionFilter::default(), 1)
            .await?
            .pop()
            .context("a session")?;
        let messages = store.messages(session.id, 0, 100).await?;
        let at = |step: &str| {
            let found = messages
                .iter()
                .find(|message| message.content.metadata.get("step") == Some(&step.into()));
            found
                .map(|message| message.created_at)
                .with_context(|| format!("no message {step}"))
        };
        Ok(Start {
            queued_to_event: (at("started")? - at("queued")?).to_std()?,
            claim_to_container: (logged(&log, "the sandbox is started")? - logged(&log, "attempt begins")?)
                .to_std()?,
        })
    }

    pub(crate) async fn end(self) {
        self.rehearsal.shutdown().await;
    }
}

/// A `fabrica run` that succeeded.
struct Run {
    took: Duration,
    database: PathBuf,
    log: String,
}

/// How long a start took.
pub(crate) struct Start {
    pub(crate) queued_to_event: Duration,
    pub(crate) claim_to_container: Duration,
}

/// When the log says that.
fn logged(log: &str, what: &str) -> Result<DateTime<Utc>> {
    let line = log
        .lines()
        .find(|line| line.contains(what))
        .with_context(|| format!("the log does not say {what:?}"))?;
    let time = line.split_whitespace().next().unwrap_or_default();
    Ok(time.parse()?)
}
