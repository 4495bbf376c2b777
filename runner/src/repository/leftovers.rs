//! What the agent left behind: changes that it did not commit, and the commits to push.

use fabrica_core::failure::Failure;
use fabrica_core::protocol::Pushed;

use super::checkout::{Checkout, Remotely};
use super::git::{Git, args, git_failed};
use super::submodules::Submodules;

/// How many subject lines are reported.
const MAX_SUBJECTS: usize = 50;

/// The commits of the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Work {
    /// What is reported once it is pushed.
    pub(crate) pushed: Pushed,
    /// Whether the remote has it already.
    pub(crate) published: bool,
}

/// Whether there is anything that the agent did not commit. Of a clone that is damaged nothing can be kept.
pub(crate) async fn has_changes(git: &Git, checkout: &Checkout) -> bool {
    let status = args!(git.inside(&checkout.directory), "status", "--porcelain");
    git.answer(status).await.is_ok_and(|status| !status.is_empty())
}

/// Commits what the agent changed and forgot to commit. What is ignored stays out.
pub(crate) async fn commit_leftovers(
    remotely: Remotely<'_>,
    (checkout, submodules): (&Checkout, &Submodules),
) -> Result<(), Failure> {
    let Remotely {
        git, job, reporter, ..
    } = remotely;
    let inside = || git.inside(&checkout.directory);
    let status = git
        .answer(args!(inside(), "status", "--porcelain", "--untracked-files=all"))
        .await?;
    if status.is_empty() {
        return Ok(());
    }
    if !git
        .answer(args!(inside(), "ls-files", "--unmerged"))
        .await?
        .is_empty()
    {
        let note = "The agent left a merge with conflicts; what it had not committed is not pushed";
        reporter.progress("agent", note).await;
        return Ok(());
    }
    let mut add = args!(inside(), "add", "--all", "--", ".");
    // Which commit of a submodule belongs to the work is the agent's to say: where it stands may be an accident.
    add.args((submodules.paths()).map(|path| format!(":(top,exclude,literal){path}")));
    git.answer(add).await?;
    if git
        .succeeds(args!(inside(), "diff", "--cached", "--quiet", "--no-ext-diff"))
        .await?
    {
        return Ok(());
    }
    let title = if job.title.trim().is_empty() {
        "Work of the agent"
    } else {
        job.title.as_str()
    };
    let commit = || {
        args!(
            remotely.committing(&checkout.directory),
            "commit",
            "--quiet",
            "--no-verify",
            "--cleanup=verbatim",
            "-m",
            title
        )
    };
    let committed = remotely.commit(commit, || None).await?;
    if !committed.success() {
        return Err(git_failed(&committed));
    }
    let files = status.lines().count();
    let what = if files == 1 {
        "1 file".to_owned()
    } else {
        format!("{files} files")
    };
    reporter
        .progress(
            "agent",
            format!("Committed {what} that the agent had changed but not committed"),
        )
        .await;
    Ok(())
}

/// The commits beyond the base, if there are any.
pub(crate) async fn inspect(git: &Git, checkout: &Checkout) -> Result<Option<Work>, Failure> {
    let inside = || git.inside(&checkout.directory);
    let head = head(git, checkout).await?;
    let range = format!("{}..{head}", checkout.base_commit);
    let count = git.answer(args!(inside(), "rev-list", "--count", &range)).await?;
    let commits: u32 = count.parse().unwrap_or(u32::MAX);
    if commits == 0 {
        return Ok(None);
    }
    let listing = args!(
        inside(),
        "log",
        "--reverse",
        "--format=%s",
        "--no-show-signature",
        "--no-ext-diff",
        &range
    );
    let listing = git.answer(listing).await?;
    let pushed = Pushed {
        branch: checkout.branch.clone(),
        base: checkout.base.clone(),
        head: head.clone(),
        commits,
        subjects: listing
            .lines()
            .take(MAX_SUBJECTS)
            .map(crate::text::one_line)
            .collect(),
    };
    Ok(Some(Work {
        pushed,
        published: checkout.published && head == checkout.start,
    }))
}

/// The commit to push: the branch, or what the agent checked out instead, if that goes on from the branch.
async fn head(git: &Git, checkout: &Checkout) -> Result<String, Failure> {
    let commit = async |name: &str| {
        let command = args!(
            git.inside(&checkout.directory),
            "rev-parse",
            "--verify",
            "--quiet",
            format!("{name}^{{commit}}")
        );
        git.run(command)
            .await
            .map(|output| output.success().then(|| output.stdout.trim().to_owned()))
    };
    let branch = commit(&format!("refs/heads/{}", checkout.branch)).await?;
    let current = commit("HEAD").await?;
    match (branch, current) {
        (Some(branch), Some(current)) if branch != current => {
            let ancestor = args!(
                git.inside(&checkout.directory),
                "merge-base",
                "--is-ancestor",
                &branch,
                &current
            );
            Ok(if git.succeeds(ancestor).await? {
                current
            } else {
                branch
            })
        }
        (Some(commit), _) | (None, Some(commit)) => Ok(commit),
        (None, None) => Err(Failure::new(
            "repository.damaged",
            "the agent left a repository without its branch",
            "Nothing could be pushed. Read the transcript, and run the plan again.",
        )),
    }
}
