//! Container engines of the suite's own, and the ledger of what they did: the oracle of what really ran.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::process::{Process, as_root, as_worker, output, signal_process, worker};

/// The image of the sandboxes: any with a shell and git would do.
pub(crate) const IMAGE: &str = "fabrica/agent:latest";

/// The label by which the suite knows the containers that play somebody else's; Fabrica knows no such label.
const STRANGER: &str = "chaos.stranger=1";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Docker,
    RootlessPodman,
}

impl Kind {
    /// As `--runtime` calls it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::RootlessPodman => "podman",
        }
    }

    /// The variable that leads a program to it.
    pub(crate) const fn variable(self) -> &'static str {
        match self {
            Self::Docker => "DOCKER_HOST",
            Self::RootlessPodman => "CONTAINER_HOST",
        }
    }
}

/// Something that an engine did with a container.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct EngineEvent {
    pub(crate) action: String,
    pub(crate) container: String,
    pub(crate) name: String,
    /// Seconds since 1970.
    pub(crate) at: f64,
}

/// An engine that the suite started and may kill.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) kind: Kind,
    socket: PathBuf,
    directory: PathBuf,
    data: PathBuf,
    log: PathBuf,
    daemon: tokio::sync::Mutex<Option<Process>>,
    ledger: Arc<Mutex<Vec<EngineEvent>>>,
    follower: tokio::task::JoinHandle<()>,
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

impl Engine {
    /// Starts one. `state` is for sockets, `cache` for images, `logs` for what it says.
    pub(crate) async fn start(kind: Kind, state: &Path, cache: &Path, logs: &Path) -> Result<Arc<Self>> {
        let (socket, directory) = match kind {
            Kind::Docker => (state.join("docker.sock"), state.to_owned()),
            Kind::RootlessPodman => {
                let other = std::env::var("FABRICA_TEST_PODMAN_ROOTLESS_SOCKET")
                    .context("FABRICA_TEST_PODMAN_ROOTLESS_SOCKET is not set: run `make chaos`")?;
                let directory = Path::new(&other)
                    .parent()
                    .context("a socket has a directory")?
                    .to_owned();
                (directory.join("chaos.sock"), directory)
            }
        };
        let ledger = Arc::<Mutex<Vec<EngineEvent>>>::default();
        let follower = tokio::spawn(follow(socket.clone(), ledger.clone()));
        let engine = Self {
            kind,
            socket,
            directory,
            data: cache.join("docker"),
            log: logs.join(format!("{}.log", kind.name())),
            daemon: tokio::sync::Mutex::default(),
            ledger,
            follower,
        };
        engine.up(true).await?;
        engine.ensure_image().await?;
        engine.remove_strangers().await?;
        if kind == Kind::Docker {
            // Nobody else uses this daemon: what is there was left by a suite that was killed.
            let left = engine.client(&["ps", "--all", "--quiet"]).await?;
            for container in left.lines() {
                engine.client(&["rm", "--force", container]).await?;
            }
            engine.client(&["volume", "prune", "--force"]).await?;
        }
        Ok(Arc::new(engine))
    }

    /// Starts the daemon. With `keeps`, containers outlive it.
    pub(crate) async fn up(&self, keeps: bool) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(90);
        let mut daemon = self.daemon.lock().await;
        loop {
            let lives = daemon.as_mut().is_some_and(Process::lives);
            if lives && self.answers().await {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "{} does not start: see {}",
                self.kind.name(),
                self.log.display()
            );
            if !lives {
                // Whoever watches over a daemon starts it again when it ends.
                let _ = std::fs::remove_file(&self.socket);
                let command = match self.kind {
                    Kind::Docker => self.dockerd(keeps),
                    Kind::RootlessPodman => self.podman()?,
                };
                *daemon = Some(Process::start(command, &self.log)?);
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    fn dockerd(&self, keeps: bool) -> Command {
        // Its process id is of a daemon that was killed; it would not start beside it.
        let pid = self.directory.join("docker.pid");
        let _ = std::fs::remove_file(&pid);
        // In a network of its own, so that it cannot touch another daemon's bridge.
        let mut command = as_root("unshare");
        command
            .args(["--net", "--", "dockerd", "--bridge=none", "--iptables=false"])
            .args(["--ip-forward=false", "--ip-masq=false", "--log-level=warn"])
            .arg(format!("--host=unix://{}", self.socket.display()))
            .arg(format!("--data-root={}", self.data.display()))
            .arg(format!("--exec-root={}", self.directory.join("docker").display()))
            .arg(format!("--pidfile={}", pid.display()));
        if keeps {
            command.arg("--live-restore");
        }
        command
    }

    fn podman(&self) -> Result<Command> {
        let settings = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/podman-environment.sh");
        let settings = std::fs::read_to_string(settings)?;
        let directory = self.directory.display().to_string();
        let user = worker();
        let home = std::fs::read_to_string("/etc/passwd")?
            .lines()
            .filter_map(|line| line.strip_prefix(&format!("{user}:")))
            .find_map(|line| line.split(':').nth(4).map(str::to_owned))
            .unwrap_or_default();
        let environment = [
            ("HOME", home.as_str()),
            ("XDG_RUNTIME_DIR", directory.as_str()),
            ("FABRICA_PODMAN_STATE", directory.as_str()),
        ];
        let mut command = as_worker(Path::new("bash"), &environment);
        command
            .arg("-c")
            .arg("cd / && eval \"$1\" && exec podman system service --time=0 \"unix://$2\"")
            .args(["podman", &settings])
            .arg(&self.socket);
        Ok(command)
    }

    /// `kill -9` of the daemon.
    pub(crate) async fn kill(&self) -> Result<()> {
        if let Some(mut daemon) = self.daemon.lock().await.take() {
            daemon.kill().await?;
        }
        // Docker's containerd ends with it, if not at once; a daemon that finds it still there would wait for it in vain.
        let helper = self.directory.join("docker/containerd/containerd.pid");
        let helper = std::fs::read_to_string(helper).unwrap_or_default();
        let helper = Path::new("/proc").join(helper.trim());
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.kind == Kind::Docker && helper.join("stat").exists() && Instant::now() < deadline {
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Ends the daemon; what it still runs ends before.
    pub(crate) async fn end(&self) -> Result<()> {
        self.follower.abort();
        if let Some(mut daemon) = self.daemon.lock().await.take() {
            daemon.signal(Signal::TERM)?;
            if daemon.ended(Duration::from_secs(20)).await.is_err() {
                daemon.kill().await?;
            }
        }
        let _ = std::fs::remove_file(&self.socket);
        Ok(())
    }

    async fn answers(&self) -> bool {
        if !self.socket.exists() {
            return false;
        }
        let mut ping = Command::new("curl");
        ping.args(["-fsS", "-m", "5", "-o", "/dev/null", "--unix-socket"])
            .arg(&self.socket)
            .arg("http://engine/_ping");
        output(&mut ping).await.is_ok()
    }

    /// Takes the image from the engine that `make test` prepared.
    async fn ensure_image(&self) -> Result<()> {
        if self.client(&["image", "inspect", IMAGE]).await.is_ok() {
            return Ok(());
        }
        let from = std::env::var("FABRICA_TEST_DOCKER_SOCKET")
            .context("FABRICA_TEST_DOCKER_SOCKET is not set: run `make chaos`")?;
        println!("taking the sandbox's image over; that happens once");
        let mut copy = Command::new("bash");
        copy.args([
            "-o",
            "pipefail",
            "-c",
            "docker -H \"unix://$1\" save \"$3\" | docker -H \"unix://$2\" load",
        ])
        .args(["copy", &from])
        .arg(&self.socket)
        .arg(IMAGE);
        output(&mut copy).await.map(drop)
    }

    pub(crate) fn address(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Runs a command of the Docker client; Podman answers it too.
    pub(crate) async fn client(&self, arguments: &[&str]) -> Result<String> {
        output(
            Command::new("docker")
                .env("DOCKER_HOST", self.address())
                .args(arguments),
        )
        .await
    }

    fn ledger(&self) -> MutexGuard<'_, Vec<EngineEvent>> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it did with the containers of a session, in order.
    pub(crate) fn events(&self, session: &str) -> Vec<EngineEvent> {
        let prefix = format!("fabrica-{session}-");
        self.ledger()
            .iter()
            .filter(|event| event.name.starts_with(&prefix))
            .cloned()
            .collect()
    }

    /// Containers by name with their state, of one installation.
    pub(crate) async fn containers(&self, owner: &str) -> Result<BTreeMap<String, String>> {
        let filter = format!("label=fabrica.owner={owner}");
        let listing = self
            .client(&[
                "ps",
                "--all",
                "--filter",
                &filter,
                "--format",
                "{{.Names}} {{.State}}",
            ])
            .await?;
        Ok(listing
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(name, state)| (name.to_owned(), state.to_owned()))
            .collect())
    }

    /// Names of the volumes that belong to sessions.
    pub(crate) async fn volumes(&self) -> Result<Vec<String>> {
        let listing = self
            .client(&["volume", "ls", "--quiet", "--filter", "name=fabrica-"])
            .await?;
        Ok(listing.lines().map(str::to_owned).collect())
    }

    /// The process id of a container's main process, as the machine sees it.
    pub(crate) async fn main_process(&self, container: &str) -> Result<i32> {
        let id = self
            .client(&["inspect", "--format", "{{.State.Pid}}", container])
            .await?;
        Ok(id.trim().parse()?)
    }

    /// Sends a signal to a container's main process, behind the engine's back.
    pub(crate) async fn signal_main(&self, container: &str, signal: Signal) -> Result<()> {
        signal_process(self.main_process(container).await?, signal)
    }

    /// A container of somebody else, with labels of somebody else.
    pub(crate) async fn stranger(&self, name: &str, labels: &[&str]) -> Result<String> {
        let mut arguments = vec![
            "run",
            "--detach",
            "--network",
            "none",
            "--label",
            STRANGER,
            "--name",
            name,
        ];
        for label in labels {
            arguments.extend(["--label", label]);
        }
        arguments.extend(["--entrypoint", "sleep", IMAGE, "86400"]);
        Ok(self.client(&arguments).await?.trim().to_owned())
    }

    /// Removes all strangers, also those of a suite that was killed.
    pub(crate) async fn remove_strangers(&self) -> Result<()> {
        let filter = format!("label={STRANGER}");
        let left = self
            .client(&["ps", "--all", "--quiet", "--filter", &filter])
            .await?;
        for container in left.lines() {
            self.client(&["rm", "--force", container]).await?;
        }
        Ok(())
    }

    /// When a container was started; none if it does not run.
    pub(crate) async fn running_since(&self, container: &str) -> Option<String> {
        let format = "{{.State.Running}} {{.State.StartedAt}}";
        let state = self
            .client(&["inspect", "--format", format, container])
            .await
            .ok()?;
        state.trim().strip_prefix("true ").map(str::to_owned)
    }
}

/// Writes down what the engine tells, for as long as the suite runs, over all of the engine's deaths.
async fn follow(socket: PathBuf, ledger: Arc<Mutex<Vec<EngineEvent>>>) {
    let mut names: HashMap<String, String> = HashMap::new();
    loop {
        let child = Command::new("docker")
            .env("DOCKER_HOST", format!("unix://{}", socket.display()))
            .args(["events", "--filter", "type=container", "--format", "{{json .}}"])
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn();
        if let Ok(mut child) = child
            && let Some(pipe) = child.stdout.take()
        {
            let mut lines = BufReader::new(pipe).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if let Some(event) = read(&line, &mut names) {
                    let mut ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
                    // Podman tells some things twice when it begins a new file: the same to the nanosecond.
                    if !ledger.contains(&event) {
                        ledger.push(event);
                    }
                }
            }
        }
        sleep(Duration::from_millis(50)).await;
    }
}

fn read(line: &str, names: &mut HashMap<String, String>) -> Option<EngineEvent> {
    let event: Value = serde_json::from_str(line).ok()?;
    let container = event["Actor"]["ID"].as_str()?.to_owned();
    if let Some(name) = event["Actor"]["Attributes"]["name"].as_str() {
        names.insert(container.clone(), name.to_owned());
    }
    let nanoseconds = event["timeNano"].as_f64().unwrap_or_default();
    Some(EngineEvent {
        // Details follow a colon: `exec_start: sh`.
        action: event["Action"].as_str()?.split(':').next()?.to_owned(),
        name: names.get(&container).cloned().unwrap_or_default(),
        container,
        at: nanoseconds / 1e9,
    })
}
