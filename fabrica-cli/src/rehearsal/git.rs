//! The git command line, with an environment that nobody else's configuration reaches.

use std::{
    ffi::{OsStr, OsString},
    path::Path,
    process::Stdio,
};

use tokio::{io::AsyncWriteExt as _, process::Command};

use super::error::RehearsalError;

/// How much of git's complaint is kept.
const LONGEST_MESSAGE: usize = 2_000;

/// A command whose environment holds only what git needs.
pub(super) fn isolated(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env(
            "PATH",
            std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/local/bin:/usr/bin:/bin")),
        )
        .env("HOME", "/nonexistent")
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_TERMINAL_PROMPT", "0")
        // The directory may belong to another user than the one who serves it.
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "safe.directory")
        .env("GIT_CONFIG_VALUE_0", "*")
        .kill_on_drop(true);
    command
}

/// Runs git in `directory`, feeds it `input` and returns what it printed.
pub(super) async fn run(
    directory: &Path,
    arguments: &[&str],
    input: &[u8],
) -> Result<Vec<u8>, RehearsalError> {
    let unavailable = |source| RehearsalError::GitUnavailable {
        program: "git".to_owned(),
        source,
    };
    let mut child = isolated("git")
        .arg("-C")
        .arg(directory)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(unavailable)?;
    let mut stdin = child.stdin.take();
    let feeding = async {
        if let Some(stdin) = stdin.as_mut() {
            // When git refuses its input it says why, and its exit status tells.
            let _ = stdin.write_all(input).await;
        }
        drop(stdin.take());
    };
    let ((), output) = tokio::join!(feeding, child.wait_with_output());
    let output = output.map_err(unavailable)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(RehearsalError::Git {
        command: arguments.first().copied().unwrap_or_default().to_owned(),
        message: complaint.trim().chars().take(LONGEST_MESSAGE).collect(),
    })
}
