//! Everything that a test needs around one `fabrica run`.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use fabrica_cli::rehearsal::{Rehearsal, RehearsalOptions, Script};
use fabrica_core::ids::SessionId;
use fabrica_core::message::{Message, MessageKind};
use fabrica_core::ports::store::{SessionFilter, Store, StoredTranscript};
use fabrica_core::session::Session;
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// Where the clone is inside the sandbox.
pub(crate) const CLONE: &str = "/workspace/repository";
/// Values that must never reach a sandbox.
pub(crate) const MODEL_KEY: &str = "canary-model-key-5f2d9c";
pub(crate) const FORGE_TOKEN: &str = "canary-forge-token-81ab3e";

/// The container engines that every end-to-end test can run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    Docker,
    RootlessPodman,
}

impl Engine {
    /// Its API socket.
    pub(crate) fn socket(self) -> Result<String> {
        let variable = match self {
            Self::Docker => "FABRICA_TEST_DOCKER_SOCKET",
            Self::RootlessPodman => "FABRICA_TEST_PODMAN_ROOTLESS_SOCKET",
        };
        std::env::var(variable).with_context(|| format!("{variable} is not set: run `make test`"))
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::RootlessPodman => "podman",
        }
    }

    pub(crate) const fn variable(self) -> &'static str {
        match self {
            Self::Docker => "DOCKER_HOST",
            Self::RootlessPodman => "CONTAINER_HOST",
        }
    }

    /// Runs a command of the Docker client against the engine; Podman answers it too.
    pub(crate) async fn client(self, arguments: &[&str]) -> Result<String> {
        let output = Command::new("docker")
            .env("DOCKER_HOST", format!("unix://{}", self.socket()?))
            .args(arguments)
            .output()
            .await?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "docker {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(text)
    }
}

/// Which database a test uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Database {
    Sqlite,
    Postgres,
}

/// The surroundings of one run.
pub(crate) struct World {
    pub(crate) engine: Engine,
    pub(crate) rehearsal: Rehearsal,
    pub(crate) database_url: String,
    directory: TempDir,
    postgres: Option<super::postgres::TestDatabase>,
}

impl World {
    pub(crate) async fn new(engine: Engine, database: Database, script: Script) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("fabrica-e2e-").tempdir()?;
        // The rootless engine's user must get through to what is mounted.
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o711))?;
        let options = RehearsalOptions::new(directory.path().join("stage"), script)
            .model_key(MODEL_KEY)
            .forge_token(FORGE_TOKEN);
        let rehearsal = Rehearsal::start(options).await?;
        let postgres = match database {
            Database::Sqlite => None,
            Database::Postgres => Some(super::postgres::TestDatabase::create().await?),
        };
        let database_url = postgres.as_ref().map_or_else(
            || format!("sqlite:{}", directory.path().join("fabrica.db").display()),
            |database| database.url.clone(),
        );
        Ok(Self {
            engine,
            rehearsal,
            database_url,
            directory,
            postgres,
        })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A plan for the sample repository with more lines of frontmatter.
    pub(crate) fn plan(&self, frontmatter: &str) -> String {
        format!(
            "---\nrepo: {}\n{frontmatter}\n---\n# Add stock low\n\nAs the README says.\n",
            self.rehearsal.repository_url()
        )
    }

    /// A plan whose agent is a shell command.
    pub(crate) fn command_plan(&self, command: &str, frontmatter: &str) -> String {
        let argv = serde_json::to_string(&["sh", "-c", command]).expect("text is JSON");
        self.plan(&format!("agent: {{ command: {argv} }}\n{frontmatter}"))
    }

    /// The program with everything that leads to the stand-ins, and nothing of this machine's environment.
    pub(crate) fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = self.program(Path::new(env!("CARGO_BIN_EXE_fabrica")))?;
        command.args(arguments);
        Ok(command)
    }

    /// Any of the programs, among the same stand-ins.
    pub(crate) fn program(&self, program: &Path) -> Result<Command> {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", std::env::var("PATH")?)
            .env("HOME", self.directory.path())
            .env("LANG", "C.UTF-8")
            .env(
                self.engine.variable(),
                format!("unix://{}", self.engine.socket()?),
            )
            .env("DATABASE_URL", &self.database_url)
            .env("ANTHROPIC_API_KEY", MODEL_KEY)
            .env("FABRICA_FORGE_TOKEN", FORGE_TOKEN)
            .env("FABRICA_RUNTIME", self.engine.name())
            .env("FABRICA_DATA_DIRECTORY", self.path("data"))
            .env("FABRICA_MODEL_URL", self.rehearsal.model_base_url())
            .env("FABRICA_PLAIN_HTTP_HOSTS", self.host())
            .env(
                "FABRICA_FORGES",
                format!("github={},{}", self.host(), self.rehearsal.forge_api_url()),
            )
            // Rootless Podman on cgroup v1 enforces no limits; the tests of the limits are the runtime's.
            .env("FABRICA_ALLOW_UNENFORCED_LIMITS", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        Ok(command)
    }

    /// Host and port of the git server and the forge.
    fn host(&self) -> String {
        let url = self.rehearsal.repository_url();
        url.trim_start_matches("http://")
            .split('/')
            .next()
            .unwrap_or_default()
            .to_owned()
    }

    pub(crate) fn write_plan(&self, plan: &str) -> Result<PathBuf> {
        let path = self.path("plan.md");
        std::fs::write(&path, plan)?;
        Ok(path)
    }

    /// `fabrica run` of a plan, in the background.
    pub(crate) fn start(&self, plan: &str, arguments: &[&str]) -> Result<Child> {
        let path = self.write_plan(plan)?;
        let path = path.to_str().context("the path is text")?;
        let mut all = vec!["run", path];
        all.extend(arguments);
        Ok(self.command(&all)?.spawn()?)
    }

    /// `fabrica run` of a plan, to its end.
    pub(crate) async fn run(&self, plan: &str) -> Result<Run> {
        self.run_with(plan, &[]).await
    }

    pub(crate) async fn run_with(&self, plan: &str, arguments: &[&str]) -> Result<Run> {
        self.finish(self.start(plan, arguments)?).await
    }

    /// Waits for a started run and reads what it left in the store.
    pub(crate) async fn finish(&self, child: Child) -> Result<Run> {
        let output = child.wait_with_output().await?;
        let store = self.store().await?;
        let sessions = store.sessions(&SessionFilter::default(), 10).await?;
        ensure!(sessions.len() <= 1, "one run makes one session: {sessions:?}");
        let mut run = Run {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            session: sessions.into_iter().next(),
            messages: Vec::new(),
            transcript: Vec::new(),
        };
        if let Some(id) = run.session.as_ref().map(|session| session.id) {
            run.messages = store.messages(id, 0, 10_000).await?;
            run.transcript = store.transcript(id, 0, 100_000).await?;
            self.assert_nothing_left(id).await?;
        }
        Ok(run)
    }

    pub(crate) async fn store(&self) -> Result<Arc<dyn Store>> {
        Ok(fabrica_store::connect(&self.database_url).await?)
    }

    /// That no container, volume or socket of the session is left.
    async fn assert_nothing_left(&self, id: SessionId) -> Result<()> {
        let name = format!("name=fabrica-{id}");
        for listing in [["ps", "--all"], ["volume", "ls"]] {
            let left = self
                .engine
                .client(&[listing[0], listing[1], "--quiet", "--filter", &name])
                .await?;
            ensure!(left.trim().is_empty(), "left after the session: {left}");
        }
        Ok(())
    }

    /// Ends everything that was started for the test.
    pub(crate) async fn end(self) -> Result<()> {
        self.rehearsal.shutdown().await;
        if let Some(database) = self.postgres {
            database.remove().await?;
        }
        Ok(())
    }
}

/// A run that has ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) session: Option<Session>,
    pub(crate) messages: Vec<Message>,
    pub(crate) transcript: Vec<StoredTranscript>,
}

impl Run {
    pub(crate) fn session(&self) -> &Session {
        self.session
            .as_ref()
            .unwrap_or_else(|| panic!("no session was made: {self:#?}"))
    }

    pub(crate) fn branch(&self) -> String {
        format!("fabrica/{}", self.session().id.short())
    }

    /// That the session ended like that, and the program said so.
    #[track_caller]
    pub(crate) fn assert_status(&self, status: &str, code: i32) {
        assert_eq!(self.session().status.as_str(), status, "{self:#?}");
        assert_eq!(self.code, Some(code), "{self:#?}");
    }

    /// That it failed with that code, and told cause and remedy in the message and on the terminal.
    #[track_caller]
    pub(crate) fn assert_failed(&self, code: &str) {
        self.assert_status("failed", 1);
        let last = self.messages.last().expect("a failed session has messages");
        assert_eq!(last.kind, MessageKind::Error, "{self:#?}");
        assert_eq!(last.content.metadata["code"], code, "{self:#?}");
        let advice = last.content.metadata["advice"].as_str().unwrap_or_default();
        assert!(advice.len() > 10, "{code} does not say what to do");
        assert!(
            self.stderr.contains(code),
            "the terminal does not show {code}: {}",
            self.stderr
        );
    }
}

/// Makes a test for each engine out of `async fn name(engine: Engine) -> Result<()>`.
macro_rules! on_each_engine {
    ($($name:ident),+ $(,)?) => {
        mod docker {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() -> anyhow::Result<()> {
                super::$name(crate::rig::Engine::Docker).await
            })+
        }
        mod rootless_podman {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() -> anyhow::Result<()> {
                super::$name(crate::rig::Engine::RootlessPodman).await
            })+
        }
    };
}
pub(crate) use on_each_engine;
