//! Pushing, from a bare repository of the runner's own.
//!
//! The agent may have written anything into its clone's configuration. So the token never meets that: the push is
//! made from a fresh directory that only borrows the clone's objects, after every other process is dead.

use fabrica_core::clock::{Entropy as _, SystemEntropy};
use fabrica_core::failure::Failure;
use fabrica_core::protocol::Pushed;
use std::fs::DirBuilder;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use super::checkout::Checkout;
use super::git::{Git, Output, args, git_failed};
use super::persistence::{AWAY_PAUSE, LONGEST_PAUSE, PATIENCE, PAUSE};
use super::preflight::preflight;
use crate::distrusted;
use crate::environment::Token;
use crate::gateway::{Gateway, Service};

/// How long the list of a shallow clone's ends may be.
const MAX_SHALLOW: u64 = 1024 * 1024;

/// Pushes the session's branch.
#[derive(Debug)]
pub(crate) struct Pusher<'a> {
    pub(crate) git: &'a Git,
    pub(crate) gateway: &'a Gateway,
    pub(crate) token: &'a Token,
    pub(crate) workspace: &'a Path,
}

impl Pusher<'_> {
    /// Pushes a commit as the head of the session's branch. Every other process must be dead.
    pub(crate) async fn push(&self, checkout: &Checkout, pushed: &Pushed) -> Result<(), Failure> {
        preflight(self.gateway, Service::ReceivePack).await?;
        let bare = self.bare(checkout).await?;
        let refspec = format!("{}:refs/heads/{}", pushed.head, pushed.branch);
        let mut started = Instant::now();
        let mut pause = PAUSE;
        loop {
            let disturbances = self.gateway.disturbances();
            let output = self.git.run(self.command(&bare, &refspec)).await?;
            if output.success() {
                return Ok(());
            }
            let refused = refusal(&output, &pushed.branch);
            // A push whose answer was lost may have come through, even while this one was on its way.
            if refused.is_some() && self.arrived(pushed).await? {
                return Ok(());
            }
            match refused {
                Some(_) if locked(&output) && self.gateway.disturbances() > disturbances => {}
                Some(failure) => return Err(failure),
                None => {}
            }
            // Git does not say why a request was refused; the gateway does, and is waited for. To push again is safe: what
            // came through nevertheless is found to be there.
            preflight(self.gateway, Service::ReceivePack).await?;
            if output.put_off() || self.gateway.disturbances() > disturbances {
                started = Instant::now();
                sleep(AWAY_PAUSE).await;
                continue;
            }
            if started.elapsed() > PATIENCE {
                return Err(git_failed(&output).retryable());
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn command(&self, bare: &Path, refspec: &str) -> Command {
        let mut command = self.git.command(bare);
        command
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .args(["--git-dir", ".", "push", "--porcelain", "--no-verify"])
            .args(["--recurse-submodules=no", "--no-signed", "--no-force"])
            .arg(self.git.url())
            .arg(refspec)
            .envs(self.git.credential(self.token));
        command
    }

    /// Whether the commit is the head of the branch on the remote already.
    async fn arrived(&self, pushed: &Pushed) -> Result<bool, Failure> {
        let mut command = self.git.command(Path::new("/"));
        command
            .arg("ls-remote")
            .arg(self.git.url())
            .arg(format!("refs/heads/{}", pushed.branch))
            .envs(self.git.credential(self.token));
        let output = self.git.run(command).await?;
        let head = output.stdout.split_ascii_whitespace().next();
        Ok(output.success() && head == Some(&pushed.head))
    }

    async fn bare(&self, checkout: &Checkout) -> Result<PathBuf, Failure> {
        let mut name = [0; 8];
        SystemEntropy.fill(&mut name);
        let bare = self
            .workspace
            .join(format!(".push-{:016x}", u64::from_ne_bytes(name)));
        let damaged = |error: io::Error| {
            Failure::new(
                "repository.damaged",
                format!("the agent's clone cannot be read: {error}"),
                "Read the transcript, and run the plan again.",
            )
        };
        DirBuilder::new().mode(0o700).create(&bare).map_err(damaged)?;
        let command = args!(
            self.git.command(&bare),
            "init",
            "--quiet",
            "--bare",
            "--template=",
            "."
        );
        self.git.answer(command).await?;
        let git_directory = checkout.directory.join(".git");
        let borrowed = format!("{}\n", git_directory.join("objects").display());
        std::fs::create_dir_all(bare.join("objects/info")).map_err(damaged)?;
        std::fs::write(bare.join("objects/info/alternates"), borrowed).map_err(damaged)?;
        if let Some(ends) = shallow(&git_directory.join("shallow")).map_err(damaged)? {
            std::fs::write(bare.join("shallow"), ends).map_err(damaged)?;
        }
        Ok(bare)
    }
}

/// The ends of a shallow clone. The file is the agent's: it may be a link to what only the runner can read, so
/// neither links nor anything but object names are taken.
pub(crate) fn shallow(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match distrusted::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    file.take(MAX_SHALLOW).read_to_string(&mut text)?;
    let mut ends = Vec::new();
    for line in text.lines() {
        let name = matches!(line.len(), 40 | 64) && line.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !name {
            return Err(io::Error::other(
                "its list of shallow commits holds something else",
            ));
        }
        writeln!(ends, "{line}")?;
    }
    Ok((!ends.is_empty()).then_some(ends))
}

/// Whether it was refused because another push, such as the one before that was cut, is at work on the same branch.
fn locked(output: &Output) -> bool {
    let said = |words| output.stdout.contains(words) || output.stderr.contains(words);
    said("cannot lock ref") || said("failed to update ref")
}

/// The meaning of a push that was refused for good; nothing if it only broke off.
fn refusal(output: &Output, branch: &str) -> Option<Failure> {
    let line = output.stdout.lines().find(|line| line.starts_with('!'))?;
    let reason = line.rsplit('\t').next().unwrap_or(line);
    let diverged = ["non-fast-forward", "fetch first", "stale info", "cannot lock ref"];
    if diverged.iter().any(|words| reason.contains(words)) {
        return Some(
            Failure::new(
                "branch.diverged",
                format!("the branch {branch} has commits on the remote that this work does not build on: {reason}"),
                "Fabrica never overwrites commits. Name another `branch` in the plan, or merge or delete the one on the remote, and run the plan again.",
            )
            .with_diagnosis(output.lines()),
        );
    }
    reason.contains("rejected").then(|| {
        Failure::new(
            "push.refused",
            format!("the git host refused the branch {branch}: {reason}"),
            "Read the host's reason: a branch rule, a hook or a missing right of Fabrica's git token.",
        )
        .with_diagnosis(output.lines())
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::ExitStatus;

    use super::*;

    fn refused(line: &str) -> Option<String> {
        let stdout = format!("To http://127.0.0.1/git/repository.git\n{line}\nDone\n");
        let output = Output {
            status: ExitStatus::from_raw(256),
            stdout,
            stderr: String::new(),
        };
        refusal(&output, "fabrica/ab").map(|failure| failure.code)
    }

    #[test]
    fn refusals_are_told_apart_from_connections_that_broke() {
        let diverged = "!\tabc:refs/heads/x\t[rejected] (fetch first)";
        assert_eq!(refused(diverged).as_deref(), Some("branch.diverged"));
        assert_eq!(
            refused("!\tabc:refs/heads/x\t[remote rejected] (protected branch hook declined)").as_deref(),
            Some("push.refused")
        );
        assert_eq!(refused(""), None);
    }

    #[test]
    fn a_link_in_place_of_the_shallow_list_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("shallow");
        assert_eq!(shallow(&path).unwrap(), None);
        symlink("/proc/self/environ", &path).unwrap();
        assert!(shallow(&path).is_err());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "FABRICA_RUNNER_TOKEN=x\n").unwrap();
        assert!(!shallow(&path).unwrap_err().to_string().contains("TOKEN"));
        std::fs::write(&path, format!("{}\n", "a".repeat(40))).unwrap();
        assert_eq!(shallow(&path).unwrap().unwrap().len(), 41);
    }
}
