//! What the agent did to submodules: none of it can be pushed.

use std::path::Path;

use fabrica_core::failure::Failure;

use super::{Submodule, Submodules, has_commit};
use crate::gateway::Service;
use crate::report::Reporter;
use crate::repository::{Checkout, Git, Remotely, args};

impl Submodules {
    /// The paths that Fabrica commits nothing of by itself.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &str> {
        self.outermost().map(|submodule| submodule.path.as_str())
    }

    /// Those of the plan's repository itself.
    fn outermost(&self) -> impl Iterator<Item = &Submodule> {
        self.checked_out.iter().filter(|submodule| submodule.outermost)
    }

    /// Tells what the agent changed in submodules: that stays in the sandbox, and ends with it.
    pub(crate) async fn tell_changes(&self, git: &Git, checkout: &Checkout, reporter: &Reporter) {
        for submodule in &self.checked_out {
            let dirty = uncommitted(git, &submodule.directory).await;
            let commits = unpublished(git, &submodule.directory, "HEAD").await;
            let changed = match (dirty, commits) {
                (Ok(0), Ok(commits)) if commits.is_empty() => continue,
                (Ok(dirty), Ok(commits)) => {
                    format!("{} commits, {dirty} uncommitted files", commits.len())
                }
                (Err(failure), _) | (_, Err(failure)) => {
                    format!("what that is cannot be told: {}", failure.cause)
                }
            };
            let message = format!(
                "What the agent changed in the submodule {} ({changed}) is not pushed and ends with the sandbox: Fabrica \
                 pushes the plan's repository only. Change it with a plan for {}",
                submodule.path, submodule.url
            );
            reporter.progress("submodules", message).await;
        }
        for path in &self.empty {
            let entries = std::fs::read_dir(checkout.directory.join(path));
            if entries.is_ok_and(|mut entries| entries.next().is_some()) {
                let message = format!(
                    "What the agent wrote into the empty submodule {path} is not pushed and ends with the sandbox"
                );
                reporter.progress("submodules", message).await;
            }
        }
    }

    /// The first submodule that the work records at a commit which exists in the sandbox only: nobody else could check the
    /// branch out.
    pub(crate) async fn dangling(
        &self,
        remotely: Remotely<'_>,
        checkout: &Checkout,
    ) -> Result<Option<Dangling>, Failure> {
        let git = remotely.git;
        for submodule in self.outermost() {
            let commit = recorded(git, checkout, &submodule.path).await?;
            let Some(commit) = commit.filter(|commit| *commit != submodule.commit) else {
                continue;
            };
            if !submodule.published(remotely, &commit).await? {
                return Ok(Some(Dangling {
                    path: submodule.path.clone(),
                    commit,
                    url: submodule.url.clone(),
                    before: submodule.commit.clone(),
                }));
            }
        }
        Ok(None)
    }
}

impl Submodule {
    /// Whether its own repository has a commit.
    async fn published(&self, remotely: Remotely<'_>, commit: &str) -> Result<bool, Failure> {
        let Remotely { git, token, .. } = remotely;
        if has_commit(git, &self.directory, commit).await? {
            return Ok((unpublished(git, &self.directory, commit).await?).is_empty());
        }
        // Others may have recorded it meanwhile. Git asks only for what it does not have.
        let mut fetch = args!(
            git.inside(&self.directory),
            "fetch",
            "--quiet",
            "--no-tags",
            "--no-write-fetch-head",
            git.submodule_url(self.number),
            format!("+{commit}:refs/fabrica/{commit}")
        );
        fetch.envs(git.credential(token));
        git.succeeds(fetch).await
    }
}

impl Submodules {
    /// Brings submodules that the agent left alone to where the work has them now that others' is below it: what is verified
    /// is what is pushed.
    pub(crate) async fn follow(&self, remotely: Remotely<'_>, checkout: &Checkout) -> Result<(), Failure> {
        let Remotely { git, reporter, .. } = remotely;
        for submodule in self.outermost() {
            let inside = || git.inside(&submodule.directory);
            let Some(commit) = recorded(git, checkout, &submodule.path).await? else {
                continue;
            };
            let head = git
                .run(args!(inside(), "rev-parse", "--verify", "--quiet", "HEAD"))
                .await?;
            let (head, path) = (head.stdout.trim(), &submodule.path);
            if head == commit {
                continue;
            }
            let untouched = head == submodule.commit
                && uncommitted(git, &submodule.directory)
                    .await
                    .is_ok_and(|files| files == 0);
            let moved = untouched && submodule.published(remotely, &commit).await? && {
                let service = Service::Submodule(submodule.number);
                remotely
                    .fetch_large_files(&submodule.directory, service, &[commit.as_str()])
                    .await?;
                let switch = remotely.smudging(inside(), service);
                let switch = args!(switch, "checkout", "--quiet", "--detach", &commit);
                git.succeeds(switch).await?
            };
            let short = commit.get(..10).unwrap_or(&commit);
            let message = if moved {
                format!("Moved the submodule {path} to {short}, where others have it")
            } else {
                format!("The submodule {path} stays as the agent left it, though the work has it at {short}")
            };
            reporter.progress("rebase", message).await;
        }
        Ok(())
    }
}

/// The commit that the work records for the submodule at a path; nothing if there is none any more.
async fn recorded(git: &Git, checkout: &Checkout, path: &str) -> Result<Option<String>, Failure> {
    let mut command = args!(
        git.inside(&checkout.directory),
        "ls-tree",
        "--full-tree",
        "HEAD",
        "--",
        path
    );
    command.env("GIT_LITERAL_PATHSPECS", "1");
    let line = git.answer(command).await?;
    let submodule = line.strip_prefix("160000 commit ");
    Ok(submodule.and_then(|rest| rest.split_ascii_whitespace().next().map(str::to_owned)))
}

/// How many files of a submodule are changed and not committed.
async fn uncommitted(git: &Git, directory: &Path) -> Result<usize, Failure> {
    let status = args!(
        git.inside(directory),
        "status",
        "--porcelain",
        "--ignore-submodules=all"
    );
    Ok(git.answer(status).await?.lines().count())
}

/// The commits of a submodule that its own repository does not have, as far as it was fetched.
async fn unpublished(git: &Git, directory: &Path, commit: &str) -> Result<Vec<String>, Failure> {
    let mut command = args!(git.inside(directory), "rev-list", commit, "--not");
    command.args(["--glob=refs/remotes/", "--glob=refs/fabrica/", "--"]);
    let listing = git.answer(command).await?;
    Ok(listing.lines().map(str::to_owned).collect())
}

/// A submodule at a commit that exists in the sandbox only.
#[derive(Debug)]
pub(crate) struct Dangling {
    path: String,
    commit: String,
    url: String,
    before: String,
}

impl Dangling {
    /// What the agent is told, before the given round.
    pub(crate) fn prompt(&self, round: u32, rounds: u32) -> String {
        format!(
            "Your branch records the submodule `{path}` at the commit {commit}, which exists in this sandbox only: nothing is \
             pushed to submodules, so nobody else could check your branch out.\n\n\
             Record a commit that its repository has: the one before was {before} (`git -C {path} checkout {before}`, then \
             `git add {path}` and a commit). Do without changes in the submodule, and say in your last message what has to be \
             changed there (round {round} of {rounds}).",
            path = self.path,
            commit = self.commit,
            before = self.before,
        )
    }

    /// What happened, in a line for people.
    pub(crate) fn cause(&self) -> String {
        format!(
            "The work records the submodule {} at {}, which is in the sandbox only",
            self.path, self.commit
        )
    }

    /// The session's failure, if the agent does not mend it.
    pub(crate) fn failure(&self) -> Failure {
        Failure::new(
            "submodule.unpublished",
            format!(
                "the work records the submodule {} at the commit {}, which exists in the sandbox only",
                self.path, self.commit
            ),
            format!(
                "Fabrica pushes the plan's repository only: change {} with a plan of its own first, then record its new commit.",
                self.url
            ),
        )
    }
}
