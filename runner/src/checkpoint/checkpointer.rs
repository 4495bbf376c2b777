//! When checkpoints are made, and what follows on each.

use std::convert::Infallible;
use std::path::PathBuf;
use std::time::Duration;

use fabrica_core::failure::Failure;
use fabrica_core::plan::Agent;
use fabrica_core::protocol::{Checkpoint, Job, RunnerEvent};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::push::Remote;
use super::snapshot::{Snapshot, take};
use crate::agent::Claude;
use crate::environment::{Environment, Token};
use crate::gateway::Gateway;
use crate::inbox::Inbox;
use crate::report::Reporter;
use crate::repository::{Checkout, Git, persistently};
use crate::transcript::{self, Transcript};

/// How long git may take to look at the clone.
const PATIENCE_WITH_GIT: Duration = Duration::from_mins(5);

/// The newest checkpoint.
#[derive(Debug, Clone)]
pub(crate) struct Last {
    pub(crate) snapshot: Snapshot,
    pub(crate) commit: String,
}

/// Makes checkpoints of one clone, one after the other.
#[derive(Debug)]
pub(crate) struct Checkpointer<'a> {
    pub(super) git: &'a Git,
    pub(super) gateway: &'a Gateway,
    pub(super) agent_token: &'a Token,
    pub(super) checkout: &'a Checkout,
    pub(super) job: &'a Job,
    pub(super) scratch: PathBuf,
    pub(super) reference: String,
    environment: &'a Environment,
    reporter: &'a Reporter,
    inbox: &'a Inbox,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: Option<Last>,
    remote: Remote,
    /// What people were told was left out.
    left_out: Vec<String>,
    /// Whether people know that it does not work.
    told: bool,
    /// Whether they know that it works without files in Git LFS only.
    large_files_told: bool,
}

impl<'a> Checkpointer<'a> {
    /// For a clone in which the last checkpoint, if any, was restored.
    pub(crate) fn new(
        (git, gateway): (&'a Git, &'a Gateway),
        environment: &'a Environment,
        (job, checkout): (&'a Job, &'a Checkout),
        (reporter, inbox): (&'a Reporter, &'a Inbox),
        last: Option<Last>,
    ) -> Self {
        Self {
            git,
            gateway,
            agent_token: &environment.agent_token,
            checkout,
            job,
            scratch: environment.scratch(),
            reference: job.checkpoint_reference(),
            environment,
            reporter,
            inbox,
            state: Mutex::new(State {
                last,
                ..State::default()
            }),
        }
    }

    /// Makes checkpoints for as long as it runs, as often as the job wants it.
    pub(crate) async fn regularly(&self) -> Infallible {
        let Some(seconds) = self.job.checkpoint_seconds else {
            return std::future::pending().await;
        };
        loop {
            sleep(Duration::from_secs(seconds.max(1))).await;
            if let Err(failure) = self.make(false).await {
                warn!(%failure, "no checkpoint was made");
                self.tell(&failure).await;
            }
        }
    }

    /// Makes a checkpoint, and tries for as long as there is hope. If nothing is new, the last one is reported again
    /// with the conversation of now.
    pub(crate) async fn patiently(&self) -> Result<(), Failure> {
        persistently(self.gateway, || self.make(true)).await
    }

    /// Reports that everything is on the branch, at that commit, or was never anywhere else: whoever goes on begins there.
    pub(crate) async fn finally(&self, head: &str) {
        let conversation = match self.conversation() {
            Some(conversation) => transcript::upload(self.gateway, &conversation).await && conversation.whole,
            None => false,
        };
        self.reporter
            .report(RunnerEvent::Checkpoint(Checkpoint {
                reference: format!("refs/heads/{}", self.checkout.branch),
                commit: head.to_owned(),
                head: head.to_owned(),
                conversation,
                heard: self.inbox.heard(),
            }))
            .await;
    }

    /// Tells people, once, that no checkpoint was made.
    pub(crate) async fn tell(&self, failure: &Failure) {
        let told = std::mem::replace(&mut self.state.lock().await.told, true);
        if !told {
            self.reporter
                .progress("checkpoint", format!("No checkpoint was made: {failure}"))
                .await;
        }
    }

    /// One try. Nothing new is no reason to make one, except if it is wanted `in_any_case`.
    async fn make(&self, in_any_case: bool) -> Result<(), Failure> {
        let mut state = self.state.lock().await;
        // Read before the files are: an agent that does something twice does less harm than one that remembers what is
        // not there.
        let heard = if in_any_case {
            self.inbox.heard()
        } else {
            self.inbox.settled()
        };
        let conversation = self.conversation();
        let taken = timeout(PATIENCE_WITH_GIT, take(self.git, self.checkout, &self.scratch))
            .await
            .unwrap_or_else(|_| Err(slow()))?;
        if taken.left_out != state.left_out {
            self.tell_left_out(&taken.left_out).await;
            state.left_out = taken.left_out;
        }
        let snapshot = taken.snapshot;
        let unchanged = state.last.as_ref().filter(|last| last.snapshot == snapshot);
        let commit = match unchanged {
            Some(_) if !in_any_case => return Ok(()),
            Some(last) => last.commit.clone(),
            None => {
                let commit = self.push(&mut state.remote, &snapshot).await?;
                if let Some(failure) = state.remote.without_large_files.take() {
                    self.tell_without_large_files(&mut state.large_files_told, &failure)
                        .await;
                }
                state.last = Some(Last {
                    snapshot: snapshot.clone(),
                    commit: commit.clone(),
                });
                commit
            }
        };
        let conversation = match conversation {
            // Of a part of it nothing can be resumed.
            Some(conversation) => transcript::upload(self.gateway, &conversation).await && conversation.whole,
            None => false,
        };
        self.reporter
            .report(RunnerEvent::Checkpoint(Checkpoint {
                reference: self.reference.clone(),
                commit,
                head: snapshot.head,
                conversation,
                heard,
            }))
            .await;
        state.told = false;
        Ok(())
    }

    fn conversation(&self) -> Option<Transcript> {
        if self.job.agent != Agent::Claude {
            return None;
        }
        let path = Claude::transcript(self.environment, self.job)?;
        transcript::read(&path)
    }

    async fn tell_without_large_files(&self, told: &mut bool, failure: &Failure) {
        if !std::mem::replace(told, true) {
            let message = format!("New files in Git LFS are not in checkpoints: {failure}");
            self.reporter.progress("checkpoint", message).await;
        }
    }

    async fn tell_left_out(&self, left_out: &[String]) {
        const SHOWN: usize = 5;
        if left_out.is_empty() {
            return;
        }
        let mut message = format!(
            "Left out of checkpoints: {}",
            left_out[..left_out.len().min(SHOWN)].join(", ")
        );
        if left_out.len() > SHOWN {
            message.push_str(&format!(" and {} more", left_out.len() - SHOWN));
        }
        self.reporter.progress("checkpoint", message).await;
    }
}

/// Git takes too long: it may hang in a program that the repository names.
pub(crate) fn slow() -> Failure {
    Failure::new(
        "checkpoint.slow",
        "git took too long to make a checkpoint",
        "Look at the filters that the repository's attributes name, and at the number of files that it does not ignore.",
    )
}
