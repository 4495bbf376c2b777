//! Processes that the suite starts, and everything that may be done to them. Nothing else is ever signalled.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal};
use tokio::process::{Child, Command};

/// Where the ids of what runs are written down, for whoever cleans up after a suite that was killed.
static NOTES: OnceLock<PathBuf> = OnceLock::new();

/// Writes ids down in that directory from now on.
pub(crate) fn note_in(directory: &Path) {
    NOTES.get_or_init(|| directory.to_owned());
}

/// A group's id, written down for as long as this lives.
#[derive(Debug)]
pub(crate) struct Note(Option<PathBuf>);

impl Note {
    pub(crate) fn of(group: i32) -> Self {
        let path = NOTES.get().map(|notes| notes.join(format!("{group}.group")));
        // Without it only the cleaning up after a killed suite is worse.
        Self(path.filter(|path| std::fs::write(path, group.to_string()).is_ok()))
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A process that leads a group of its own.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    group: Pid,
    _note: Note,
}

impl Process {
    /// Starts it with its output at the end of a file.
    pub(crate) fn start(mut command: Command, log: &Path) -> Result<Self> {
        let output = std::fs::File::options().create(true).append(true).open(log)?;
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .kill_on_drop(true);
        let child = command
            .spawn()
            .with_context(|| format!("failed to start {command:?}"))?;
        let group = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw)
            .context("the process has ended at once")?;
        let note = Note::of(group.as_raw_nonzero().get());
        Ok(Self {
            child,
            group,
            _note: note,
        })
    }

    pub(crate) fn id(&self) -> i32 {
        self.group.as_raw_nonzero().get()
    }

    /// Whether it still runs.
    pub(crate) fn lives(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal to it alone.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        Ok(rustix::process::kill_process(self.group, signal)?)
    }

    /// `kill -9` of its whole group, and its end.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        match rustix::process::kill_process_group(self.group, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
        self.child.wait().await?;
        Ok(())
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self, patience: Duration) -> Result<ExitStatus> {
        Ok(tokio::time::timeout(patience, self.child.wait())
            .await
            .context("the process does not end")??)
    }
}

/// Sends a signal to a process of one of our containers.
pub(crate) fn signal_process(id: i32, signal: Signal) -> Result<()> {
    let Some(process) = Pid::from_raw(id).filter(|_| id > 1) else {
        bail!("{id} is no process of a container");
    };
    Ok(rustix::process::kill_process(process, signal)?)
}

/// The most memory that a process has held, in MiB.
pub(crate) fn peak_memory(id: i32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes / 1_024)
}

/// How many connections to a port of this machine its server holds open.
pub(crate) fn connections(port: u16) -> Result<usize> {
    const ESTABLISHED: &str = "01";
    let table = std::fs::read_to_string("/proc/net/tcp").context("the kernel's table of connections")?;
    let served = format!(":{port:04X}");
    // Place, local and remote address, and state; addresses and states are hexadecimal.
    let rows = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    Ok(rows
        .filter(|row| matches!(row[..], [_, local, _, ESTABLISHED, ..] if local.ends_with(&served)))
        .count())
}

/// The processes that a process has started, and theirs.
pub(crate) fn descendants(id: i32) -> Vec<i32> {
    let mut found = Vec::new();
    let mut open = vec![id];
    while let Some(parent) = open.pop() {
        let path = format!("/proc/{parent}/task/{parent}/children");
        let children = std::fs::read_to_string(path).unwrap_or_default();
        let children = children
            .split_whitespace()
            .filter_map(|word| word.parse::<i32>().ok());
        for child in children {
            found.push(child);
            open.push(child);
        }
    }
    found
}

/// Runs a command to its end and returns what it wrote.
pub(crate) async fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A command as the ordinary user who owns PostgreSQL and the rootless containers; root must not run those.
pub(crate) fn as_worker(program: &Path, environment: &[(&str, &str)]) -> Command {
    if !rustix::process::geteuid().is_root() {
        let mut command = Command::new(program);
        command.envs(environment.iter().copied());
        return command;
    }
    let worker = worker();
    let mut command = Command::new("setpriv");
    command
        .args([
            "--reuid",
            &worker,
            "--regid",
            &worker,
            "--init-groups",
            "env",
            "-i",
        ])
        .arg(format!("USER={worker}"))
        .arg(format!(
            "PATH={}:/usr/sbin:/sbin",
            std::env::var("PATH").unwrap_or_default()
        ))
        .arg("LANG=C.UTF-8")
        .args(environment.iter().map(|(name, value)| format!("{name}={value}")))
        .arg(program)
        .current_dir("/");
    command
}

/// A command as root, for what only root may do.
pub(crate) fn as_root(program: &str) -> Command {
    if rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.args(["-n", program]);
    command
}

/// Gives a directory to that user.
pub(crate) async fn give_to_worker(path: &Path) -> Result<()> {
    if rustix::process::geteuid().is_root() {
        output(Command::new("chown").arg(worker()).arg(path)).await?;
    }
    Ok(())
}

/// The ordinary user's name.
pub(crate) fn worker() -> String {
    std::env::var("FABRICA_TEST_ROOTLESS_USER").unwrap_or_else(|_| "nobody".to_owned())
}
