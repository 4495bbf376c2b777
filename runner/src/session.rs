//! One session from the clone to the push.

mod publishing;

use std::convert::Infallible;
use std::path::PathBuf;
use std::time::Duration;

use fabrica_core::failure::Failure;
use fabrica_core::plan::Agent;
use fabrica_core::protocol::{Escalation, Job, JobResult, Pushed, RunnerEvent, Told, Usage, Verification};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::agent::{self, Claude, Start};
use crate::asking::Setup;
use crate::checked::{Checked, Judged};
use crate::checkpoint::{self, Checkpointer, Last, restore};
use crate::commands::Commands;
use crate::environment::Environment;
use crate::gateway::{Gateway, Service};
use crate::inbox::{self, Inbox};
use crate::process::Processes;
use crate::report::Reporter;
use crate::repository::{
    Checkout, Filter, Git, Rejoined, Remotely, Submodules, break_locks, bring, check_out, clone,
    commit_leftovers, configure, has_changes, preflight, rejoin, still_there, template, template_path,
    working_directory,
};
use crate::signing::Signing;
use crate::stop::{Reason, Stop};
use crate::transcript;
use crate::verification::{Verified, verify};

/// How long pushing may take after a stop was requested: the engine's own patience is limited too.
const HURRY: Duration = Duration::from_secs(20);
/// How long a checkpoint of what a failed agent left may take.
const RESCUE: Duration = Duration::from_mins(1);

/// How long it may take to find out what is to be told of the agent's changes.
const TELLING: Duration = Duration::from_secs(10);
/// How often the work is verified again because others have pushed meanwhile.
const MOST_OVERTAKEN: u32 = 5;
/// How long it takes at most until it is noticed that the agent has heard something.
const LISTENING: Duration = Duration::from_secs(1);

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
    /// Where in the clone the agent and the plan's commands start.
    directory: PathBuf,
    submodules: Submodules,
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
        let mut prepared = match self.stop.or(self.prepare()).await {
            Ok(prepared) => prepared,
            Err(failure) => return failed(failure, None),
        };
        let last = prepared.last.take();
        let Prepared { git, checkout, .. } = &prepared;
        let inbox = Inbox::new(self.environment.scratch().join("inbox"), self.job.heard);
        let checkpointer = Checkpointer::new(
            (git, &self.gateway),
            &self.environment,
            (&self.job, checkout),
            (&self.reporter, &inbox),
            last,
        );
        let worked = tokio::select! {
            biased;
            worked = self.work(&prepared, &inbox) => worked,
            never = checkpointer.regularly() => match never {},
            never = self.listen(&inbox) => match never {},
        };
        self.tell_heard(&inbox).await;
        if self.stop.reason() == Some(Reason::Fenced) {
            // Whatever this attempt does now is refused.
            return failed(Reason::Fenced.failure(), None);
        }
        let told = prepared.submodules.tell_changes(git, checkout, &self.reporter);
        if timeout(TELLING, told).await.is_err() {
            let message =
                "What the agent changed in submodules could not be found out in time; none of it is pushed";
            self.reporter.progress("submodules", message).await;
        }
        match worked {
            Ok(Worked::Done(done)) => match self.within_limits(self.publish(git, checkout)).await {
                Ok(pushed) => {
                    let head = pushed.as_ref().map_or(&checkout.start, |pushed| &pushed.head);
                    checkpointer.finally(head).await;
                    RunnerEvent::Completed(JobResult {
                        summary: done.summary,
                        pushed,
                        verification: done.verification,
                        rounds: done.rounds,
                        template: template(git, checkout).await,
                        heard: inbox.heard(),
                        unfinished: self.job.finish,
                    })
                }
                Err(failure) => {
                    // What nobody takes as a branch may be taken as a checkpoint.
                    if let Err(second) = self.within_limits(self.secure(&checkpointer)).await {
                        checkpointer.tell(&second).await;
                    }
                    failed(failure, None)
                }
            },
            Ok(Worked::Asked(question)) => match self.within_limits(self.secure(&checkpointer)).await {
                Ok(()) => RunnerEvent::Escalation(question),
                Err(failure) => {
                    let note = format!("the agent wanted to ask: {}", question.question);
                    self.give_up((git, checkout), None, failure.with_diagnosis([note]))
                        .await
                }
            },
            Err(failure) => self.give_up((git, checkout), Some(&checkpointer), failure).await,
        }
    }

    fn remotely<'a>(&'a self, git: &'a Git) -> Remotely<'a> {
        Remotely {
            git,
            gateway: &self.gateway,
            token: &self.environment.agent_token,
            job: &self.job,
            reporter: &self.reporter,
        }
    }

    async fn prepare(&self) -> Result<Prepared, Failure> {
        let git = Git::find(
            &self.environment.path,
            self.processes.clone(),
            self.address.clone(),
        )?;
        let signing = Signing::find(&git, &self.environment, &self.job).await?;
        let large_files = Filter::find(&self.environment.path).filter(|_| self.job.large_files);
        let git = git.signing_with(signing).keeping_large_files_with(large_files);
        preflight(&self.gateway, Service::UploadPack).await?;
        let directory = self.environment.repository();
        let remotely = self.remotely(&git);
        let checkout = clone(remotely, &directory).await?;
        Signing::configure(&git, &directory).await?;
        configure(&git, &directory, Service::UploadPack).await?;
        let checkpoint = self
            .job
            .resume
            .as_ref()
            .and_then(|resume| resume.checkpoint.as_ref());
        let last = match checkpoint {
            Some(checkpoint) => restore(remotely, &checkout, checkpoint).await?,
            None => None,
        };
        bring(remotely, &directory, Service::UploadPack).await?;
        let submodules = check_out(remotely, &checkout).await?;
        let directory = working_directory(&directory, self.job.path.as_deref())?;
        Ok(Prepared {
            git,
            checkout,
            directory,
            submodules,
            last,
        })
    }

    /// Hands on what people say to the agent, and tells them when it has heard it.
    async fn listen(&self, inbox: &Inbox) -> Infallible {
        let mut said = self.reporter.said();
        loop {
            receive(inbox, &mut said);
            self.tell_heard(inbox).await;
            // The agent's hooks tell nobody that they took something.
            let _ = timeout(LISTENING, said.changed()).await;
        }
    }

    async fn tell_heard(&self, inbox: &Inbox) {
        for by in inbox.settle() {
            self.reporter
                .progress("said", format!("The agent has heard what {by} said"))
                .await;
        }
    }

    /// Writes down what the agent has to do, and how it asks.
    fn write_task(&self) -> Result<(PathBuf, Setup), Failure> {
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
        Ok((task, asking))
    }

    async fn work(&self, prepared: &Prepared, inbox: &Inbox) -> Result<Worked, Failure> {
        let Prepared {
            git,
            checkout,
            directory,
            submodules,
            ..
        } = prepared;
        let (task, asking) = self.write_task()?;
        let parts = (self.processes.clone(), self.reporter.clone(), self.stop.clone());
        let commands = Commands::new(
            &self.environment,
            &self.job,
            git,
            (directory, &task),
            &asking,
            parts,
        );
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
        let finish = self.job.finish;
        let mut worked = if finish {
            agent::finish(start).await
        } else {
            agent::work(start).await
        };
        let mut round = 1;
        // Why the agent was told to go on.
        let mut refuted = None;
        loop {
            break_locks(&checkout.directory, &self.reporter).await;
            // However it ended: what it recorded is the truth.
            if let Some(question) = asking.questions().read()
                && self.stop.reason().is_none_or(|reason| reason == Reason::Signal)
            {
                return Ok(Worked::Asked(question));
            }
            self.keep_transcript().await;
            let agent::Worked { summary, usage } =
                worked.map_err(|failure| blame(failure, refuted.take()))?;
            spent = spent.plus(usage);
            receive(inbox, &mut self.reporter.said());
            // Without an agent nobody hears it: then the session goes on afterwards.
            let unheard = if finish { Vec::new() } else { inbox.take() };
            if !unheard.is_empty() {
                still_there(directory, self.job.path.as_deref())?;
                worked = agent::go_on(start, inbox::words(&unheard), spent).await;
                continue;
            }
            self.stop
                .or(commit_leftovers(self.remotely(git), (checkout, submodules)))
                .await?;
            still_there(directory, self.job.path.as_deref())?;
            let checked = self.check(prepared, &commands).await?;
            let objection = match checked.judge(finish, (round, rounds))? {
                Judged::Done(verification) => {
                    return Ok(Worked::Done(Done {
                        summary,
                        verification,
                        rounds: round,
                    }));
                }
                Judged::Ask(question) => return Ok(Worked::Asked(question)),
                Judged::Objection(objection) => objection,
            };
            let (step, cause, told) = objection.put(round + 1, rounds);
            refuted = match objection {
                Checked::Refuted(objection) => Some(objection.failure(round)),
                _ => None,
            };
            self.reporter
                .progress(
                    step,
                    format!("{cause}: the agent is told (round {round} of {rounds})"),
                )
                .await;
            worked = agent::go_on(start, told, spent).await;
            round += 1;
        }
    }

    /// Puts the work on top of what others have pushed, and verifies it: what is verified must be what is pushed, so nothing
    /// of others may come in between.
    async fn check(&self, prepared: &Prepared, commands: &Commands) -> Result<Checked, Failure> {
        let Prepared {
            git,
            checkout,
            submodules,
            ..
        } = prepared;
        let dangling = submodules.dangling(self.remotely(git), checkout);
        if let Some(dangling) = self.stop.or(dangling).await? {
            return Ok(Checked::Dangling(dangling));
        }
        let mut verified = None;
        for _ in 0..MOST_OVERTAKEN {
            match self.stop.or(rejoin(self.remotely(git), checkout)).await? {
                Rejoined::Conflict(conflict) => return Ok(Checked::Conflict(conflict)),
                Rejoined::UpToDate => {
                    if let Some(verified) = verified {
                        return Ok(Checked::Passed(verified));
                    }
                }
                Rejoined::Rebased(theirs) => {
                    let message = format!(
                        "Put the work on top of {theirs} commit(s) that others pushed to {}",
                        checkout.branch
                    );
                    self.reporter.progress("rebase", message).await;
                    self.stop
                        .or(submodules.follow(self.remotely(git), checkout))
                        .await?;
                }
            }
            verified = match verify(commands, &self.job.verify).await? {
                Verified::Passed(none) if none.is_empty() => return Ok(Checked::Passed(none)),
                Verified::Passed(verification) => Some(verification),
                Verified::Failed(refuted) => return Ok(Checked::Refuted(refuted)),
            };
        }
        // Others push faster than the verification takes: the push itself decides.
        Ok(Checked::Passed(verified.unwrap_or_default()))
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
            let rescued = match checkpointer {
                Some(checkpointer) => self.rescue((git, checkout), checkpointer, &failure).await,
                None => true,
            };
            let pushed = self.publish(git, checkout).await?;
            if let (false, Some(checkpointer)) = (rescued, checkpointer) {
                let head = pushed.as_ref().map_or(&checkout.start, |pushed| &pushed.head);
                checkpointer.finally(head).await;
            }
            Ok(pushed)
        });
        match published.await {
            Ok(pushed) => failed(failure, pushed),
            Err(second) => {
                let note = format!("beside this, the commits could not be pushed: {second}");
                failed(failure.with_diagnosis([note]), None)
            }
        }
    }

    /// Makes a checkpoint of what would be lost otherwise. False if nothing would.
    async fn rescue(
        &self,
        (git, checkout): (&Git, &Checkout),
        checkpointer: &Checkpointer<'_>,
        failure: &Failure,
    ) -> bool {
        let stopped = self.stop.reason().is_some();
        // What the agent has read and thought is worth as much, if it goes on later; and so is what nobody signs.
        let goes_on = failure.code.starts_with("model.") || failure.code.starts_with("signing.");
        if !stopped && !goes_on && !has_changes(git, checkout).await {
            return false;
        }
        let limit = if stopped { HURRY / 2 } else { RESCUE };
        let secured = timeout(limit, self.secure(checkpointer)).await;
        if let Err(failure) = secured.unwrap_or_else(|_| Err(checkpoint::slow())) {
            checkpointer.tell(&failure).await;
        }
        true
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

/// A program that cannot mend its work, and says so by its exit code, is not what the session fails for.
fn blame(failure: Failure, refuted: Option<Failure>) -> Failure {
    match refuted {
        Some(refuted) if failure.code == "agent.failed" => {
            let note = format!("told of this, the agent did not mend it: {failure}");
            refuted.with_diagnosis([note])
        }
        _ => failure,
    }
}

/// Hands on what people said to the agent.
fn receive(inbox: &Inbox, said: &mut watch::Receiver<Vec<Told>>) {
    for note in said.borrow_and_update().iter() {
        inbox.receive(note);
    }
}

fn failed(failure: Failure, pushed: Option<Pushed>) -> RunnerEvent {
    RunnerEvent::Failed { failure, pushed }
}
