//! Repositories for tests.

use std::path::Path;
use std::process::{Command, Output};

/// Runs git in a directory, by nobody's settings.
pub(crate) fn git(directory: &Path, arguments: &[&str]) -> Output {
    Command::new("git")
        .args(["-c", "safe.directory=*", "-c", "init.defaultBranch=main"])
        .args(arguments)
        .current_dir(directory)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .envs([
            ("GIT_AUTHOR_NAME", "Somebody"),
            ("GIT_AUTHOR_EMAIL", "somebody@example.com"),
        ])
        .envs([
            ("GIT_COMMITTER_NAME", "Somebody"),
            ("GIT_COMMITTER_EMAIL", "somebody@example.com"),
        ])
        .output()
        .unwrap()
}

fn must(directory: &Path, arguments: &[&str]) {
    let output = git(directory, arguments);
    assert!(
        output.status.success(),
        "git {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A bare repository with one commit on `main`.
pub(crate) fn make_repository(bare: &Path, seed: &Path) {
    std::fs::create_dir(seed).unwrap();
    must(seed, &["init", "-q"]);
    std::fs::write(seed.join("README.md"), "# A repository\n").unwrap();
    std::fs::write(seed.join(".gitignore"), "ignored/\n").unwrap();
    must(seed, &["add", "."]);
    must(seed, &["commit", "-q", "-m", "Begin"]);
    must(
        seed.parent().unwrap(),
        &["clone", "-q", "--bare", "seed", &bare.display().to_string()],
    );
    must(bare, &["config", "http.receivepack", "true"]);
}

/// A commit on `main` of a bare repository, made by a shell script in another clone.
pub(crate) fn commit_script(bare: &Path, clone: &Path, script: &str) {
    let parent = clone.parent().unwrap();
    must(
        parent,
        &[
            "clone",
            "-q",
            &bare.display().to_string(),
            &clone.display().to_string(),
        ],
    );
    let status = Command::new("sh")
        .args(["-ec", script])
        .current_dir(clone)
        .status();
    assert!(status.unwrap().success(), "{script}");
    must(clone, &["add", "--all"]);
    must(clone, &["commit", "-q", "-m", "Change it elsewhere"]);
    must(clone, &["push", "-q", "origin", "HEAD:main"]);
    std::fs::remove_dir_all(clone).unwrap();
}

/// A commit on a branch of a bare repository, made in another clone.
pub(crate) fn commit_elsewhere(bare: &Path, clone: &Path, branch: &str, from: &str, file: &str) {
    let parent = clone.parent().unwrap();
    must(
        parent,
        &[
            "clone",
            "-q",
            &bare.display().to_string(),
            &clone.display().to_string(),
        ],
    );
    must(
        clone,
        &["checkout", "-q", "-B", branch, &format!("origin/{from}")],
    );
    std::fs::write(clone.join(file), file).unwrap();
    must(clone, &["add", "."]);
    must(clone, &["commit", "-q", "-m", &format!("Add {file} elsewhere")]);
    must(clone, &["push", "-q", "origin", branch]);
}
