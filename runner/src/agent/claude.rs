//! The Claude Code CLI, headless. Why each flag is there: what a repository says about the agent's settings must
//! never take effect, nobody watches, and the gateway is the only place to talk to.

use std::fmt::Write as _;
use std::fs::Metadata;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};

use fabrica_core::failure::{Failure, MAX_DIAGNOSIS_LINES};
use fabrica_core::protocol::{Job, Usage};
use tokio::io::{AsyncRead, AsyncWriteExt as _};
use tokio::process::{ChildStdin, Command};
use tokio_util::sync::CancellationToken;

use super::stream::Stream;
use super::{not_started, unprepared};
use crate::asking::Setup;
use crate::commands::Commands;
use crate::environment::Environment;
use crate::process::{Lines, unless_quiet};
use crate::text::{Tail, lossy};

/// The program.
const PROGRAM: &str = "claude";
/// How long a line of its stream may be: a file that it reads stands in one.
const MAX_LINE: usize = 8 * 1024 * 1024;

/// The least that it is allowed to spend, in US dollars: it refuses to start with nothing.
const SMALLEST_BUDGET: f64 = 0.000_001;

/// One run of the agent.
#[derive(Debug)]
pub(crate) struct Claude<'a> {
    pub(crate) commands: &'a Commands,
    pub(crate) environment: &'a Environment,
    pub(crate) job: &'a Job,
    pub(crate) asking: &'a Setup,
    pub(crate) model_address: &'a str,
    pub(crate) template: Option<&'a str>,
    /// Whether it goes on with the conversation of an earlier attempt.
    pub(crate) goes_on: bool,
    /// What it has used in this sandbox before: its own limits count for one run.
    pub(crate) spent: Usage,
}

/// How one run ended.
#[derive(Debug)]
pub(super) struct Run {
    /// Its closing words, or why it did not succeed.
    pub(super) outcome: Result<String, Failure>,
    /// What it has used, as far as it tells.
    pub(super) usage: Usage,
}

/// The files that it is started with.
#[derive(Debug)]
struct Files {
    instructions: PathBuf,
    settings: PathBuf,
    servers: PathBuf,
}

impl Claude<'_> {
    /// Lets it work to its end. A failure is of what surrounds it.
    pub(super) async fn work(&self, prompt: String) -> Result<Run, Failure> {
        let files = self.files().map_err(|error| unprepared(&error))?;
        let mut command = self.command(&files);
        let mut process = self
            .commands
            .processes
            .spawn(&mut command)
            .map_err(|error| not_started(PROGRAM, &error))?;
        let pipes = (
            process.child.stdin.take(),
            process.child.stdout.take(),
            process.child.stderr.take(),
        );
        let exited = CancellationToken::new();
        let end = async {
            let end = self.commands.end(&mut process).await;
            // What it left running would hold its output open.
            process.kill_group();
            exited.cancel();
            end
        };
        let (end, _, stream, tail) = tokio::join!(
            end,
            unless_quiet(feed(pipes.0, &prompt), &exited),
            self.follow(pipes.1, &exited),
            last_lines(pipes.2, &exited)
        );
        let (status, stopped): (ExitStatus, Option<Failure>) = end?;
        if let Some(failure) = stopped {
            return Err(failure);
        }
        let usage = stream.used();
        let outcome = stream.outcome(status, tail.into_lines());
        Ok(Run { outcome, usage })
    }

    fn files(&self) -> std::io::Result<Files> {
        let instructions = self.environment.scratch().join("instructions.md");
        std::fs::write(&instructions, briefing(self.job, self.template))?;
        Ok(Files {
            instructions,
            settings: self.asking.settings()?,
            servers: self.asking.servers()?,
        })
    }

    fn command(&self, files: &Files) -> Command {
        let mut command = self.commands.program(PROGRAM);
        command
            .env("ANTHROPIC_BASE_URL", format!("{}/model", self.model_address))
            .env("ANTHROPIC_AUTH_TOKEN", self.environment.agent_token.expose())
            .env("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1")
            .env("DISABLE_AUTOUPDATER", "1")
            .env("CLAUDE_CONFIG_DIR", self.environment.agent_config())
            // The repository's CLAUDE.md counts, its settings do not.
            .env("CLAUDE_CODE_ADDITIONAL_DIRECTORIES_CLAUDE_MD", "1")
            .args([
                "-p",
                "--output-format",
                "stream-json",
                "--verbose",
                "--dangerously-skip-permissions",
            ])
            .arg("--add-dir")
            .arg(&self.commands.directory)
            // Beside the working directory's: the conventions of the whole repository.
            .args((self.job.path.is_some()).then(|| self.environment.repository()))
            .args(["--setting-sources", "user", "--strict-mcp-config"])
            // Takes as many values as there are, up to the next flag.
            .arg("--mcp-config")
            .arg(&files.servers)
            .arg("--settings")
            .arg(&files.settings)
            .arg("--append-system-prompt-file")
            .arg(&files.instructions)
            .arg(if self.goes_on { "--resume" } else { "--session-id" })
            .arg(self.job.session.to_string())
            .stdin(Stdio::piped());
        if rustix::process::getuid().is_root() {
            // As root it works in a sandbox only; this is one.
            command.env("IS_SANDBOX", "1");
        }
        if let Some(turns) = self.job.turns {
            let left = turns.saturating_sub(self.spent.turns).max(1);
            command.arg("--max-turns").arg(left.to_string());
        }
        if let Some(cost) = self.job.cost_usd {
            let left = (cost - self.spent.cost_usd).max(SMALLEST_BUDGET);
            command.arg("--max-budget-usd").arg(left.to_string());
        }
        if let Some(model) = &self.job.model {
            command.arg(format!("--model={model}"));
        }
        command
    }

    async fn follow<R: AsyncRead + Unpin>(&self, pipe: Option<R>, exited: &CancellationToken) -> Stream {
        let mut stream = Stream::new(&self.commands.directory);
        let Some(pipe) = pipe else { return stream };
        let mut lines = Lines::new(pipe, MAX_LINE);
        while let Some(line) = unless_quiet(async { lines.next().await.ok().flatten() }, exited).await {
            for event in stream.line(&line) {
                self.commands.reporter.report(event).await;
            }
        }
        stream
    }

    /// Where it keeps the whole conversation, once it has begun.
    pub(crate) fn transcript(environment: &Environment, job: &Job) -> Option<PathBuf> {
        let name = format!("{}.jsonl", job.session);
        let projects = std::fs::read_dir(environment.agent_config().join("projects")).ok()?;
        projects
            .flatten()
            .map(|project| project.path().join(&name))
            .filter_map(|path| {
                Some((
                    path.metadata().ok().filter(Metadata::is_file)?.modified().ok()?,
                    path,
                ))
            })
            .max()
            .map(|(_, path)| path)
    }
}

/// What the agent has to know about its situation.
fn briefing(job: &Job, template: Option<&str>) -> String {
    let place = job.path.as_ref().map_or_else(
        || "the repository in the current directory".to_owned(),
        |path| format!("a repository; the current directory is its `{path}`"),
    );
    let mut text = format!(
        "You work in a sandbox of Fabrica, on the git branch `{branch}` of {place}. \
         Nobody is watching.\n\n\
         - When you are blocked by something that only a person can decide or provide, call the tool `escalate` of the \
         server `fabrica` once, with all that the person needs, and end your turn: your work is kept, and you go on with \
         the answer later. In everything else decide yourself, and say in your last message what you decided and why.\n\
         - Do the whole task. Keep to the conventions of the repository.\n\
         - Commit your work with clear messages, in the present branch. Do not push, and do not open a pull request: \
         Fabrica does both when you are done.\n\
         - There is no network except through what is already configured.\n",
        branch = job.branch,
    );
    if !job.submodules.is_empty() {
        text.push_str(
            "- Submodules are there to be used, not to be changed: nothing is pushed to them. What has to change there belongs \
             into your last message.\n",
        );
    }
    if !job.verify.is_empty() {
        text.push_str(
            "- When you are done, these commands are run in the current directory, and all of them must pass; if one does not, you are told what it wrote:\n",
        );
        for command in &job.verify {
            text.push_str("  - `");
            text.push_str(command);
            text.push_str("`\n");
        }
    }
    match template {
        None => text.push_str(
            "- End with a short summary of what you changed, for the description of the pull request.\n",
        ),
        Some(path) => {
            let _ = writeln!(
                text,
                "- End with the description of the pull request: the repository's template `{path}`, filled in, with all of \
                 its headings."
            );
        }
    }
    text
}

/// An end of the agent before it has read all is told by its stream.
async fn feed(pipe: Option<ChildStdin>, task: &str) -> Option<()> {
    let mut pipe = pipe?;
    pipe.write_all(task.as_bytes()).await.ok()?;
    pipe.shutdown().await.ok()
}

async fn last_lines<R: AsyncRead + Unpin>(pipe: Option<R>, exited: &CancellationToken) -> Tail {
    let mut tail = Tail::new(MAX_DIAGNOSIS_LINES);
    let Some(pipe) = pipe else { return tail };
    let mut lines = Lines::new(pipe, 16 * 1024);
    while let Some(line) = unless_quiet(async { lines.next().await.ok().flatten() }, exited).await {
        tail.push(&lossy(&line.bytes));
    }
    tail
}
