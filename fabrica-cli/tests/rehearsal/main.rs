//! The rehearsal's stand-ins, met by the real clients: git, HTTP and, where it is there, the real agent.
#![expect(
    clippy::unwrap_used,
    reason = "a test's helper fails the test, as its assertions do"
)]
#![expect(clippy::expect_used, reason = "a test without its agent must fail")]

mod agent;
mod forge;
mod git;
mod model;

use std::{path::Path, process::Output};

use fabrica_cli::rehearsal::{CodeHost, CodeHostOptions, SampleRepository};
use tokio::process::Command;

const TOKEN: &str = "canary-forge-token";
const KEY: &str = "canary-model-key";

/// A command without the environment of whoever runs the test.
fn isolated(program: &str, home: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("HOME", home)
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("LANG", "C.UTF-8")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_CONFIG_NOSYSTEM", "1");
    for who in ["AUTHOR", "COMMITTER"] {
        command
            .env(format!("GIT_{who}_NAME"), "Agent")
            .env(format!("GIT_{who}_EMAIL"), "agent@acme.example");
    }
    command
}

async fn run_git(directory: &Path, arguments: &[&str]) -> Output {
    isolated("git", directory)
        .arg("-C")
        .arg(directory)
        .args(arguments)
        .output()
        .await
        .unwrap()
}

async fn git_succeeds(directory: &Path, arguments: &[&str]) {
    let output = run_git(directory, arguments).await;
    assert!(
        output.status.success(),
        "git {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn with_password(url: &str, password: &str) -> String {
    url.replacen("http://", &format!("http://anyone:{password}@"), 1)
}

/// A code host with the sample, and a directory to work in.
async fn code_host() -> (tempfile::TempDir, CodeHost, SampleRepository) {
    let directory = tempfile::tempdir().unwrap();
    let host = CodeHost::start(CodeHostOptions::new(directory.path().join("repositories"), TOKEN))
        .await
        .unwrap();
    let sample = SampleRepository::create(host.root()).await.unwrap();
    (directory, host, sample)
}

/// Clones the sample and pushes a branch with one commit.
async fn pushed_branch(directory: &Path, host: &CodeHost, branch: &str) {
    let url = with_password(&host.repository_url("acme/sample"), TOKEN);
    git_succeeds(directory, &["clone", "-q", &url, "clone"]).await;
    let clone = directory.join("clone");
    std::fs::write(clone.join("NEWS"), "something new\n").unwrap();
    git_succeeds(&clone, &["switch", "-q", "-c", branch]).await;
    git_succeeds(&clone, &["add", "-A"]).await;
    git_succeeds(&clone, &["commit", "-q", "-m", "Tell the news"]).await;
    git_succeeds(&clone, &["push", "-q", "origin", branch]).await;
}

/// A client, once the process has a provider of cryptography: the shared HTTP library makes none before.
fn client() -> reqwest::Client {
    // An error says that a provider is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}
