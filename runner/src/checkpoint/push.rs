//! Sending a checkpoint. The runner speaks to the gateway itself, so that its token is in no other process.

use std::io;
use std::time::Duration;

use fabrica_core::failure::Failure;
use tokio::time::timeout;

use super::checkpointer::Checkpointer;
use super::pack::{MAX_PACK, pack};
use super::snapshot::{Snapshot, commit};
use super::wire::{Advertisement, Report, prelude, report};
use crate::gateway::Service;
use crate::repository::{Uploader, args, refused, shallow};
use crate::upload::Upload;

/// How long git may take to make the pack.
const PATIENCE_WITH_GIT: Duration = Duration::from_mins(5);

/// Where the reference is on the remote, as far as that is known.
#[derive(Debug, Default)]
pub(super) struct Remote {
    /// Its value; it has to be asked for while that is not certain.
    value: Value,
    /// What was sent last, if nothing was heard of it.
    sent: Option<(Snapshot, String)>,
    /// Why the last checkpoint has files in Git LFS only as pointers to nothing.
    pub(super) without_large_files: Option<Failure>,
}

/// The value of the reference.
#[derive(Debug, Default)]
enum Value {
    /// Not known, or not any more.
    #[default]
    Uncertain,
    /// A commit.
    Commit(String),
}

impl Checkpointer<'_> {
    /// Makes a snapshot the newest checkpoint, and returns its commit.
    pub(super) async fn push(&self, remote: &mut Remote, snapshot: &Snapshot) -> Result<String, Failure> {
        let previous = match &remote.value {
            Value::Commit(commit) => Some(commit.clone()),
            Value::Uncertain => self.value().await?,
        };
        if let (Some(value), Some((sent, commit))) = (&previous, &remote.sent)
            && value == commit
            && sent == snapshot
        {
            // Its answer was lost, but it came through.
            let commit = commit.clone();
            remote.value = Value::Commit(commit.clone());
            return Ok(commit);
        }
        let mut without = self.checkout.known();
        without.extend(previous.as_deref());
        let (commit, upload) = timeout(
            PATIENCE_WITH_GIT,
            self.prepare(previous.as_deref(), &without, snapshot),
        )
        .await
        .unwrap_or_else(|_| Err(super::checkpointer::slow()))?;
        let large_files = Uploader {
            git: self.git,
            gateway: self.gateway,
            checkout: self.checkout,
        };
        match large_files.upload(&commit, &without).await {
            // Code that is safe is worth more than none; the push of the branch says it again.
            Err(failure) if !failure.retryable => remote.without_large_files = Some(failure),
            // What is missing is told when the branch is pushed.
            uploaded => drop(uploaded?),
        }
        remote.value = Value::Uncertain;
        remote.sent = Some((snapshot.clone(), commit.clone()));
        let answer = self
            .gateway
            .receive_pack(upload)
            .await
            .map_err(|error| refused(&error, Service::ReceivePack))?;
        match report(&answer, &self.reference) {
            Report::Done => {
                remote.value = Value::Commit(commit.clone());
                Ok(commit)
            }
            Report::Refused(reason) => Err(not_taken(&reason)),
            Report::Unclear => Err(not_taken("its answer is not understood").retryable()),
        }
    }

    /// The commit that the reference is at on the remote.
    async fn value(&self) -> Result<Option<String>, Failure> {
        let mut advertisement = Advertisement::of(&self.reference);
        self.gateway
            .advertised(|piece| advertisement.add(piece))
            .await
            .map_err(|error| refused(&error, Service::ReceivePack))?;
        advertisement
            .value()
            .map_err(|()| not_taken("its list of references is not understood").retryable())
    }

    /// The commit, and all that is sent.
    async fn prepare(
        &self,
        previous: Option<&str>,
        without: &[&str],
        snapshot: &Snapshot,
    ) -> Result<(String, Upload), Failure> {
        let directory = &self.checkout.directory;
        if let Some(previous) = previous {
            self.fetch(previous).await?;
        }
        let commit = commit(self.git, directory, &self.job.committer, snapshot, previous).await?;
        let file = pack(self.git, directory, &self.scratch, (&commit, without), MAX_PACK).await?;
        let damaged = |error: io::Error| {
            Failure::new(
                "repository.damaged",
                format!("the agent's clone cannot be read: {error}"),
                "Read the transcript, and run the plan again.",
            )
        };
        let ends = shallow(&directory.join(".git/shallow"))
            .map_err(damaged)?
            .unwrap_or_default();
        let head = prelude(previous, &commit, &self.reference, &ends);
        let upload = Upload::with_file(head, file).map_err(damaged)?;
        Ok((commit, upload))
    }

    /// Sees to it that the checkpoint before is in the clone. It is not, if an earlier attempt made it and could not tell
    /// anybody, or if the agent has cleaned up.
    async fn fetch(&self, commit: &str) -> Result<(), Failure> {
        let inside = || self.git.inside(&self.checkout.directory);
        let there = args!(inside(), "cat-file", "-e", format!("{commit}^{{commit}}"));
        if self.git.succeeds(there).await? {
            return Ok(());
        }
        let mut command = inside();
        command
            .args(["fetch", "--quiet", "--no-tags", "--no-write-fetch-head"])
            .arg("--recurse-submodules=no")
            .arg(self.git.url())
            .arg(&self.reference)
            // The agent has this one anyway.
            .envs(self.git.credential(self.agent_token));
        self.git
            .answer(command)
            .await
            .map(drop)
            .map_err(Failure::retryable)
    }
}

fn not_taken(reason: &str) -> Failure {
    let failure = Failure::new(
        "checkpoint.refused",
        format!("the git host does not take the checkpoint: {reason}"),
        "Read the host's reason: a rule for references below refs/fabrica/, a hook, a quota, or a missing right of Fabrica's git token.",
    );
    // Another push to the same reference is at work, or was: which is seen when the reference is asked for.
    let moved = [
        "failed to update ref",
        "cannot lock ref",
        "reference already exists",
        "fetch first",
        "non-fast-forward",
    ];
    if moved.iter().any(|words| reason.contains(words)) {
        failure.retryable()
    } else {
        failure
    }
}
