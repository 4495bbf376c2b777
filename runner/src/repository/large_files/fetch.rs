//! From the code host into the clone.

use std::path::Path;

use fabrica_core::failure::Failure;
use tokio::process::Command;

use super::{SKIP_SMUDGE, address, kept};
use crate::gateway::Service;
use crate::repository::Remotely;
use crate::repository::git::Output;

impl Remotely<'_> {
    /// Fetches the content of what commits keep in Git LFS, so that a checkout puts it into its place. What nobody has any
    /// more is told, and stays a pointer.
    pub(crate) async fn fetch_large_files(
        &self,
        clone: &Path,
        service: Service,
        commits: &[&str],
    ) -> Result<(), Failure> {
        if self.git.large_files().is_none() {
            return Ok(());
        }
        for commit in commits {
            if kept(self.git, clone, commit).await {
                let fetched = self.lfs(clone, service, &["fetch", "origin", commit]).await;
                self.or_pointers(fetched).await?;
            }
        }
        Ok(())
    }

    /// Lets a checkout put content into its place, that was fetched before it. What was not stays a pointer: a checkout that
    /// ends in its middle would be worse.
    pub(crate) fn smudging(&self, mut command: Command, service: Service) -> Command {
        if self.git.large_files().is_some() {
            command
                .env_remove(SKIP_SMUDGE.0)
                .arg("-c")
                .arg(format!("lfs.url={}", address(self.git, service)))
                .args(["-c", "lfs.skipDownloadErrors=true"])
                .envs(self.git.credential(self.token));
        }
        command
    }

    /// Puts the content of what `HEAD` keeps in Git LFS into its place.
    pub(super) async fn pull(&self, clone: &Path, service: Service) -> Result<(), Failure> {
        let pulled = self.lfs(clone, service, &["pull", "origin"]).await;
        if self.job.resume.is_some() {
            // The agent itself may have committed a pointer to nothing: that must not keep it from going on.
            return self.or_pointers(pulled).await;
        }
        pulled?;
        if service == Service::UploadPack {
            self.reporter
                .progress("clone", "Fetched the files that the repository keeps in Git LFS")
                .await;
        }
        Ok(())
    }

    async fn or_pointers(&self, fetched: Result<(), Failure>) -> Result<(), Failure> {
        match fetched {
            Err(failure) if !failure.retryable && failure.code == CODE => {
                let message = format!("Pointers stay where {}", failure.cause);
                self.reporter.progress("clone", message).await;
                Ok(())
            }
            other => other,
        }
    }

    async fn lfs(&self, clone: &Path, service: Service, arguments: &[&str]) -> Result<(), Failure> {
        let make = || -> Command {
            let mut command = self.git.inside(clone);
            // Neither the agent nor the repository says where.
            command
                .arg("-c")
                .arg(format!("lfs.url={}", address(self.git, service)));
            command.arg("lfs").args(arguments);
            command
                .env("GIT_LFS_FORCE_PROGRESS", "1")
                .envs(self.git.credential(self.token));
            command
        };
        let refused = |output: &Output| output.stderr.lines().any(is_refusal);
        self.again_unless(service, make, || Ok(()), refused)
            .await
            .map(drop)
            .map_err(explained)
    }
}

/// The code of files that cannot be fetched.
const CODE: &str = "repository.large_files";

/// How git-lfs shows what a host says of one object that it will not give.
const GONE: [&str; 4] = ["[403]", "[404]", "[410]", "[422]"];

/// What the gateway says of what may be better soon.
const PASSING: [&str; 5] = [
    "(large_files.unreachable)",
    "(session.unavailable)",
    "(session.body_stalled)",
    "(gateway.released)",
    "(gateway.lease_unknown)",
];

/// Whether another try would hear the same.
fn is_refusal(line: &str) -> bool {
    let by_the_gateway = line.contains("fabrica: ") && !PASSING.iter().any(|code| line.contains(code));
    by_the_gateway
        || line.contains("Object does not exist")
        || GONE.iter().any(|status| line.contains(status))
}

/// The gateway's words, out of what git-lfs printed.
fn explained(failure: Failure) -> Failure {
    if failure.code != "repository.git_failed" {
        return failure;
    }
    let told = |line: &&String| line.contains("fabrica: ") || is_refusal(line);
    let line = failure.diagnosis.iter().find(told).or(failure.diagnosis.last());
    let line = line.map_or("git-lfs said nothing", String::as_str);
    let said = line.split_once("fabrica: ").map_or(line, |(_, said)| said);
    // What is said of a host that may be back soon, or what it is not known who said.
    let retryable = !is_refusal(line);
    let explained = Failure::new(
        CODE,
        format!("files in Git LFS cannot be fetched: {}", said.trim()),
        "Read the cause: push what is missing with `git lfs push --all origin`, or write `lfs: false` into the plan to work with pointers.",
    )
    .with_diagnosis(failure.diagnosis);
    if retryable {
        explained.retryable()
    } else {
        explained
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gateways_words_are_found_and_say_whether_it_may_work_later() {
        let explain = |lines: &[&str]| {
            let failure =
                Failure::new("repository.git_failed", "x", "x").with_diagnosis(lines.iter().copied());
            let explained = explained(failure);
            (explained.cause, explained.retryable)
        };
        let (cause, retryable) = explain(&[
            "batch response: fabrica: the host refuses (large_files.denied)",
            "error: failed to fetch some objects from 'http://127.0.0.1:1/git/repository.git/info/lfs'",
        ]);
        assert!(
            cause.ends_with("fetched: the host refuses (large_files.denied)") && !retryable,
            "{cause}"
        );
        assert!(!explain(&["[0a] Object does not exist on the server: [404] gone"]).1);
        assert!(!explain(&["[0a] the repository does not have this object: [404] the same"]).1);
        assert!(explain(&["fabrica: the host cannot be reached (large_files.unreachable)"]).1);
        assert!(explain(&["error: connection reset"]).1 && explain(&[]).1);
    }
}
