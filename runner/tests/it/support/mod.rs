//! A sandbox on this machine: a repository, a gateway that records, and the real runner between them.

mod gateway;
mod git;
mod large_files;
mod listener;
mod model;
mod signer;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output};
use std::sync::Arc;
use std::time::Duration;

use fabrica_core::failure::Failure;
use fabrica_core::ids::{AttemptNumber, SessionId};
use fabrica_core::plan::Agent;
use fabrica_core::protocol::{
    Checkpoint, Envelope, Escalation, Identity, Job, JobResult, Pushed, Resume, RunnerEvent,
};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

pub(crate) use gateway::{Fault, Gateway, Moment, Trouble};
pub(crate) use git::git;
pub(crate) use large_files::pointer;

/// The token that no agent may see.
pub(crate) const RUNNER_TOKEN: &str = "fabrica-runner-canary-5b1f";
/// The token that the agent has.
pub(crate) const AGENT_TOKEN: &str = "fabrica-agent-canary-77c2";
/// The session of every test.
pub(crate) const SESSION: &str = "5c0ffee0-1234-4321-8888-0123456789ab";
/// Longer than any test takes.
const LIMIT: Duration = Duration::from_mins(2);

/// One sandbox.
pub(crate) struct Sandbox {
    directory: TempDir,
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) job: Job,
    /// The user who runs the runner; `None` is the present one.
    pub(crate) user: Option<u32>,
    pub(crate) variables: Vec<(String, String)>,
    /// Whether the runner is the first process of its own process namespace, as in a container.
    pub(crate) first: bool,
}

impl Sandbox {
    /// A sandbox whose repository has one commit, and whose agent is a shell script.
    pub(crate) fn new(script: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for name in ["run", "workspace", "home", "repositories"] {
            std::fs::create_dir(root.join(name)).unwrap();
        }
        git::make_repository(&root.join("repositories/repository.git"), &root.join("seed"));
        let job = Job {
            session: SESSION.parse::<SessionId>().unwrap(),
            attempt: AttemptNumber::new(1),
            title: "Greet the world".into(),
            task: "Write a greeting.\n".into(),
            repository: Some("https://git.example.com/acme/app.git".into()),
            submodules: vec![],
            large_files: true,
            base: None,
            branch: "fabrica/5c0ffee0".into(),
            path: None,
            agent: Agent::Command(vec!["sh".into(), "-c".into(), script.into()]),
            model: None,
            setup: vec![],
            rounds: 1,
            verify: vec![],
            turns: None,
            cost_usd: None,
            committer: Identity {
                name: "Fabrica Test".into(),
                email: "fabrica@example.com".into(),
            },
            signing_key: None,
            depth: Some(50),
            checkpoint_seconds: None,
            model_pause_seconds: 30,
            resume: None,
            heard: 0,
            finish: false,
        };
        let gateway = Gateway::start(root.join("run/gateway.sock"), root.join("repositories"));
        Self {
            directory,
            gateway,
            job,
            user: None,
            variables: vec![],
            first: false,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn remote(&self) -> PathBuf {
        self.path("repositories/repository.git")
    }

    /// Gives the gateway a key, and has commits signed with it.
    pub(crate) fn sign(&mut self) {
        self.job.signing_key = Some(signer::make_key(self.directory.path()));
        self.gateway.sign_with(self.path("signing-key"));
    }

    /// Whether git finds a commit of the remote to be signed with the gateway's key, by the job's committer.
    pub(crate) fn is_signed(&self, commit: &str) -> bool {
        let key = self.job.signing_key.as_deref().unwrap();
        let committer = &self.job.committer.email;
        signer::verifies(
            &self.remote(),
            &self.path("allowed-signers"),
            (committer, key),
            commit,
        )
    }

    /// Starts the runner.
    pub(crate) fn start(&self) -> Running {
        self.gateway.give_job(&self.job);
        let mut program = PathBuf::from(env!("CARGO_BIN_EXE_fabrica-runner"));
        if let Some(user) = self.user {
            // The build directory may be closed to others.
            let copy = self.path("fabrica-runner");
            std::fs::copy(&program, &copy).unwrap();
            program = copy;
            open_to(user, self.directory.path());
        }
        let mut command = if self.first {
            let mut command = Command::new("unshare");
            command
                .args(["--pid", "--fork", "--mount-proc", "--kill-child"])
                .arg(program);
            command
        } else {
            Command::new(program)
        };
        command
            .env_clear()
            .env("HOME", self.path("home"))
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("FABRICA_RUNNER_TOKEN", RUNNER_TOKEN)
            .env("FABRICA_AGENT_TOKEN", AGENT_TOKEN)
            .env("FABRICA_GATEWAY_SOCKET", self.path("run/gateway.sock"))
            .env("FABRICA_WORKSPACE", self.path("workspace"))
            .env("FABRICA_FORWARDER", "127.0.0.1:0")
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true);
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        Running {
            child: command.spawn().unwrap(),
        }
    }

    /// Prepares another attempt in a fresh sandbox, by another agent if a script is given.
    pub(crate) fn resume(&mut self, resume: Resume, script: Option<&str>) {
        // Kept until the end: what the earlier attempt left running, which its container would have killed, may still write
        // there.
        let former = tempfile::tempdir_in(self.directory.path()).unwrap().keep();
        for name in ["workspace", "home"] {
            std::fs::rename(self.path(name), former.join(name)).unwrap();
            std::fs::create_dir(self.path(name)).unwrap();
        }
        self.gateway.forget_events();
        self.job.attempt = AttemptNumber::new(2);
        self.job.resume = Some(resume);
        if let Some(script) = script {
            self.job.agent = Agent::Command(vec!["sh".into(), "-c".into(), script.into()]);
        }
    }

    /// Puts a git before the image's, which does a line of shell for some arguments.
    pub(crate) fn pretend(&mut self, arguments: &str, line: &str) {
        let path = std::env::var("PATH").unwrap();
        let mut gits = std::env::split_paths(&path).map(|directory| directory.join("git"));
        let real = gits.find(|git| git.is_file()).unwrap();
        let place = self.path("pretended");
        std::fs::create_dir(&place).unwrap();
        let script = format!(
            "#!/bin/sh\ncase \"$*\" in {arguments}) {line};; esac\nexec {} \"$@\"\n",
            real.display()
        );
        std::fs::write(place.join("git"), script).unwrap();
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(place.join("git"), executable).unwrap();
        let path = format!("{}:{path}", place.display());
        self.variables.push(("PATH".into(), path));
    }

    /// What git says about the remote.
    pub(crate) fn ask_remote(&self, arguments: &[&str]) -> String {
        let output = self.git_in_remote(arguments);
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Runs the runner to its end.
    pub(crate) async fn run(&self) -> End {
        let running = self.start();
        self.end(running).await
    }

    /// Waits for the end of a runner.
    pub(crate) async fn end(&self, mut running: Running) -> End {
        let status = timeout(LIMIT, running.child.wait())
            .await
            .expect("the runner ends")
            .unwrap();
        End {
            status,
            events: self.gateway.events(),
        }
    }

    /// The commit of a branch on the remote.
    pub(crate) fn head(&self, branch: &str) -> Option<String> {
        let output = self.git_in_remote(&[
            "rev-parse",
            "--verify",
            "--quiet",
            &format!("refs/heads/{branch}"),
        ]);
        output
            .status
            .success()
            .then(|| String::from_utf8(output.stdout).unwrap().trim().to_owned())
    }

    /// The subject lines of a branch on the remote, newest first.
    pub(crate) fn subjects(&self, branch: &str) -> Vec<String> {
        let output = self.git_in_remote(&["log", "--format=%s", branch]);
        String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect()
    }

    /// A file on a branch of the remote.
    pub(crate) fn file(&self, branch: &str, path: &str) -> Option<String> {
        let output = self.git_in_remote(&["show", &format!("{branch}:{path}")]);
        output
            .status
            .success()
            .then(|| String::from_utf8(output.stdout).unwrap())
    }

    /// Adds a commit to a branch of the remote, as somebody else would.
    pub(crate) fn commit_on_remote(&self, branch: &str, from: &str, file: &str) {
        git::commit_elsewhere(
            &self.remote(),
            &self.path(&format!("elsewhere-{file}")),
            branch,
            from,
            file,
        );
    }

    /// Makes the repository that the gateway has as a submodule under a number, with what a shell script changes in it, and
    /// lists it in the plan as `https://git.example.com/acme/<name>.git`. Returns the commit of its `main`.
    pub(crate) fn list_submodule(&mut self, name: &str, script: &str) -> String {
        self.job
            .submodules
            .push(format!("https://git.example.com/acme/{name}.git"));
        let number = self.job.submodules.len();
        let bare = self.submodule(number);
        let parent = self.path(&format!("submodule-{number}"));
        std::fs::create_dir(&parent).unwrap();
        git::make_repository(&bare, &parent.join("seed"));
        git::commit_script(&bare, &parent.join("changing"), script);
        let output = git(&bare, &["rev-parse", "main"]);
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// The repository that the gateway has as a submodule under a number.
    pub(crate) fn submodule(&self, number: usize) -> PathBuf {
        self.path(&format!("repositories/submodules/{number}.git"))
    }

    /// Adds a commit to `main` of the remote with what a shell script changes.
    pub(crate) fn change_on_remote(&self, script: &str) {
        git::commit_script(&self.remote(), &self.path("changing"), script);
    }

    /// Begins a branch of the remote at `main`, with what a shell script changes.
    pub(crate) fn change_branch_on_remote(&self, branch: &str, script: &str) {
        let main = self.ask_remote(&["rev-parse", "main"]);
        self.change_on_remote(script);
        self.ask_remote(&["update-ref", &format!("refs/heads/{branch}"), "main"]);
        self.ask_remote(&["update-ref", "refs/heads/main", &main]);
    }

    fn git_in_remote(&self, arguments: &[&str]) -> Output {
        git(&self.remote(), arguments)
    }
}

/// Hands everything below a directory to a user.
fn open_to(user: u32, directory: &Path) {
    let status = std::process::Command::new("chown")
        .arg("-R")
        .arg(format!("{user}:{user}"))
        .arg(directory)
        .status();
    assert!(status.unwrap().success());
}

/// A runner at work.
pub(crate) struct Running {
    child: Child,
}

impl Running {
    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// Asks it to stop.
    pub(crate) fn terminate(&self) {
        let pid = Pid::from_raw(self.pid().try_into().unwrap()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
    }
}

/// The most memory that a process ever had, in MiB. Nothing once it has ended.
pub(crate) fn peak(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes / 1024)
}

/// What a run came to.
pub(crate) struct End {
    pub(crate) status: ExitStatus,
    pub(crate) events: Vec<Envelope>,
}

impl End {
    /// The result of a success.
    pub(crate) fn completed(&self) -> &JobResult {
        match &self.last().event {
            RunnerEvent::Completed(result) => result,
            other => panic!("it should have succeeded: {other:?}"),
        }
    }

    /// The failure, and what was pushed all the same.
    pub(crate) fn failed(&self) -> (&Failure, Option<&Pushed>) {
        match &self.last().event {
            RunnerEvent::Failed { failure, pushed } => (failure, pushed.as_ref()),
            other => panic!("it should have failed: {other:?}"),
        }
    }

    /// The question that the attempt ended with.
    pub(crate) fn asked(&self) -> &Escalation {
        match &self.last().event {
            RunnerEvent::Escalation(question) => question,
            other => panic!("it should have asked: {other:?}"),
        }
    }

    /// The checkpoints, oldest first.
    pub(crate) fn checkpoints(&self) -> Vec<&Checkpoint> {
        checkpoints(&self.events)
    }

    /// The first of them.
    pub(crate) fn first_checkpoint(&self) -> Checkpoint {
        match self.checkpoints().first() {
            Some(&checkpoint) => checkpoint.clone(),
            None => panic!("there is no checkpoint: {:?}", self.events),
        }
    }

    fn last(&self) -> &Envelope {
        let numbers: Vec<u64> = self.events.iter().map(|event| event.seq).collect();
        let expected: Vec<u64> = (1..=self.events.len() as u64).collect();
        assert_eq!(numbers, expected, "numbers have no gaps");
        self.events.last().expect("there are events")
    }

    /// What people were told.
    pub(crate) fn progress(&self) -> Vec<&str> {
        let told = self.events.iter().filter_map(|event| match &event.event {
            RunnerEvent::Progress { message, .. } => Some(message.as_str()),
            _ => None,
        });
        told.collect()
    }

    /// Everything that programs wrote.
    pub(crate) fn output(&self) -> Vec<String> {
        let entries = self.events.iter().filter_map(|event| match &event.event {
            RunnerEvent::Agent(entry) if entry.kind == "output" => Some(&entry.detail),
            _ => None,
        });
        entries
            .flat_map(|detail| detail["lines"].as_array().cloned().unwrap_or_default())
            .map(|line| line.as_str().unwrap_or_default().to_owned())
            .collect()
    }
}

/// The checkpoints among events, oldest first.
pub(crate) fn checkpoints(events: &[Envelope]) -> Vec<&Checkpoint> {
    let made = events.iter().filter_map(|event| match &event.event {
        RunnerEvent::Checkpoint(checkpoint) => Some(checkpoint),
        _ => None,
    });
    made.collect()
}

/// Waits until something holds.
pub(crate) async fn until(mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LIMIT, wait).await.expect("it comes to hold");
}
