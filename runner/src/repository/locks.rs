//! Locks that git left behind when it was killed, as by an agent that gave a command only so long.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::report::Reporter;

/// How long a git that may still be at work is waited for.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often it is looked whether it is done.
const PAUSE: Duration = Duration::from_millis(50);
/// How many are named to people.
const SHOWN: usize = 3;

/// Removes the locks of a clone that keep others from committing to it and that nobody releases: the work would be lost for
/// an empty file.
pub(crate) async fn break_locks(clone: &Path, reporter: &Reporter) {
    let git = clone.join(".git");
    let mut held = locks(&git);
    let began = Instant::now();
    while !held.is_empty() && began.elapsed() < PATIENCE {
        sleep(PAUSE).await;
        let now = locks(&git);
        // One that comes anew belongs to somebody who works.
        held.retain(|lock| now.contains(lock));
    }
    held.retain(|lock| std::fs::remove_file(lock).is_ok());
    if held.is_empty() {
        return;
    }
    let names: Vec<_> = held
        .iter()
        .take(SHOWN)
        .map(|lock| lock.strip_prefix(&git).unwrap_or(lock).display().to_string())
        .collect();
    let message = format!(
        "Removed {} of .git: a git command that was killed had left it behind",
        names.join(", ")
    );
    reporter.progress("agent", message).await;
}

/// The lock files of the index, of `HEAD` and its like, and of references.
fn locks(git: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![git.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            let (Ok(kind), path) = (entry.file_type(), entry.path()) else {
                continue;
            };
            if kind.is_dir() {
                if directory != git || entry.file_name() == "refs" {
                    directories.push(path);
                }
            } else if path.extension() == Some(OsStr::new("lock")) {
                found.push(path);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_are_those_of_the_index_and_of_references_and_no_directories() {
        let directory = tempfile::tempdir().unwrap();
        let git = directory.path();
        for name in ["refs/heads/fabrica", "objects/pack", "refs/heads/name.lock"] {
            std::fs::create_dir_all(git.join(name)).unwrap();
        }
        let expected = ["HEAD.lock", "index.lock", "refs/heads/fabrica/a.lock"];
        for name in expected.iter().chain(&["index", "objects/maintenance.lock"]) {
            std::fs::write(git.join(name), "").unwrap();
        }
        let mut found = locks(git);
        found.sort();
        assert_eq!(found, expected.map(|name| git.join(name)));
        assert!(locks(&git.join("missing")).is_empty());
    }
}
