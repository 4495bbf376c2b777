//! One session from the clone to the push.

use std::time::Duration;

use fabrica_core::failure::Failure;
use fabrica_core::plan::Agent;
use fabrica_core::protocol::{Job, JobResult, Pushed, RunnerEvent, Verification};
use tokio::time::sleep;

use crate::agent::{self, Claude};
use crate::commands::Commands;
use crate::environment::Environment;
use crate::gateway::{Gateway, Service};
use crate::process::Processes;
use crate::report::Reporter;
use crate::repository::{Checkout, Git, Pusher, Remotely, Work, clone, commit_leftovers, inspect, preflight};
use crate::stop::{Reason, Stop};
use crate::transcript;

/// How long pushing may take after a stop was requested: the engine's own patience is limited too.
const HURRY: Duration = Duration::from_secs(20);

/// What one session works with.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) environment: Environment,
    pub(crate) gateway: Gateway,
    pub(crate) reporter: Reporter,
    pub(crate) processes: Processes,
    pub(crate) stop: Stop,
    /// Where the forwarder listens, as a URL.
    pub(crate) address: String,
    pub(crate) job: Job,
}

/// What the agent's part came to.
struct Done {
    summary: String,
    verification: Vec<Verification>,
}

impl Session {
    /// Does the job, and returns the last event of the attempt.
    pub(crate) async fn run(&self) -> RunnerEvent {
        let prepared = self.stop.or(self.prepare()).await;
        let (git, checkout) = match prepared {
            Ok(prepared) => prepared,
            Err(failure) => {
                return RunnerEvent::Failed {
                    failure,
                    pushed: None,
                };
            }
        };
        let done = self.work(&git, &checkout).await;
        if self.stop.reason() == Some(Reason::Fenced) {
            // Whatever this attempt does now is refused.
            return RunnerEvent::Failed {
                failure: Reason::Fenced.failure(),
                pushed: None,
            };
        }
        let published = self.within_limits(self.publish(&git, &checkout)).await;
        match (done, published) {
            (Ok(done), Ok(pushed)) => RunnerEvent::Completed(JobResult {
                summary: done.summary,
                pushed,
                verification: done.verification,
            }),
            (Ok(_), Err(failure)) => RunnerEvent::Failed {
                failure,
                pushed: None,
            },
            (Err(failure), Ok(pushed)) => RunnerEvent::Failed { failure, pushed },
            (Err(failure), Err(second)) => {
                let note = format!("beside this, the commits could not be pushed: {second}");
                RunnerEvent::Failed {
                    failure: failure.with_diagnosis([note]),
                    pushed: None,
                }
            }
        }
    }

    async fn prepare(&self) -> Result<(Git, Checkout), Failure> {
        let git = Git::find(
            &self.environment.path,
            self.processes.clone(),
            self.address.clone(),
        )?;
        preflight(&self.gateway, Service::UploadPack).await?;
        let directory = self.environment.repository();
        let remotely = Remotely {
            git: &git,
            gateway: &self.gateway,
            token: &self.environment.agent_token,
            job: &self.job,
            reporter: &self.reporter,
        };
        let checkout = clone(remotely, &directory).await?;
        Ok((git, checkout))
    }

    async fn work(&self, git: &Git, checkout: &Checkout) -> Result<Done, Failure> {
        let scratch = self.environment.scratch();
        let task = scratch.join("task.md");
        std::fs::create_dir_all(&scratch)
            .and_then(|()| std::fs::write(&task, &self.job.task))
            .map_err(|error| {
                Failure::new(
                    "sandbox.workspace",
                    format!("the task cannot be written to the workspace: {error}"),
                    "The sandbox's volume must be writable for its user and have free space.",
                )
            })?;
        let parts = (self.processes.clone(), self.reporter.clone(), self.stop.clone());
        let commands = Commands::new(&self.environment, &self.job, git, &task, parts);
        commands.setup(&self.job.setup).await?;
        let worked = agent::work(&commands, &self.environment, &self.job, &self.address).await;
        self.keep_transcript().await;
        let summary = worked?;
        self.stop
            .or(commit_leftovers(git, checkout, &self.job, &self.reporter))
            .await?;
        let verification = commands.verify(&self.job.verify).await?;
        Ok(Done {
            summary,
            verification,
        })
    }

    async fn keep_transcript(&self) {
        if self.job.agent == Agent::Claude
            && let Some(path) = Claude::transcript(&self.environment, &self.job)
        {
            let upload = async {
                transcript::upload(&self.gateway, &path).await;
                Ok(())
            };
            // Without it nothing fails.
            let _ = self.within_limits(upload).await;
        }
    }

    /// Pushes what there is. From here on no process of the agent may live: git is given the runner's token.
    async fn publish(&self, git: &Git, checkout: &Checkout) -> Result<Option<Pushed>, Failure> {
        self.processes.kill_all_others().await.map_err(|error| {
            Failure::new(
                "sandbox.process",
                format!("the commits are not pushed: {error}"),
                "Run the session again; if this happens again, look at what the agent starts.",
            )
        })?;
        let Some(Work { pushed, published }) = inspect(git, checkout).await? else {
            return Ok(None);
        };
        if !published {
            let pusher = Pusher {
                git,
                gateway: &self.gateway,
                token: &self.environment.runner_token,
                workspace: &self.environment.workspace,
            };
            pusher.push(checkout, &pushed).await?;
            let commits = if pushed.commits == 1 {
                "1 commit"
            } else {
                &format!("{} commits", pushed.commits)
            };
            self.reporter
                .progress("push", format!("Pushed {} with {commits}", pushed.branch))
                .await;
        }
        Ok(Some(pushed))
    }

    /// Lets the last steps end even if a stop is requested meanwhile, but not for ever.
    async fn within_limits<T>(&self, step: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        tokio::select! {
            biased;
            result = step => result,
            () = self.stop.fenced() => Err(Reason::Fenced.failure()),
            reason = async {
                let reason = self.stop.requested().await;
                sleep(HURRY).await;
                reason
            } => Err(reason.failure()),
        }
    }
}
