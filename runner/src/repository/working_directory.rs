//! Where in the clone the agent and the plan's commands start.

use std::path::{Path, PathBuf};

use fabrica_core::failure::Failure;

/// The plan's `path` in the clone; without one, the clone itself. Links in it are resolved, as the kernel resolves them for
/// whoever starts there: agents key their conversations by what they find their directory to be.
pub(crate) fn working_directory(clone: &Path, path: Option<&str>) -> Result<PathBuf, Failure> {
    let Some(path) = path else {
        return Ok(clone.to_owned());
    };
    // The plan is checked when it is accepted; but nothing depends on that here.
    let (Ok(root), Ok(directory)) = (clone.canonicalize(), clone.join(path).canonicalize()) else {
        return Err(not_found(path, "has no such directory"));
    };
    match directory.strip_prefix(&root) {
        Ok(inside) if !inside.starts_with(".git") => {}
        _ => {
            return Err(Failure::new(
                "repository.path_outside",
                format!("the plan's path {path:?} leads out of the repository's files"),
                "Name a directory of the repository as `path` in the plan, not a link to another place.",
            ));
        }
    }
    if directory.is_dir() {
        Ok(directory)
    } else {
        Err(not_found(path, "has something else than a directory there"))
    }
}

/// Whether the agent has left its working directory where it was: nothing can be started in it otherwise.
pub(crate) fn still_there(directory: &Path, path: Option<&str>) -> Result<(), Failure> {
    if directory.is_dir() {
        return Ok(());
    }
    Err(Failure::new(
        "repository.path_removed",
        format!(
            "the agent removed the directory that it was started in, {:?}",
            path.unwrap_or(".")
        ),
        "What it committed is on the branch. Where a directory is to be moved or removed, name one above it as `path` in the plan, or leave `path` out.",
    ))
}

fn not_found(path: &str, what: &str) -> Failure {
    Failure::new(
        "repository.path_not_found",
        format!("the plan's path is {path:?}, but the branch that the agent starts from {what}"),
        "Correct `path` in the plan (it is relative to the root of the repository), or leave it out to start there.",
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_a_directory_of_the_clone_is_started_in() {
        let directory = tempfile::tempdir().unwrap();
        let clone = directory.path().canonicalize().unwrap().join("repository");
        std::fs::create_dir_all(clone.join("services/billing")).unwrap();
        std::fs::create_dir_all(clone.join(".git/hooks")).unwrap();
        std::fs::create_dir(directory.path().join("repository-other")).unwrap();
        std::fs::write(clone.join("file"), "").unwrap();
        for (name, target) in [
            ("current", "services/billing"),
            ("out", "../repository-other"),
            ("absolute", "/tmp"),
            ("hooks", ".git/hooks"),
            ("gone", "nowhere"),
            ("loop", "loop"),
        ] {
            symlink(target, clone.join(name)).unwrap();
        }
        let found = |path| working_directory(&clone, path).map_err(|failure| failure.code);
        assert_eq!(found(None).unwrap(), clone);
        assert_eq!(found(Some("services")).unwrap(), clone.join("services"));
        assert_eq!(found(Some("current")).unwrap(), clone.join("services/billing"));
        for outside in [
            "out",
            "absolute",
            "hooks",
            ".git",
            "..",
            "../repository-other",
            "/tmp",
        ] {
            assert_eq!(
                found(Some(outside)).unwrap_err(),
                "repository.path_outside",
                "{outside}"
            );
        }
        for missing in ["file", "gone", "loop", "nowhere", "file/below"] {
            assert_eq!(
                found(Some(missing)).unwrap_err(),
                "repository.path_not_found",
                "{missing}"
            );
        }
    }
}
