//! From what is recorded to files.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

use fabrica_core::failure::Failure;

use super::address::{Address, look_up};
use super::listing::{Entry, recorded};
use super::{Submodule, Submodules, has_commit};
use crate::gateway::Service;
use crate::repository::{Checkout, Remotely, args, bring, configure, preflight};

/// How deep submodules of submodules are followed.
const MAX_DEPTH: usize = 5;
/// How many submodules are looked at in all.
const MAX_COUNT: usize = 200;
/// How many of those that are left empty are told of one by one.
const MAX_TOLD: usize = 10;
/// Where a submodule keeps the commit that was checked out.
const RECORDED: &str = "refs/fabrica/recorded";

/// A repository whose submodules are to be looked at.
struct Outer {
    directory: PathBuf,
    /// Its path in the clone, with a slash behind it.
    prefix: String,
    url: String,
    depth: usize,
}

/// Checks out what `HEAD` records and the plan lists, and tells what is left empty, and why.
pub(crate) async fn check_out(remotely: Remotely<'_>, checkout: &Checkout) -> Result<Submodules, Failure> {
    let Remotely {
        git, job, reporter, ..
    } = remotely;
    let mut submodules = Submodules::default();
    let mut reasons = Vec::new();
    let mut outers = VecDeque::from([Outer {
        directory: checkout.directory.clone(),
        prefix: String::new(),
        url: job.repository.clone().unwrap_or_default(),
        depth: 1,
    }]);
    while let Some(outer) = outers.pop_front() {
        for entry in recorded(git, &outer.directory).await? {
            let path = format!("{}{}", outer.prefix, entry.path);
            let count = submodules.checked_out.len() + submodules.empty.len();
            let taken = if outer.depth > MAX_DEPTH || count >= MAX_COUNT {
                Err("there are too many submodules, or too deep ones".to_owned())
            } else {
                take(remotely, &outer, &entry, &path).await?
            };
            match taken {
                Ok(submodule) => {
                    outers.push_back(Outer {
                        directory: submodule.directory.clone(),
                        prefix: format!("{path}/"),
                        url: submodule.url.clone(),
                        depth: outer.depth + 1,
                    });
                    submodules.checked_out.push(submodule);
                }
                Err(why) => {
                    reasons.push(format!("The submodule {path} is left empty: {why}"));
                    submodules.empty.push(path);
                }
            }
        }
    }
    let rest = reasons.len().saturating_sub(MAX_TOLD);
    reasons.truncate(MAX_TOLD);
    if rest > 0 {
        reasons.push(format!("{rest} more submodules are left empty"));
    }
    for reason in reasons {
        reporter.progress("clone", reason).await;
    }
    Ok(submodules)
}

/// Checks out one submodule; or says why it is left empty.
async fn take(
    remotely: Remotely<'_>,
    outer: &Outer,
    entry: &Entry,
    path: &str,
) -> Result<Result<Submodule, String>, Failure> {
    let Remotely { job, reporter, .. } = remotely;
    let (number, url) = match look_up(job, &outer.url, &entry.address) {
        Address::Listed(number, url) => (number, url),
        Address::Unlisted(url) => {
            return Ok(Err(format!("add {url} to `submodules` in the plan to have it")));
        }
        Address::Unusable(why) => return Ok(Err(why)),
    };
    let Some(directory) = place(&outer.directory, &entry.path).map_err(|error| unusable(path, &error))?
    else {
        return Ok(Err("something else is in its place".to_owned()));
    };
    fetch(remotely, (number, &url), entry, &directory)
        .await
        .map_err(|failure| of(path, failure))?;
    let git = remotely.git;
    if !has_commit(git, &directory, &entry.commit).await? {
        if job.resume.is_some() {
            empty(&directory).map_err(|error| unusable(path, &error))?;
            let why =
                "its commit was never pushed to its own repository, and is lost with the earlier sandbox";
            return Ok(Err(why.to_owned()));
        }
        return Err(Failure::new(
            "repository.submodule_commit_missing",
            format!(
                "the submodule {path} is at the commit {}, which {url} does not have",
                entry.commit
            ),
            "Push that commit to the submodule's repository, or take the submodule out of the plan's `submodules`.",
        ));
    }
    let inside = || git.inside(&directory);
    git.answer(args!(inside(), "update-ref", RECORDED, &entry.commit))
        .await?;
    git.answer(args!(
        inside(),
        "checkout",
        "--quiet",
        "--force",
        "--detach",
        &entry.commit
    ))
    .await?;
    let service = Service::Submodule(number);
    configure(git, &directory, service).await?;
    bring(remotely, &directory, service)
        .await
        .map_err(|failure| of(path, failure))?;
    let short = entry.commit.get(..10).unwrap_or(&entry.commit);
    reporter
        .progress("clone", format!("Checked out the submodule {path} at {short}"))
        .await;
    Ok(Ok(Submodule {
        path: path.to_owned(),
        directory,
        number,
        url,
        commit: entry.commit.clone(),
        outermost: outer.depth == 1,
    }))
}

/// Clones what the gateway has under the number, with the recorded commit, if that is there at all.
async fn fetch(
    remotely: Remotely<'_>,
    (number, url): (usize, &str),
    entry: &Entry,
    directory: &Path,
) -> Result<(), Failure> {
    let Remotely {
        git,
        token,
        job,
        gateway,
        ..
    } = remotely;
    let service = Service::Submodule(number);
    preflight(gateway, service).await?;
    let depth = || job.depth.map(|depth| format!("--depth={}", depth.max(1)));
    let source = git.submodule_url(number);
    let make = || {
        let parent = directory.parent().unwrap_or(Path::new("/"));
        let mut command = args!(
            git.command(parent),
            "clone",
            "--progress",
            "--no-checkout",
            "--template="
        );
        command.args(depth()).args(["--no-single-branch", "--"]);
        command.arg(&source).arg(directory).envs(git.credential(token));
        command
    };
    // Only what an earlier try left: the place was empty before.
    let clear = || empty(directory).map_err(|error| unusable(url, &error));
    remotely.again_of(service, make, clear).await?;
    if has_commit(git, directory, &entry.commit).await? {
        return Ok(());
    }
    // Further back than what was cloned, or not on any branch.
    let mut command = args!(git.inside(directory), "fetch", "--quiet", "--no-tags");
    command.args(depth()).arg("origin").arg(&entry.commit);
    command.envs(git.credential(token));
    git.run(command).await.map(drop)
}

/// The empty directory that a submodule belongs to; nothing if something else is there, or on the way to it.
fn place(outer: &Path, path: &str) -> io::Result<Option<PathBuf>> {
    let mut directory = outer.to_owned();
    for name in path.split('/') {
        directory.push(name);
        match std::fs::create_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made?,
        }
        if !std::fs::symlink_metadata(&directory)?.is_dir() {
            return Ok(None);
        }
    }
    let none = std::fs::read_dir(&directory)?.next().is_none();
    Ok(none.then_some(directory))
}

fn empty(directory: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => std::fs::create_dir(directory),
    }
}

fn unusable(what: &str, error: &io::Error) -> Failure {
    Failure::new(
        "sandbox.workspace",
        format!("the submodule {what} cannot be put in its place: {error}"),
        "The sandbox's volume must be writable for its user and have free space; run the session again.",
    )
}

/// A failure to fetch a submodule, told as such.
fn of(path: &str, failure: Failure) -> Failure {
    Failure {
        cause: format!("the submodule {path}: {}", failure.cause),
        advice: match failure.code.as_str() {
            "repository.not_found" => "Correct its address in `submodules`, or take it out; a private repository looks the same to a token that may not see it.".to_owned(),
            _ => failure.advice,
        },
        ..failure
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_submodule_goes_where_nothing_is_and_through_no_link() {
        let directory = tempfile::tempdir().unwrap();
        let clone = directory.path().join("clone");
        std::fs::create_dir_all(clone.join(".git/hooks")).unwrap();
        std::fs::create_dir_all(clone.join("full/files")).unwrap();
        std::fs::write(clone.join("file"), "").unwrap();
        symlink("../clone/.git", clone.join("link")).unwrap();
        symlink(directory.path(), clone.join("last")).unwrap();
        assert_eq!(place(&clone, "libs/one").unwrap(), Some(clone.join("libs/one")));
        assert_eq!(
            place(&clone, "libs/one").unwrap(),
            Some(clone.join("libs/one")),
            "an empty one is as good"
        );
        for taken in ["link", "link/modules", "last", "last/x", "full", "file"] {
            assert_eq!(place(&clone, taken).unwrap(), None, "{taken}");
        }
        assert!(!clone.join(".git/modules").exists() && !directory.path().join("x").exists());
    }
}
