//! Programs of the plan and of the repository: their environment, their output, their end.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use fabrica_core::failure::Failure;
use fabrica_core::protocol::{Job, RunnerEvent, TranscriptEntry};
use serde_json::{Map, Value, json};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::asking::{QUESTIONS_VARIABLE, Setup};
use crate::environment::Environment;
use crate::process::{OutputLine, Process, Processes, describe, pump, unless_quiet};
use crate::report::Reporter;
use crate::repository::{Git, SKIP_SMUDGE};
use crate::signing;
use crate::stop::Stop;
use crate::text::{Tail, lossy};

/// How long a program has to end by itself when it is asked to.
pub(crate) const GRACE: Duration = Duration::from_secs(3);
/// How long a line may be.
const MAX_LINE: usize = 32 * 1024;
/// How many lines wait between a pipe and the reporter.
const QUEUE: usize = 64;
/// Lines that come together are reported together, up to so many, so many bytes, and so long.
const MAX_LINES: usize = 200;
const MAX_BYTES: usize = 96 * 1024;
const GATHER: Duration = Duration::from_millis(40);
/// How many of the last lines are kept: an agent has to find a fault in them.
const MAX_TAIL: usize = 150;
/// How much is taken after the end of a program, from what it left running.
const MAX_LATE_BYTES: usize = 1024 * 1024;

/// What programs are run with.
#[derive(Debug, Clone)]
pub(crate) struct Commands {
    pub(crate) processes: Processes,
    pub(crate) reporter: Reporter,
    pub(crate) stop: Stop,
    /// Where they start.
    pub(crate) directory: PathBuf,
    pub(crate) variables: Vec<(std::ffi::OsString, std::ffi::OsString)>,
}

/// How a program ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) tail: Vec<String>,
}

impl Commands {
    /// The environment of everything that is not the runner's own: nothing in it opens more than the agent may.
    pub(crate) fn new(
        environment: &Environment,
        job: &Job,
        git: &Git,
        (directory, task): (&Path, &Path),
        asking: &Setup,
        (processes, reporter, stop): (Processes, Reporter, Stop),
    ) -> Self {
        let mut variables = environment.inherited.clone();
        let mut set = |name: &str, value: &std::ffi::OsStr| variables.push((name.into(), value.to_owned()));
        set("HOME", environment.home.as_os_str());
        // Behind all others, so that it stands in nobody's place.
        let mut path = environment.path.clone();
        path.push(":");
        path.push(asking.programs());
        set("PATH", &path);
        set(QUESTIONS_VARIABLE, asking.questions().directory().as_os_str());
        set("LANG", "C.UTF-8".as_ref());
        set("GIT_TERMINAL_PROMPT", "0".as_ref());
        if git.large_files().is_none() {
            set(SKIP_SMUDGE.0, SKIP_SMUDGE.1.as_ref());
        }
        set("FABRICA_SESSION", job.session.to_string().as_ref());
        set("FABRICA_TASK", task.as_os_str());
        for (name, value) in git.credential(&environment.agent_token) {
            set(&name, value.as_ref());
        }
        if git.signing().is_some() {
            for (name, value) in signing::variables(environment) {
                set(name, &value);
            }
        }
        Self {
            processes,
            reporter,
            stop,
            directory: directory.to_owned(),
            variables,
        }
    }

    /// A program in the working directory.
    pub(crate) fn program(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs a program to its end and reports its output.
    pub(crate) async fn run(&self, step: &str, command: &mut Command) -> Result<Ended, Failure> {
        let mut process = self
            .processes
            .spawn(command)
            .map_err(|error| not_started(step, &error))?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        if let Some(pipe) = process.child.stdout.take() {
            tokio::spawn(pump(pipe, "stdout", MAX_LINE, sender.clone()));
        }
        if let Some(pipe) = process.child.stderr.take() {
            tokio::spawn(pump(pipe, "stderr", MAX_LINE, sender));
        }
        let exited = CancellationToken::new();
        let end = async {
            let end = self.end(&mut process).await;
            exited.cancel();
            end
        };
        let (end, tail) = tokio::join!(end, forward(receiver, &self.reporter, step, &exited));
        let (status, stopped) = end?;
        match stopped {
            Some(failure) => Err(failure.with_diagnosis(tail)),
            None => Ok(Ended { status, tail }),
        }
    }

    /// Waits for the end of a process, and brings it about when a stop is requested.
    pub(crate) async fn end(&self, process: &mut Process) -> Result<(ExitStatus, Option<Failure>), Failure> {
        let ended = tokio::select! {
            biased;
            status = process.wait() => status.map(|status| (status, None)),
            reason = self.stop.requested() => {
                process.terminate(GRACE).await.map(|status| (status, Some(reason.failure())))
            }
        };
        ended.map_err(|error| not_started("process", &error))
    }

    /// Runs the plan's setup commands, in order.
    pub(crate) async fn setup(&self, commands: &[String]) -> Result<(), Failure> {
        for line in commands {
            self.reporter.progress("setup", format!("Running {line}")).await;
            let ended = self.run("setup", self.program("sh").arg("-c").arg(line)).await?;
            if !ended.status.success() {
                return Err(Failure::new(
                    "setup.failed",
                    format!("the setup command {line:?} {}", describe(ended.status)),
                    "Correct the command in the plan's `setup`, or use an image that has what it needs.",
                )
                .with_diagnosis(ended.tail));
            }
        }
        Ok(())
    }
}

fn not_started(what: &str, error: &std::io::Error) -> Failure {
    Failure::new(
        "sandbox.process",
        format!("a process cannot be run ({what}): {error}"),
        "The sandbox may be out of memory or processes: raise its limits, or run the session again.",
    )
    .retryable()
}

/// Reports lines as they come, several in one event, and returns the last ones.
async fn forward(
    mut lines: mpsc::Receiver<OutputLine>,
    reporter: &Reporter,
    step: &str,
    exited: &CancellationToken,
) -> Vec<String> {
    let mut tail = Tail::new(MAX_TAIL);
    let mut late = 0;
    let mut gathered = Gathered::default();
    loop {
        let line = match unless_quiet(lines.recv(), exited).await {
            Some(line) if late < MAX_LATE_BYTES => line,
            _ => return tail.into_lines(),
        };
        gathered.start(line.stream);
        let until = Instant::now() + GATHER;
        let mut line = Some(line);
        while let Some(OutputLine {
            stream,
            line: content,
        }) = line.take()
        {
            let text = match content.cut {
                0 => lossy(&content.bytes),
                cut => format!("{} … [{cut} bytes cut]", lossy(&content.bytes)),
            };
            tail.push(&text);
            late += if exited.is_cancelled() {
                content.bytes.len() + 1
            } else {
                0
            };
            if stream != gathered.stream {
                gathered.report(reporter, step).await;
                gathered.start(stream);
            }
            gathered.add(text);
            if !gathered.full() {
                line = tokio::select! {
                    biased;
                    line = lines.recv() => line,
                    () = sleep_until(until) => None,
                };
            }
        }
        gathered.report(reporter, step).await;
    }
}

/// Lines for one event.
#[derive(Debug, Default)]
struct Gathered {
    stream: &'static str,
    lines: Vec<Value>,
    bytes: usize,
}

impl Gathered {
    fn start(&mut self, stream: &'static str) {
        self.stream = stream;
    }

    fn add(&mut self, text: String) {
        self.bytes += text.len();
        self.lines.push(Value::String(text));
    }

    fn full(&self) -> bool {
        self.lines.len() >= MAX_LINES || self.bytes >= MAX_BYTES
    }

    async fn report(&mut self, reporter: &Reporter, step: &str) {
        let lines = std::mem::take(&mut self.lines);
        self.bytes = 0;
        let Some(last) = lines
            .iter()
            .rev()
            .filter_map(Value::as_str)
            .find(|line| !line.trim().is_empty())
        else {
            if lines.is_empty() {
                return;
            }
            return reporter
                .report(output(step, self.stream, String::new(), lines))
                .await;
        };
        let summary = last.to_owned();
        reporter.report(output(step, self.stream, summary, lines)).await;
    }
}

fn output(step: &str, stream: &str, summary: String, lines: Vec<Value>) -> RunnerEvent {
    let detail = Map::from_iter([
        ("step".to_owned(), json!(step)),
        ("stream".to_owned(), json!(stream)),
        ("lines".to_owned(), Value::Array(lines)),
    ]);
    RunnerEvent::Agent(TranscriptEntry {
        kind: "output".to_owned(),
        parent: None,
        summary,
        detail,
    })
}
