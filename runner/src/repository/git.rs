//! The git command line, started so that neither a person's settings nor the agent's change what it does.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use fabrica_core::failure::Failure;
use fabrica_core::protocol::Identity;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{ChildStdin, Command};

use super::large_files::{Filter, SKIP_SMUDGE};
use super::progress;
use crate::environment::Token;
use crate::process::{Process, Processes};
use crate::signing::Signing;
use crate::text::lossy;

/// How much of an output is kept.
const MAX_OUTPUT: usize = 1024 * 1024;
/// Wins over any configuration in the clone: nothing that git starts by itself, no way to another host.
const HARDENED: [&str; 12] = [
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.untrackedCache=false",
    "commit.gpgSign=false",
    "credential.helper=",
    "gc.auto=0",
    "maintenance.auto=false",
    "safe.directory=*",
    "http.followRedirects=false",
    "advice.detachedHead=false",
    "submodule.recurse=false",
    "fetch.recurseSubmodules=false",
];

/// The git program of the image, found before anything of the repository was on the disk.
#[derive(Debug, Clone)]
pub(crate) struct Git {
    program: PathBuf,
    path: OsString,
    processes: Processes,
    address: String,
    signing: Option<Signing>,
    large_files: Option<Filter>,
}

/// What git said.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Output {
    pub(crate) fn success(&self) -> bool {
        self.status.success()
    }

    /// Whether the gateway said that it cannot answer now. It says this of itself only, never of the git host.
    pub(crate) fn put_off(&self) -> bool {
        self.stderr.contains("returned error: 503") || self.stderr.contains("HTTP 503")
    }

    /// The last lines of what it said to people.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.stderr.lines().map(str::to_owned).collect()
    }
}

impl Git {
    /// Finds git in a search path.
    pub(crate) fn find(path: &OsStr, processes: Processes, address: String) -> Result<Self, Failure> {
        let program = std::env::split_paths(path)
            .map(|directory| directory.join("git"))
            .find(|candidate| candidate.is_absolute() && candidate.is_file());
        match program {
            Some(program) => Ok(Self {
                program,
                path: path.to_owned(),
                processes,
                address,
                signing: None,
                large_files: None,
            }),
            None => Err(Failure::new(
                "sandbox.git_missing",
                "there is no git in the image",
                "Use an image that has git in its PATH, or add it to the image.",
            )),
        }
    }

    /// The same, and how what it commits is signed.
    pub(crate) fn signing_with(self, signing: Option<Signing>) -> Self {
        Self { signing, ..self }
    }

    /// How what it commits is signed, if it is.
    pub(crate) fn signing(&self) -> Option<&Signing> {
        self.signing.as_ref()
    }

    /// The same, and what keeps files in Git LFS.
    pub(crate) fn keeping_large_files_with(self, large_files: Option<Filter>) -> Self {
        Self { large_files, ..self }
    }

    /// What keeps files in Git LFS, if anything does.
    pub(crate) fn large_files(&self) -> Option<&Filter> {
        self.large_files.as_ref()
    }

    /// One of the plan's submodules, by its number from 1.
    pub(crate) fn submodule_url(&self, number: usize) -> String {
        format!("{}/git/submodules/{number}.git", self.address)
    }

    /// The plan's repository, as the gateway leads to it.
    pub(crate) fn url(&self) -> String {
        format!("{}/git/repository.git", self.address)
    }

    /// The variables that give a git the token, for the gateway only. They are in nobody's files and arguments.
    pub(crate) fn credential(&self, token: &Token) -> [(String, String); 3] {
        [
            ("GIT_CONFIG_COUNT".to_owned(), "1".to_owned()),
            (
                "GIT_CONFIG_KEY_0".to_owned(),
                format!("http.{}/.extraHeader", self.address),
            ),
            (
                "GIT_CONFIG_VALUE_0".to_owned(),
                format!("Authorization: {}", token.bearer()),
            ),
        ]
    }

    /// A git in a cleared environment.
    pub(crate) fn command(&self, directory: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .env("PATH", &self.path)
            .env("HOME", "/nonexistent")
            .env("LC_ALL", "C.UTF-8")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ASKPASS", "")
            .env("GIT_ALLOW_PROTOCOL", "http")
            .env("GIT_NO_REPLACE_OBJECTS", "1")
            .env("GIT_NO_LAZY_FETCH", "1")
            .env("GIT_EDITOR", ":")
            .env(SKIP_SMUDGE.0, SKIP_SMUDGE.1)
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        for setting in HARDENED {
            command.arg("-c").arg(setting);
        }
        for (key, value) in Filter::settings(self.large_files()) {
            command.arg("-c").arg(format!("{key}={value}"));
        }
        command
    }

    /// A git in the agent's clone. The place is named, so that no setting there moves it elsewhere.
    pub(crate) fn inside(&self, repository: &Path) -> Command {
        let mut command = self.command(repository);
        command
            .arg("--git-dir")
            .arg(repository.join(".git"))
            .arg("--work-tree")
            .arg(repository);
        command
    }

    /// Runs a git that is given something to read and answers with bytes, which are counted on to be whole: more than
    /// `limit` of them are a failure.
    pub(crate) async fn exchange(
        &self,
        mut command: Command,
        input: Vec<u8>,
        limit: usize,
    ) -> Result<Vec<u8>, Failure> {
        command.stdin(Stdio::piped());
        let mut process = self
            .processes
            .spawn(&mut command)
            .map_err(|error| cannot_run(&error))?;
        let pipes = (
            process.child.stdin.take(),
            process.child.stdout.take(),
            process.child.stderr.take(),
        );
        let mut answer = Vec::new();
        let (_, taken, stderr) = tokio::join!(
            feed(pipes.0, input),
            take(pipes.1, |bytes| {
                answer.extend_from_slice(bytes);
                Ok(answer.len() <= limit)
            }),
            read(pipes.2)
        );
        finished(&mut process, taken, &stderr).await?;
        Ok(answer)
    }

    /// Runs a git that is given something to read, and writes what it answers to a file. False if that came to more
    /// than `limit` bytes.
    pub(crate) async fn save(
        &self,
        mut command: Command,
        input: Vec<u8>,
        file: &mut std::fs::File,
        limit: u64,
    ) -> Result<bool, Failure> {
        command.stdin(Stdio::piped());
        let mut process = self
            .processes
            .spawn(&mut command)
            .map_err(|error| cannot_run(&error))?;
        let pipes = (
            process.child.stdin.take(),
            process.child.stdout.take(),
            process.child.stderr.take(),
        );
        let mut length = 0;
        let (_, taken, stderr) = tokio::join!(
            feed(pipes.0, input),
            take(pipes.1, |bytes| {
                length += bytes.len() as u64;
                if length <= limit {
                    file.write_all(bytes)?;
                }
                Ok(length <= limit)
            }),
            read(pipes.2)
        );
        if length > limit {
            process.kill_group();
            return Ok(false);
        }
        finished(&mut process, taken, &stderr).await?;
        Ok(true)
    }

    /// Runs a git to its end.
    pub(crate) async fn run(&self, command: Command) -> Result<Output, Failure> {
        self.run_watched(command, |_| {}).await
    }

    /// The same, and what it says to people is heard as it comes.
    pub(super) async fn run_watched(
        &self,
        mut command: Command,
        heard: impl FnMut(&[u8]),
    ) -> Result<Output, Failure> {
        let mut process = self
            .processes
            .spawn(&mut command)
            .map_err(|error| cannot_run(&error))?;
        let (stdout, stderr) = (process.child.stdout.take(), process.child.stderr.take());
        let (status, stdout, stderr) = tokio::join!(process.wait(), read(stdout), hear(stderr, heard));
        let status = status.map_err(|error| cannot_run(&error))?;
        Ok(Output {
            status,
            stdout: lossy(&stdout),
            stderr: progress::without(&lossy(&stderr)),
        })
    }

    /// Runs a git whose failure has no meaning of its own: the answer, or what went wrong.
    pub(crate) async fn answer(&self, command: Command) -> Result<String, Failure> {
        let output = self.run(command).await?;
        if output.success() {
            Ok(output.stdout.trim().to_owned())
        } else {
            Err(git_failed(&output))
        }
    }

    /// Runs a git that answers with its exit code.
    pub(crate) async fn succeeds(&self, command: Command) -> Result<bool, Failure> {
        Ok(self.run(command).await?.success())
    }
}

/// Who a commit is by.
pub(crate) fn identify(command: &mut Command, identity: &Identity) {
    for (variable, value) in [
        ("GIT_AUTHOR_NAME", &identity.name),
        ("GIT_AUTHOR_EMAIL", &identity.email),
        ("GIT_COMMITTER_NAME", &identity.name),
        ("GIT_COMMITTER_EMAIL", &identity.email),
    ] {
        command.env(variable, value);
    }
}

/// Adds arguments that are known at compile time and some that are not.
macro_rules! args {
    ($command:expr, $($argument:expr),+ $(,)?) => {{
        let mut command = $command;
        $(command.arg($argument);)+
        command
    }};
}

/// A failure of git that nothing more is known about.
pub(crate) fn git_failed(output: &Output) -> Failure {
    if output.stderr.contains("No space left on device") {
        return disk_full().with_diagnosis(output.lines());
    }
    let last = output
        .stderr
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("it said nothing");
    Failure::new(
        "repository.git_failed",
        format!("git failed: {last}"),
        "Read the diagnosis; if the repository looks right, run the session again.",
    )
    .with_diagnosis(output.lines())
}

/// An end of git before it has read all is told by its exit code.
async fn feed(pipe: Option<ChildStdin>, input: Vec<u8>) -> Option<()> {
    let mut pipe = pipe?;
    pipe.write_all(&input).await.ok()?;
    pipe.shutdown().await.ok()
}

/// Hands on what a git writes, until it ends or no more is wanted. False in the latter case.
async fn take<R: AsyncRead + Unpin>(
    pipe: Option<R>,
    mut more: impl FnMut(&[u8]) -> io::Result<bool>,
) -> io::Result<bool> {
    let Some(mut pipe) = pipe else { return Ok(true) };
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = pipe.read(&mut buffer).await?;
        if length == 0 {
            return Ok(true);
        }
        if !more(&buffer[..length])? {
            return Ok(false);
        }
    }
}

/// Waits for a git whose output was taken.
async fn finished(process: &mut Process, taken: io::Result<bool>, stderr: &[u8]) -> Result<(), Failure> {
    if !matches!(taken, Ok(true)) {
        process.kill_group();
    }
    let status = process.wait().await.map_err(|error| cannot_run(&error))?;
    match taken {
        Ok(true) if status.success() => Ok(()),
        Ok(true) => Err(git_failed(&Output {
            status,
            stdout: String::new(),
            stderr: lossy(stderr),
        })),
        Ok(false) => Err(Failure::new(
            "repository.git_failed",
            "git answers with more than can be read",
            "The repository has too many changed files at once: let `.gitignore` name what is generated.",
        )),
        Err(error) if error.kind() == io::ErrorKind::StorageFull => Err(disk_full()),
        Err(error) => Err(cannot_run(&error)),
    }
}

fn disk_full() -> Failure {
    Failure::new(
        "sandbox.disk_full",
        "the sandbox's disk is full",
        "Give the sandbox more disk, or clone less history.",
    )
}

fn cannot_run(error: &std::io::Error) -> Failure {
    Failure::new(
        "sandbox.process",
        format!("git cannot be started: {error}"),
        "The sandbox may be out of memory or processes: raise its limits, or run the session again.",
    )
    .retryable()
}

/// Reads to the end, and keeps the last [`MAX_OUTPUT`] bytes or a little more.
async fn read<R: AsyncRead + Unpin>(pipe: Option<R>) -> Vec<u8> {
    hear(pipe, |_| {}).await
}

/// The same, and all of it is heard.
async fn hear<R: AsyncRead + Unpin>(pipe: Option<R>, mut heard: impl FnMut(&[u8])) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(mut pipe) = pipe else { return kept };
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(length) = pipe.read(&mut buffer).await
        && length > 0
    {
        heard(&buffer[..length]);
        kept.extend_from_slice(&buffer[..length]);
        if kept.len() > 2 * MAX_OUTPUT {
            kept.drain(..kept.len() - MAX_OUTPUT);
        }
    }
    kept
}

pub(crate) use args;
