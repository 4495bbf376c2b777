//! A checkpoint, put back into a fresh clone.

use fabrica_core::failure::Failure;
use fabrica_core::protocol::Checkpoint;

use super::checkpointer::Last;
use super::snapshot::Snapshot;
use super::wire::is_commit;
use crate::gateway::Service;
use crate::repository::{Checkout, Remotely, args, git_failed, meet};

/// Makes the clone what the agent's was: the commits, the index and the files.
pub(crate) async fn restore(
    remotely: Remotely<'_>,
    checkout: &Checkout,
    checkpoint: &Checkpoint,
) -> Result<Option<Last>, Failure> {
    if checkpoint.is_of_branch() {
        return earlier(remotely, checkout).await;
    }
    if !fetch(remotely, checkout, &checkpoint.reference).await? {
        return Err(missing("the git host does not have it any more"));
    }
    let last = find(remotely, checkout, &checkpoint.commit, Some(&checkpoint.head)).await?;
    meet(remotely, checkout, &last.snapshot.head).await?;
    let git = remotely.git;
    let inside = || git.inside(&checkout.directory);
    let Snapshot {
        head, branch, index, ..
    } = &last.snapshot;
    let tip = branch.as_ref().unwrap_or(head);
    let staged = format!("{}^2", checkpoint.commit);
    let commits = [&checkpoint.commit, &staged, head, tip].map(String::as_str);
    remotely
        .fetch_large_files(&checkout.directory, Service::UploadPack, &commits)
        .await?;
    let smudging = || remotely.smudging(inside(), Service::UploadPack);
    let switch = args!(smudging(), "checkout", "--quiet", "--force", "--no-track", "-B");
    git.answer(args!(switch, &checkout.branch, tip)).await?;
    if tip != head {
        git.answer(args!(
            smudging(),
            "checkout",
            "--quiet",
            "--force",
            "--detach",
            head
        ))
        .await?;
    }
    let files = args!(smudging(), "read-tree", "--reset", "-u", &checkpoint.commit);
    git.answer(files).await?;
    git.answer(args!(inside(), "read-tree", index)).await?;
    // It says by its exit code whether files differ from the index.
    git.run(args!(inside(), "update-index", "-q", "--refresh"))
        .await?;
    let short = checkpoint.commit.get(..10).unwrap_or(&checkpoint.commit);
    remotely
        .reporter
        .progress("clone", format!("Restored the checkpoint {short}"))
        .await;
    Ok(Some(last))
}

/// The checkpoint that the session's next one follows on, while the work itself goes on where the branch is now.
async fn earlier(remotely: Remotely<'_>, checkout: &Checkout) -> Result<Option<Last>, Failure> {
    let reference = remotely.job.checkpoint_reference();
    if !fetch(remotely, checkout, &reference).await? {
        return Ok(None);
    }
    let git = remotely.git;
    let fetched = args!(git.inside(&checkout.directory), "rev-parse", "--verify", FETCHED);
    let commit = git.answer(fetched).await?;
    find(remotely, checkout, &commit, None).await.map(Some)
}

/// Where what was fetched is kept.
const FETCHED: &str = "refs/fabrica/fetched";

/// Fetches a reference. False if the git host does not have it.
async fn fetch(remotely: Remotely<'_>, checkout: &Checkout, reference: &str) -> Result<bool, Failure> {
    let Remotely { git, token, .. } = remotely;
    if !reference.starts_with("refs/") {
        return Err(missing("its reference has no valid name"));
    }
    let make = || {
        let mut command = git.command(&checkout.directory);
        command
            .args(["ls-remote", "--refs"])
            .arg(git.url())
            .arg(reference)
            .envs(git.credential(token));
        command
    };
    let listing = remotely.again(make, || Ok(())).await?.stdout;
    if listing.split_ascii_whitespace().nth(1) != Some(reference) {
        return Ok(false);
    }
    let make = || {
        let mut command = git.inside(&checkout.directory);
        command
            .args(["fetch", "--quiet", "--no-tags", "--no-write-fetch-head"])
            .arg("--recurse-submodules=no")
            .arg("origin")
            .arg(format!("+{reference}:{FETCHED}"))
            .envs(git.credential(token));
        command
    };
    remotely.again(make, || Ok(())).await.map(|_| true)
}

/// Looks whether what was fetched is the checkpoint, with that commit as what the agent's `HEAD` was at, where it is known.
async fn find(
    remotely: Remotely<'_>,
    checkout: &Checkout,
    commit: &str,
    expected: Option<&str>,
) -> Result<Last, Failure> {
    if !is_commit(commit) {
        return Err(missing("its commit has no valid name"));
    }
    let git = remotely.git;
    let names = [
        format!("{commit}^{{commit}}"),
        format!("{commit}^1"),
        format!("{commit}^2^{{tree}}"),
        format!("{commit}^{{tree}}"),
    ];
    let mut command = args!(git.inside(&checkout.directory), "rev-parse");
    command.args(names);
    let output = git.run(command).await?;
    let found: Vec<&str> = output.stdout.lines().collect();
    let [name, head, index, tree] = found.as_slice() else {
        return Err(missing("its commit is not part of what the git host has")
            .with_diagnosis(git_failed(&output).diagnosis));
    };
    if !output.success() || *name != commit || expected.is_some_and(|expected| *head != expected) {
        return Err(missing("what the git host has is something else"));
    }
    let branch = args!(
        git.inside(&checkout.directory),
        "rev-parse",
        "--verify",
        "--quiet",
        format!("{commit}^2^2")
    );
    let branch = git.run(branch).await?;
    Ok(Last {
        snapshot: Snapshot {
            head: (*head).to_owned(),
            branch: branch.success().then(|| branch.stdout.trim().to_owned()),
            index: (*index).to_owned(),
            tree: (*tree).to_owned(),
        },
        commit: commit.to_owned(),
    })
}

fn missing(why: &str) -> Failure {
    Failure::new(
        "checkpoint.missing",
        format!("the checkpoint cannot be restored: {why}"),
        "Somebody may have removed references below refs/fabrica/ from the git host. Submit the plan again to start over.",
    )
}
