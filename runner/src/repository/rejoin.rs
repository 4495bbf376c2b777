//! What others have pushed to the session's branch meanwhile: the agent's commits are put on top of it, never in its place.

use std::path::Path;

use fabrica_core::failure::Failure;
use fabrica_core::protocol::{Escalation, Urgency};

use super::checkout::{Checkout, Remotely};
use super::git::args;
use crate::gateway::Service;

/// How many files are named to the agent.
const MAX_FILES: usize = 50;

/// What became of the branch.
#[derive(Debug)]
pub(crate) enum Rejoined {
    /// Nobody has pushed anything that the clone does not have.
    UpToDate,
    /// The agent's commits are on top of so many others now.
    Rebased(u32),
    /// That is not possible without somebody's judgement.
    Conflict(Conflict),
}

/// Why the agent's commits do not fit on top of the others.
#[derive(Debug)]
pub(crate) struct Conflict {
    branch: String,
    theirs: u32,
    files: Vec<String>,
}

impl Conflict {
    /// What the agent is told, before the given round.
    pub(crate) fn prompt(&self, round: u32, rounds: u32) -> String {
        format!(
            "While you worked, others pushed {} to your branch `{branch}`, and yours cannot be put on top of them without \
             conflicts. They touch the same places in:\n\n{}\n\n\
             Run `git merge origin/{branch}`, resolve the conflicts so that both their work and yours stay, commit, and end \
             your turn. Do not reset or rewrite what they pushed (round {round} of {rounds}).",
            self.commits(),
            self.listed(),
            branch = self.branch,
        )
    }

    /// What happened, in a line for people.
    pub(crate) fn cause(&self) -> String {
        format!(
            "Others pushed {} to {} meanwhile, which conflict with the agent's",
            self.commits(),
            self.branch
        )
    }

    /// What a person is asked if the agent cannot resolve it.
    pub(crate) fn question(&self) -> Escalation {
        Escalation {
            question: format!("{}. How shall the conflicts be resolved?", self.cause()),
            options: vec![
                "Keep both, and decide by your own judgement".to_owned(),
                "Keep what they pushed, and leave out what conflicts with it".to_owned(),
            ],
            context: format!("Files with conflicts:\n{}", self.listed()),
            urgency: Urgency::Normal,
        }
    }

    fn commits(&self) -> String {
        if self.theirs == 1 {
            "1 commit".to_owned()
        } else {
            format!("{} commits", self.theirs)
        }
    }

    fn listed(&self) -> String {
        let mut files: Vec<_> = (self.files.iter().take(MAX_FILES))
            .map(|file| format!("- {file}"))
            .collect();
        if self.files.len() > MAX_FILES {
            files.push(format!("- … and {} more", self.files.len() - MAX_FILES));
        }
        files.join("\n")
    }
}

/// Puts the agent's commits on top of what others have pushed. Everything is committed.
pub(crate) async fn rejoin(remotely: Remotely<'_>, checkout: &Checkout) -> Result<Rejoined, Failure> {
    let Remotely { git, token, .. } = remotely;
    let inside = || git.inside(&checkout.directory);
    let branch = format!("refs/heads/{}", checkout.branch);
    let tracking = format!("refs/remotes/origin/{}", checkout.branch);
    // Outside of the clone: what the agent wrote into its configuration must not lead elsewhere.
    let ask = || {
        let mut command = args!(
            git.command(Path::new("/")),
            "ls-remote",
            "--refs",
            git.url(),
            &branch
        );
        command.envs(git.credential(token));
        command
    };
    let listing = remotely.again(ask, || Ok(())).await?.stdout;
    let Some(theirs) = listing.split_ascii_whitespace().next() else {
        return Ok(Rejoined::UpToDate);
    };
    let has = args!(inside(), "merge-base", "--is-ancestor", theirs, "HEAD");
    let on_branch = args!(inside(), "symbolic-ref", "--quiet", "HEAD");
    let on_branch = git.run(on_branch).await?.stdout.trim() == branch;
    // Elsewhere than on its branch the agent is on its own: the push decides.
    if !on_branch || git.succeeds(has).await? {
        return Ok(Rejoined::UpToDate);
    }
    let fetch = || {
        let mut command = args!(inside(), "fetch", "--quiet", "--no-tags", "origin");
        command
            .arg(format!("+{branch}:{tracking}"))
            .envs(git.credential(token));
        command
    };
    remotely.again(fetch, || Ok(())).await?;
    remotely
        .fetch_large_files(&checkout.directory, Service::UploadPack, &[tracking.as_str()])
        .await?;
    let count = args!(inside(), "rev-list", "--count", format!("HEAD..{tracking}"));
    let theirs = git.answer(count).await?.parse().unwrap_or(u32::MAX);
    let rebase = || {
        let mut command = args!(
            remotely.smudging(remotely.committing(&checkout.directory), Service::UploadPack),
            "-c",
            "rebase.autoStash=false",
            "-c",
            "rerere.enabled=false",
            "rebase",
            "--quiet",
            "--no-verify",
            "--rebase-merges",
            "--keep-empty",
            &tracking
        );
        command.env("GIT_EDITOR", ":").env("GIT_SEQUENCE_EDITOR", ":");
        command
    };
    let abort = || args!(inside(), "rebase", "--abort");
    if remotely.commit(rebase, || Some(abort())).await?.success() {
        return Ok(Rejoined::Rebased(theirs));
    }
    let unmerged = args!(
        inside(),
        "-c",
        "core.quotePath=false",
        "diff",
        "--name-only",
        "--diff-filter=U",
        "--no-ext-diff"
    );
    let files = git.answer(unmerged).await?;
    // A rebase that was refused before it began has nothing to abort.
    git.run(abort()).await?;
    Ok(Rejoined::Conflict(Conflict {
        branch: checkout.branch.clone(),
        theirs,
        files: files.lines().map(str::to_owned).collect(),
    }))
}
