//! The clone, on the branch to work on.

use std::path::{Path, PathBuf};
use std::time::Duration;

use fabrica_core::failure::Failure;
use fabrica_core::protocol::Job;
use tokio::process::Command;
use tokio::time::sleep;

use super::git::{Git, Output, args, git_failed};
use super::preflight::preflight;
use super::progress::Progress;
use crate::environment::Token;
use crate::gateway::{Gateway, Service};
use crate::report::Reporter;

/// How often a clone that broke off is begun again, while the gateway was there all the time.
const TRIES: u32 = 4;
/// The pause after the first time; it doubles.
const PAUSE: Duration = Duration::from_millis(500);
/// The pause if it was the gateway that was away.
const AWAY_PAUSE: Duration = Duration::from_millis(200);

/// What fetching needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Remotely<'a> {
    pub(crate) git: &'a Git,
    pub(crate) gateway: &'a Gateway,
    /// The agent's.
    pub(crate) token: &'a Token,
    pub(crate) job: &'a Job,
    pub(crate) reporter: &'a Reporter,
}

/// A clone on its branch.
#[derive(Debug, Clone)]
pub(crate) struct Checkout {
    /// Where it is.
    pub(crate) directory: PathBuf,
    /// The branch that it started from.
    pub(crate) base: String,
    /// The commit at the head of the base.
    pub(crate) base_commit: String,
    /// The branch to push.
    pub(crate) branch: String,
    /// The commit that the agent starts from.
    pub(crate) start: String,
    /// Whether the branch exists on the remote.
    pub(crate) published: bool,
}

impl Checkout {
    /// Commits that the remote had before the session's own.
    pub(crate) fn known(&self) -> Vec<&str> {
        let start = self.published.then_some(self.start.as_str());
        [Some(self.base_commit.as_str()), start]
            .into_iter()
            .flatten()
            .collect()
    }
}

/// Clones the repository and checks out the job's branch: a new one from the base, or the one that is there already,
/// be it from an earlier attempt or because the plan names it.
pub(crate) async fn clone(remotely: Remotely<'_>, directory: &Path) -> Result<Checkout, Failure> {
    let Remotely {
        git, job, reporter, ..
    } = remotely;
    let remote = Remote::ask(remotely).await?;
    let base = remote.base(job)?;
    fetch(remotely, &base, directory).await?;
    let inside = || git.inside(directory);
    for (key, value) in [
        ("user.name", &job.committer.name),
        ("user.email", &job.committer.email),
    ] {
        git.answer(args!(inside(), "config", "--local", key, value))
            .await?;
    }
    let base_commit = git
        .answer(args!(inside(), "rev-parse", "--verify", "HEAD^{commit}"))
        .await?;
    let short = base_commit.get(..10).unwrap_or(&base_commit);
    reporter
        .progress("clone", format!("Cloned {base} at {short}"))
        .await;
    let mut checkout = Checkout {
        directory: directory.to_owned(),
        base,
        start: base_commit.clone(),
        base_commit,
        branch: job.branch.clone(),
        published: remote.branch,
    };
    if remote.branch {
        continue_branch(remotely, &mut checkout).await?;
    } else if checkout.branch != checkout.base {
        git.answer(args!(
            inside(),
            "checkout",
            "-q",
            "--no-track",
            "-b",
            &checkout.branch
        ))
        .await?;
    }
    Ok(checkout)
}

/// What the remote has.
#[derive(Debug, PartialEq, Eq)]
struct Remote {
    /// The branch that `HEAD` points to, if that exists.
    default: Option<String>,
    /// Whether the plan's base exists.
    base: bool,
    /// Whether the job's branch exists.
    branch: bool,
    /// Whether there is any branch.
    any: bool,
}

impl Remote {
    async fn ask(remotely: Remotely<'_>) -> Result<Self, Failure> {
        let Remotely { git, token, job, .. } = remotely;
        let make = || {
            let mut command = args!(git.command(Path::new("/")), "ls-remote", "--symref", git.url());
            command.args(["HEAD", "refs/heads/*"]).envs(git.credential(token));
            command
        };
        let output = remotely.again(make, || Ok(())).await?;
        Ok(Self::parse(&output.stdout, job.base.as_deref(), &job.branch))
    }

    fn parse(listing: &str, base: Option<&str>, branch: &str) -> Self {
        let mut remote = Self {
            default: None,
            base: false,
            branch: false,
            any: false,
        };
        let mut symbolic = None;
        let mut head = false;
        for line in listing.lines() {
            let Some((what, name)) = line.split_once('\t') else {
                continue;
            };
            if let Some(target) = what.strip_prefix("ref: refs/heads/") {
                symbolic = Some(target.to_owned());
            } else if name == "HEAD" {
                head = true;
            } else if let Some(name) = name.strip_prefix("refs/heads/") {
                remote.any = true;
                remote.base |= base == Some(name);
                remote.branch |= branch == name;
            }
        }
        remote.default = symbolic.filter(|_| head);
        remote
    }

    fn base(&self, job: &Job) -> Result<String, Failure> {
        if !self.any {
            return Err(Failure::new(
                "repository.empty",
                "the repository has no commits",
                "Push a first commit, a README will do, and run the plan again.",
            ));
        }
        let base = match (&job.base, &self.default) {
            (Some(base), _) if self.base => Ok(base.clone()),
            (Some(base), _) => Err(Failure::new(
                "repository.base_not_found",
                format!("the repository has no branch {base:?}"),
                "Correct `base` in the plan, or leave it out to start from the default branch.",
            )),
            (None, Some(default)) => Ok(default.clone()),
            (None, None) => Err(Failure::new(
                "repository.base_not_found",
                "the repository's default branch does not exist",
                "Name the branch to start from as `base` in the plan.",
            )),
        }?;
        // The work must come in through a pull request, never straight into the branch that it is meant for.
        if base == job.branch {
            return Err(Failure::new(
                "branch.is_base",
                format!("the plan's branch {base:?} is the branch that it starts from"),
                "Name another `branch` in the plan, or leave it out.",
            ));
        }
        Ok(base)
    }
}

async fn fetch(remotely: Remotely<'_>, base: &str, directory: &Path) -> Result<(), Failure> {
    let Remotely { git, token, job, .. } = remotely;
    let parent = directory.parent().unwrap_or(Path::new("/"));
    let make = || {
        let mut command = args!(
            git.command(parent),
            "clone",
            "--progress",
            "--branch",
            base,
            "--template="
        );
        if let Some(depth) = job.depth {
            command
                .arg(format!("--depth={}", depth.max(1)))
                .arg("--single-branch");
        }
        command
            .arg("--")
            .arg(git.url())
            .arg(directory)
            .envs(git.credential(token));
        command
    };
    let clear = || match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(unusable(&error)),
        _ => Ok(()),
    };
    remotely.again(make, clear).await.map(drop)
}

impl Remotely<'_> {
    /// A gateway that is restarted cuts connections: what broke off is begun again, for as long as it is the gateway
    /// that is away. What is refused is not. What shows its progress and takes long is told of.
    pub(crate) async fn again(
        &self,
        make: impl Fn() -> Command,
        before: impl Fn() -> Result<(), Failure>,
    ) -> Result<Output, Failure> {
        self.again_of(Service::UploadPack, make, before).await
    }

    /// The same, where it is not the plan's repository that is asked for.
    pub(crate) async fn again_of(
        &self,
        service: Service,
        make: impl Fn() -> Command,
        before: impl Fn() -> Result<(), Failure>,
    ) -> Result<Output, Failure> {
        self.again_unless(service, make, before, |_| false).await
    }

    /// The same, for programs that say what another try would hear again.
    pub(crate) async fn again_unless(
        &self,
        service: Service,
        make: impl Fn() -> Command,
        before: impl Fn() -> Result<(), Failure>,
        is_final: impl Fn(&Output) -> bool,
    ) -> Result<Output, Failure> {
        let mut tries = 0;
        loop {
            before()?;
            let disturbances = self.gateway.disturbances();
            let progress = Progress::default();
            let mut shown = progress.reader();
            let output = tokio::select! {
                output = self.git.run_watched(make(), |written| shown.take(written)) => output?,
                never = progress.tell(self.reporter) => match never {},
            };
            if output.success() {
                return Ok(output);
            }
            let failure = git_failed(&output);
            if failure.code == "sandbox.disk_full" {
                return Err(failure.retryable());
            }
            if is_final(&output) {
                return Err(failure);
            }
            // Git does not say why a request was refused; the gateway does, and is waited for.
            preflight(self.gateway, service).await?;
            if output.put_off() || self.gateway.disturbances() > disturbances {
                sleep(AWAY_PAUSE).await;
                continue;
            }
            tries += 1;
            if tries == TRIES {
                return Err(failure.retryable());
            }
            sleep(PAUSE * 2_u32.pow(tries)).await;
        }
    }
}

/// Goes on where the branch ends on the remote: nothing that is there is ever overwritten.
async fn continue_branch(remotely: Remotely<'_>, checkout: &mut Checkout) -> Result<(), Failure> {
    let Remotely {
        git,
        token,
        job,
        reporter,
        ..
    } = remotely;
    let branch = checkout.branch.clone();
    let tracking = format!("refs/remotes/origin/{branch}");
    let fetch = |depth: Option<String>| {
        let mut command = args!(
            git.inside(&checkout.directory),
            "fetch",
            "--progress",
            "--no-tags"
        );
        command
            .args(depth)
            .arg("origin")
            .arg(format!("+refs/heads/{branch}:{tracking}"));
        command.arg(format!("+refs/heads/{0}:refs/remotes/origin/{0}", checkout.base));
        command.envs(git.credential(token));
        command
    };
    let inside = || git.inside(&checkout.directory);
    let depth = job.depth.map(|depth| format!("--depth={}", depth.max(1)));
    remotely.again(|| fetch(depth.clone()), || Ok(())).await?;
    if !related(git, checkout, &tracking).await? {
        // Where the two branches part is further back than what was cloned.
        remotely
            .again(|| fetch(Some("--unshallow".to_owned())), || Ok(()))
            .await?;
    }
    git.answer(args!(
        inside(),
        "checkout",
        "-q",
        "--no-track",
        "-B",
        &branch,
        &tracking
    ))
    .await?;
    let start = git
        .answer(args!(inside(), "rev-parse", "--verify", "HEAD^{commit}"))
        .await?;
    let range = format!("{}..{start}", checkout.base_commit);
    let ahead = git.answer(args!(inside(), "rev-list", "--count", range)).await?;
    let message = format!(
        "The branch {branch} exists already, {ahead} commits beyond {}: going on from there",
        checkout.base
    );
    reporter.progress("clone", message).await;
    checkout.start = start;
    Ok(())
}

/// Sees to it that the clone reaches back to where a commit and the base part.
pub(crate) async fn meet(remotely: Remotely<'_>, checkout: &Checkout, commit: &str) -> Result<(), Failure> {
    let Remotely { git, token, .. } = remotely;
    if related(git, checkout, commit).await? {
        return Ok(());
    }
    let fetch = || {
        let mut command = git.inside(&checkout.directory);
        command
            .args(["fetch", "--quiet", "--no-tags", "--unshallow", "origin"])
            .envs(git.credential(token));
        command
    };
    remotely.again(fetch, || Ok(())).await.map(drop)
}

/// Whether a commit and the base have history in common, or never will since all of it is there.
async fn related(git: &Git, checkout: &Checkout, commit: &str) -> Result<bool, Failure> {
    let inside = || git.inside(&checkout.directory);
    let merge_base = args!(inside(), "merge-base", &checkout.base_commit, commit);
    if git.succeeds(merge_base).await? {
        return Ok(true);
    }
    let shallow = args!(inside(), "rev-parse", "--is-shallow-repository");
    Ok(git.answer(shallow).await? != "true")
}

fn unusable(error: &std::io::Error) -> Failure {
    Failure::new(
        "sandbox.workspace",
        format!("the workspace cannot be prepared: {error}"),
        "The sandbox's volume must be writable for its user; run the session again.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str =
        "ref: refs/heads/main\tHEAD\n1111\tHEAD\n1111\trefs/heads/main\n2222\trefs/heads/fabrica/ab\n";

    #[test]
    fn the_listing_of_the_remote_is_read() {
        let remote = Remote::parse(LISTING, Some("main"), "fabrica/ab");
        let expected = Remote {
            default: Some("main".into()),
            base: true,
            branch: true,
            any: true,
        };
        assert_eq!(remote, expected);
        let remote = Remote::parse(LISTING, Some("ab"), "fabrica");
        assert!(!remote.base && !remote.branch, "only whole names count");
    }

    #[test]
    fn a_default_branch_without_commits_is_none() {
        let remote = Remote::parse("ref: refs/heads/main\tHEAD\n2222\trefs/heads/other\n", None, "x");
        assert_eq!(
            remote,
            Remote {
                default: None,
                base: false,
                branch: false,
                any: true
            }
        );
        assert!(!Remote::parse("", None, "x").any);
    }
}
