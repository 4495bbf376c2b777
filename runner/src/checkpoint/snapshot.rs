//! The agent's clone as it is at the moment, in objects that nothing points to yet.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use fabrica_core::clock::{Entropy as _, SystemEntropy};
use fabrica_core::failure::Failure;
use fabrica_core::protocol::Identity;
use tokio::process::Command;

use crate::distrusted;
use crate::repository::{Checkout, Git, args, git_failed, identify};
use crate::text::lossy;

/// Larger files are left out.
const MAX_FILE: u64 = 25 * 1024 * 1024;
/// What changed files may come to together.
const MAX_ALL: u64 = 200 * 1024 * 1024;
/// How long the list of changed files may be.
const MAX_LIST: usize = 64 * 1024 * 1024;

/// What makes one moment different from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// The commit that `HEAD` is at.
    pub(crate) head: String,
    /// The commit of the job's branch, if that is not part of what `HEAD` is at.
    pub(crate) branch: Option<String>,
    /// The tree of the index.
    pub(crate) index: String,
    /// The tree of the working directory.
    pub(crate) tree: String,
}

/// A snapshot with what it does not hold.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) snapshot: Snapshot,
    /// For people.
    pub(super) left_out: Vec<String>,
}

/// A copy of the index that is removed in the end: git writes to the index even where it only reads.
#[derive(Debug)]
struct Index(PathBuf);

impl Index {
    fn copy(from: &Path, scratch: &Path) -> io::Result<Self> {
        let mut name = [0; 8];
        SystemEntropy.fill(&mut name);
        let name = format!("index-{:016x}", u64::from_ne_bytes(name));
        let index = Self(scratch.join(name));
        match distrusted::open(from) {
            Ok(mut file) => {
                io::copy(&mut file, &mut std::fs::File::create_new(&index.0)?)?;
            }
            // Git takes a missing index for an empty one.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(index)
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        // What stays behind is gone with the sandbox.
        let _ = std::fs::remove_file(&self.0);
        let _ = std::fs::remove_file(self.0.with_extension("lock"));
    }
}

/// Looks at the clone. What is found is written into its objects, and nowhere else.
pub(super) async fn take(git: &Git, checkout: &Checkout, scratch: &Path) -> Result<Taken, Failure> {
    let directory = &checkout.directory;
    let index = Index::copy(&directory.join(".git/index"), scratch).map_err(|error| {
        Failure::new(
            "repository.damaged",
            format!("the index of the agent's clone cannot be read: {error}"),
            "Read the transcript, and run the plan again.",
        )
    })?;
    let inside = || {
        let mut command = git.inside(directory);
        command
            .env("GIT_INDEX_FILE", &index.0)
            .env("GIT_OPTIONAL_LOCKS", "0");
        command
    };
    let (head, branch) = ends(git, checkout).await?;
    let staged = git.run(args!(inside(), "write-tree")).await?;
    let index = if staged.success() {
        staged.stdout.trim().to_owned()
    } else {
        // With conflicts it is no tree; the files with the conflict's marks are in the working directory.
        git.answer(args!(
            inside(),
            "rev-parse",
            "--verify",
            format!("{head}^{{tree}}")
        ))
        .await?
    };
    let listing = args!(
        inside(),
        "ls-files",
        "-z",
        "--modified",
        "--others",
        "--exclude-standard"
    );
    let listing = git.exchange(listing, Vec::new(), MAX_LIST).await?;
    let mut left_out = too_large(&listing, directory, MAX_FILE, MAX_ALL);
    let added = add(git, inside(), &left_out).await?;
    let tree = git.answer(args!(inside(), "write-tree")).await?;
    left_out.extend(added);
    Ok(Taken {
        snapshot: Snapshot {
            head,
            branch,
            index,
            tree,
        },
        left_out: left_out.into_iter().map(|left| left.told).collect(),
    })
}

/// The commits that `HEAD` and the branch are at; the latter only if the former does not include it.
async fn ends(git: &Git, checkout: &Checkout) -> Result<(String, Option<String>), Failure> {
    let inside = || git.inside(&checkout.directory);
    let commit = async |name: &str| {
        let name = format!("{name}^{{commit}}");
        let output = git
            .run(args!(inside(), "rev-parse", "--verify", "--quiet", name))
            .await?;
        Ok(output.success().then(|| output.stdout.trim().to_owned()))
    };
    let head = commit("HEAD").await?.unwrap_or_else(|| checkout.start.clone());
    let branch = match commit(&format!("refs/heads/{}", checkout.branch)).await? {
        Some(branch) if branch != head => {
            let included = args!(inside(), "merge-base", "--is-ancestor", &branch, &head);
            (!git.succeeds(included).await?).then_some(branch)
        }
        _ => None,
    };
    Ok((head, branch))
}

/// A path that is left out, and why.
#[derive(Debug, PartialEq, Eq)]
struct Left {
    path: Vec<u8>,
    told: String,
}

/// What is too large, or is a repository of its own, in a list of changed paths.
fn too_large(listing: &[u8], directory: &Path, max_file: u64, max_all: u64) -> Vec<Left> {
    let mut left = Vec::new();
    let mut all = 0;
    let mut before: &[u8] = &[];
    for path in listing.split(|byte| *byte == 0).filter(|path| !path.is_empty()) {
        if std::mem::replace(&mut before, path) == path {
            continue;
        }
        let shown = lossy(path);
        if let Some(nested) = path.strip_suffix(b"/") {
            left.push(Left {
                path: nested.to_vec(),
                told: format!("{shown} (a repository of its own)"),
            });
            continue;
        }
        let Ok(metadata) = std::fs::symlink_metadata(directory.join(OsStr::from_bytes(path))) else {
            // It was deleted, which takes no room.
            continue;
        };
        let size = if metadata.is_file() { metadata.len() } else { 0 };
        if size > max_file || all + size > max_all {
            left.push(Left {
                path: path.to_vec(),
                told: format!("{shown} ({} MiB)", size.div_ceil(1024 * 1024)),
            });
        } else {
            all += size;
        }
    }
    left
}

/// Adds all changes to the index but those that are left out. Returns what could not be read.
async fn add(git: &Git, mut command: Command, left_out: &[Left]) -> Result<Vec<Left>, Failure> {
    let mut paths = b".\0".to_vec();
    for left in left_out {
        paths.extend_from_slice(b":(top,exclude,literal)");
        paths.extend_from_slice(&left.path);
        paths.push(0);
    }
    command.args([
        "-c",
        "advice.addIgnoredFile=false",
        "add",
        "--all",
        "--ignore-errors",
    ]);
    if left_out.is_empty() {
        paths.clear();
    } else {
        command.args(["--pathspec-from-file=-", "--pathspec-file-nul"]);
    }
    match git.exchange(command, paths, MAX_LIST).await {
        Ok(_) => Ok(Vec::new()),
        // One file that nobody may read, or that the agent took away meanwhile, is no reason to lose all others.
        Err(failure) if passed_over(&failure) => {
            let denied = failure.diagnosis.iter().any(|line| line.contains(DENIED));
            let left = Left {
                path: Vec::new(),
                told: "what may not be read".to_owned(),
            };
            Ok(if denied { vec![left] } else { Vec::new() })
        }
        Err(failure) => Err(failure),
    }
}

/// How git says that it may not read a file.
const DENIED: &str = "Permission denied";

/// Whether all that git complains about is files that it could not read.
fn passed_over(failure: &Failure) -> bool {
    const HARMLESS: [&str; 5] = [
        DENIED,
        "No such file or directory",
        "short read",
        "unable to index file",
        "adding files failed",
    ];
    let mut errors = failure
        .diagnosis
        .iter()
        .filter(|line| line.starts_with("error: ") || line.starts_with("fatal: "))
        .peekable();
    errors.peek().is_some() && errors.all(|line| HARMLESS.iter().any(|words| line.contains(words)))
}

/// Makes the commit of a checkpoint.
pub(super) async fn commit(
    git: &Git,
    directory: &Path,
    identity: &Identity,
    snapshot: &Snapshot,
    previous: Option<&str>,
) -> Result<String, Failure> {
    let make = async |tree: &str, parents: &[&str], words: &str| {
        let mut command = args!(git.inside(directory), "commit-tree", tree, "-m", words);
        for parent in parents {
            command.arg("-p").arg(parent);
        }
        identify(&mut command, identity);
        let output = git.run(command).await?;
        if output.success() {
            Ok(output.stdout.trim().to_owned())
        } else {
            Err(git_failed(&output))
        }
    };
    // A branch that `HEAD` has left behind is kept here.
    let mut parents = vec![snapshot.head.as_str()];
    parents.extend(snapshot.branch.as_deref());
    let index = make(&snapshot.index, &parents, "The index of a checkpoint").await?;
    let mut parents = vec![snapshot.head.as_str(), &index];
    parents.extend(previous);
    make(&snapshot.tree, &parents, "A checkpoint of Fabrica").await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_large_alone_or_together_is_left_out() {
        let directory = tempfile::tempdir().unwrap();
        for (name, size) in [("a", 40), ("b", 101), ("c\nd", 50), ("e", 20), ("f", 5)] {
            std::fs::write(directory.path().join(name), vec![0; size]).unwrap();
        }
        std::os::unix::fs::symlink("/dev/full", directory.path().join("link")).unwrap();
        let listing = b"a\0b\0b\0c\nd\0e\0f\0gone\0link\0nested/\0";
        let left = too_large(listing, directory.path(), 100, 100);
        let paths: Vec<_> = left.iter().map(|left| lossy(&left.path)).collect();
        assert_eq!(paths, ["b", "e", "nested"]);
        assert!(left[2].told.contains("a repository of its own"), "{left:?}");
    }

    #[test]
    fn only_files_that_may_not_be_read_are_passed_over() {
        let failure = |line: &str| Failure::new("x", "x", "x").with_diagnosis([line]);
        assert!(passed_over(&failure("error: open(\"x\"): Permission denied")));
        assert!(passed_over(&failure(
            "error: open(\"x\"): No such file or directory"
        )));
        assert!(!passed_over(&failure("fatal: out of memory")));
        assert!(!passed_over(&Failure::new("x", "x", "x")));
    }
}
