//! Commits of the runner's own, signed where the operator wants that; and what the agent did not sign.

use std::path::Path;
use std::time::Duration;

use fabrica_core::failure::Failure;
use fabrica_core::protocol::Pushed;
use tokio::process::Command;
use tokio::time::sleep;

use super::checkout::{Checkout, Remotely};
use super::git::{Git, Output, args, identify};
use super::preflight::preflight;
use crate::gateway::Service;
use crate::report::Reporter;
use crate::signing::{AWAY, REFUSED};

/// The pause before a commit is made again that nobody could sign.
const PAUSE: Duration = Duration::from_millis(200);
/// How much of commits is read to find out which have no signature.
const MAX_COMMITS: usize = 64 * 1024 * 1024;

impl Remotely<'_> {
    /// A git in the clone that commits.
    pub(super) fn committing(&self, repository: &Path) -> Command {
        let mut command = self.git.inside(repository);
        identify(&mut command, &self.job.committer);
        if let Some(signing) = self.git.signing() {
            signing.demand(&mut command);
        }
        command
    }

    /// Runs a git that commits to its end, whatever that is but for signatures: while nobody can sign, what it left is
    /// undone and it is run again, for as long as it is the gateway that is away.
    pub(super) async fn commit(
        &self,
        make: impl Fn() -> Command,
        undo: impl Fn() -> Option<Command>,
    ) -> Result<Output, Failure> {
        loop {
            let output = self.git.run(make()).await?;
            let refused = refusal(&output);
            let away = output.stderr.contains(AWAY);
            if output.success() || (refused.is_none() && !away) {
                return Ok(output);
            }
            if let Some(undo) = undo() {
                self.git.run(undo).await?;
            }
            if let Some(refused) = refused {
                return Err(refused);
            }
            preflight(self.gateway, Service::UploadPack).await?;
            sleep(PAUSE).await;
        }
    }
}

/// What the gateway said, if it was that which kept git from committing.
fn refusal(output: &Output) -> Option<Failure> {
    let (_, words) = output.stderr.split_once(REFUSED)?;
    let line = words.lines().next().unwrap_or_default();
    let failure = Failure::new(
        "signing.refused",
        format!("{REFUSED}{line}"),
        "Read the gateway's words: Fabrica may have been started with another --committer, or without --signing-key-file, meanwhile.",
    );
    Some(failure.with_diagnosis(output.lines()))
}

/// Tells of commits that are about to be pushed without a signature, if commits are to be signed: the agent can turn it off
/// in its clone. They are left as they are, since to rewrite them would vouch for what nobody asked to be signed.
pub(crate) async fn tell_unsigned(git: &Git, checkout: &Checkout, pushed: &Pushed, reporter: &Reporter) {
    if git.signing().is_none() {
        return;
    }
    let mut command = args!(
        git.inside(&checkout.directory),
        "rev-list",
        "--header",
        &pushed.head
    );
    // What others have pushed is theirs.
    command.args([
        "--not",
        &checkout.base_commit,
        &checkout.start,
        "--remotes=origin",
        "--",
    ]);
    let message = match git.exchange(command, Vec::new(), MAX_COMMITS).await {
        Ok(commits) => match unsigned(&commits) {
            0 => return,
            1 => "1 commit is pushed without a signature: git was told not to sign it".to_owned(),
            count => format!("{count} commits are pushed without a signature: git was told not to sign them"),
        },
        Err(failure) => {
            format!("Whether all commits that are pushed have a signature could not be found out: {failure}")
        }
    };
    reporter.progress("push", message).await;
}

/// How many commits of a listing of `rev-list --header` have no signature.
fn unsigned(commits: &[u8]) -> usize {
    let signed = |commit: &[u8]| {
        let mut header = commit
            .split(|byte| *byte == b'\n')
            .take_while(|line| !line.is_empty());
        header.any(|line| line.starts_with(b"gpgsig"))
    };
    let commits = commits.split(|byte| *byte == 0);
    commits
        .filter(|commit| !commit.is_empty() && !signed(commit))
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_signature_in_the_header_counts() {
        let signed =
            "1234\ntree 1\ncommitter x\ngpgsig -----BEGIN SSH SIGNATURE-----\n U1NI\n\n    Add it\n\0";
        let unsigned_commit = "1234\ntree 1\ncommitter x\n\n    gpgsig of mine\ngpgsig\n\0";
        assert_eq!(unsigned(b""), 0);
        assert_eq!(unsigned(signed.as_bytes()), 0);
        assert_eq!(
            unsigned(format!("{signed}{unsigned_commit}{unsigned_commit}").as_bytes()),
            2
        );
    }
}
