//! One session from the clone to the push.

use std::time::Duration;

use fabrica_core::failure::Failure;
use fabrica_core::plan::Agent;
use fabrica_core::protocol::{Escalation, Job, JobResult, Pushed, RunnerEvent, Usage, Verification};
use tokio::time::{sleep, timeout};

use crate::agent::{self, Claude, Start};
use crate::asking::Setup;
use crate::checkpoint::{self, Checkpointer, Last, restore};
use crate::commands::Commands;
use crate::environment::Environment;
use crate::gateway::{Gateway, Service};
use crate::process::Processes;
use crate::report::Reporter;
use crate::repository::{
    Checkout, Git, Pusher, Remotely, Work, clone, commit_leftovers, has_changes, inspect, preflight,
    template, template_path,
};
use crate::stop::{Reason, Stop};
use crate::transcript;
use crate::verification::{Verified, verify};

/// How long pushing may take after a stop was requested: the engine's own patience is limited too.
const HURRY: Duration = Duration::from_secs(20);
/// How long a checkpoint of what a failed agent left may take.
const RESCUE: Duration = Duration::from_mins(1);

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

/// A clone to work in.
struct Prepared {
    git: Git,
    checkout: Checkout,
    /// The checkpoint that it was restored from.
    last: Option<Last>,
}

/// What the agent's part came to.
enum Worked {
    /// It did its work.
    Done(Done),
    /// It asks a person.
    Asked(Escalation),
}

/// Work that is done.
struct Done {
    summary: String,
    verification: Vec<Verification>,
    rounds: u32,
}

impl Session {
    /// Does the job, and returns the last event of the attempt.
    pub(crate) async fn run(&self) -> RunnerEvent {
        let Prepared { git, checkout, last } = match self.stop.or(self.prepare()).await {
            Ok(prepared) => prepared,
            Err(failure) => return failed(failure, None),
        };
        let checkpointer = Checkpointer::new(
            (&git, &self.gateway),
            &self.environment,
            (&self.job, &checkout),
            &self.reporter,
            last,
        );
        let worked = tokio::select! {
            biased;
            worked = self.work(&git, &checkout) => worked,
            never = checkpointer.regularly() => match never {},
        };
        if self.stop.reason() == Some(Reason::Fenced) {
            // Whatever this attempt does now is refused.
            return failed(Reason::Fenced.failure(), None);
        }
        match worked {
            Ok(Worked::Done(done)) => match self.within_limits(self.publish(&git, &checkout)).await {
                Ok(pushed) => RunnerEvent::Completed(JobResult {
                    summary: done.summary,
                    pushed,
                    verification: done.verification,
                    rounds: done.rounds,
                    template: template(&git, &checkout).await,
                }),
                Err(failure) => failed(failure, None),
            },
            Ok(Worked::Asked(question)) => match self.within_limits(self.secure(&checkpointer)).await {
                Ok(()) => RunnerEvent::Escalation(question),
                Err(failure) => {
                    let note = format!("the agent wanted to ask: {}", question.question);
                    self.give_up((&git, &checkout), None, failure.with_diagnosis([note]))
                        .await
                }
            },
            Err(failure) => {
                self.give_up((&git, &checkout), Some(&checkpointer), failure)
                    .await
            }
        }
    }

    async fn prepare(&self) -> Result<Prepared, Failure> {
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
        let checkpoint = self
            .job
            .resume
            .as_ref()
            .and_then(|resume| resume.checkpoint.as_ref());
        let last = match checkpoint {
            Some(checkpoint) => Some(restore(remotely, &checkout, checkpoint).await?),
            None => None,
        };
        Ok(Prepared { git, checkout, last })
    }

    async fn work(&self, git: &Git, checkout: &Checkout) -> Result<Worked, Failure> {
        let scratch = self.environment.scratch();
        let task = scratch.join("task.md");
        let asking = std::fs::create_dir_all(&scratch)
            .and_then(|()| std::fs::write(&task, &self.job.task))
            .and_then(|()| Setup::new(scratch))
            .map_err(|error| {
                Failure::new(
                    "sandbox.workspace",
                    format!("the task cannot be written to the workspace: {error}"),
                    "The sandbox's volume must be writable for its user and have free space.",
                )
            })?;
        let parts = (self.processes.clone(), self.reporter.clone(), self.stop.clone());
        let commands = Commands::new(&self.environment, &self.job, git, &task, &asking, parts);
        commands.setup(&self.job.setup).await?;
        let template = template_path(git, checkout).await;
        let start = Start {
            commands: &commands,
            environment: &self.environment,
            job: &self.job,
            gateway: &self.gateway,
            asking: &asking,
            model_address: &self.address,
            template: template.as_deref(),
        };
        let rounds = self.job.rounds.max(1);
        let mut spent = Usage::default();
        let mut worked = agent::work(start).await;
        let mut round = 1;
        loop {
            // However it ended: what it recorded is the truth.
            if let Some(question) = asking.questions().read()
                && self.stop.reason().is_none_or(|reason| reason == Reason::Signal)
            {
                return Ok(Worked::Asked(question));
            }
            self.keep_transcript().await;
            let agent::Worked { summary, usage } = worked?;
            spent = spent.plus(usage);
            self.stop
                .or(commit_leftovers(git, checkout, &self.job, &self.reporter))
                .await?;
            match verify(&commands, &self.job.verify).await? {
                Verified::Passed(verification) => {
                    return Ok(Worked::Done(Done {
                        summary,
                        verification,
                        rounds: round,
                    }));
                }
                Verified::Failed(refuted) if round >= rounds => return Err(refuted.failure(rounds)),
                Verified::Failed(refuted) => {
                    let told = refuted.prompt(round + 1, rounds);
                    let message = format!(
                        "{}: the agent is told (round {round} of {rounds})",
                        refuted.cause()
                    );
                    self.reporter.progress("verify", message).await;
                    worked = agent::go_on(start, told, spent).await;
                    round += 1;
                }
            }
        }
    }

    /// Makes the work safe before a person is asked. Nothing of the agent is alive then, so that nothing is missing.
    async fn secure(&self, checkpointer: &Checkpointer<'_>) -> Result<(), Failure> {
        self.kill_all_others("the question is not asked").await?;
        checkpointer.patiently().await
    }

    /// Ends the attempt without success: what there is is kept, as far as that is possible.
    async fn give_up(
        &self,
        (git, checkout): (&Git, &Checkout),
        checkpointer: Option<&Checkpointer<'_>>,
        failure: Failure,
    ) -> RunnerEvent {
        let published = self.within_limits(async {
            if let Some(checkpointer) = checkpointer {
                self.rescue(git, checkout, checkpointer).await;
            }
            self.publish(git, checkout).await
        });
        match published.await {
            Ok(pushed) => failed(failure, pushed),
            Err(second) => {
                let note = format!("beside this, the commits could not be pushed: {second}");
                failed(failure.with_diagnosis([note]), None)
            }
        }
    }

    /// Makes a checkpoint of what would be lost otherwise.
    async fn rescue(&self, git: &Git, checkout: &Checkout, checkpointer: &Checkpointer<'_>) {
        let stopped = self.stop.reason().is_some();
        if !stopped && !has_changes(git, checkout).await {
            return;
        }
        let limit = if stopped { HURRY / 2 } else { RESCUE };
        let secured = timeout(limit, self.secure(checkpointer)).await;
        if let Err(failure) = secured.unwrap_or_else(|_| Err(checkpoint::slow())) {
            checkpointer.tell(&failure).await;
        }
    }

    async fn kill_all_others(&self, consequence: &str) -> Result<(), Failure> {
        self.processes.kill_all_others().await.map_err(|error| {
            Failure::new(
                "sandbox.process",
                format!("{consequence}: {error}"),
                "Run the session again; if this happens again, look at what the agent starts.",
            )
        })
    }

    async fn keep_transcript(&self) {
        if self.job.agent == Agent::Claude
            && let Some(path) = Claude::transcript(&self.environment, &self.job)
        {
            let upload = async {
                if let Some(transcript) = transcript::read(&path) {
                    transcript::upload(&self.gateway, &transcript).await;
                }
                Ok(())
            };
            // Without it nothing fails.
            let _ = self.within_limits(upload).await;
        }
    }

    /// Pushes what there is. From here on no process of the agent may live: git is given the runner's token.
    async fn publish(&self, git: &Git, checkout: &Checkout) -> Result<Option<Pushed>, Failure> {
        self.kill_all_others("the commits are not pushed").await?;
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

fn failed(failure: Failure, pushed: Option<Pushed>) -> RunnerEvent {
    RunnerEvent::Failed { failure, pushed }
}
