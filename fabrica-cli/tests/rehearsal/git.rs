//! The git server, met by git.

use fabrica_cli::rehearsal::{Credential, GitOperation};

use crate::client;
use crate::{TOKEN, code_host, git_succeeds, pushed_branch, run_git, with_password};

#[tokio::test]
async fn a_clone_needs_the_credential() {
    let (directory, host, _sample) = code_host().await;
    let url = host.repository_url("acme/sample");
    assert!(
        !run_git(directory.path(), &["clone", &url, "none"])
            .await
            .status
            .success()
    );
    assert!(
        !run_git(
            directory.path(),
            &["clone", &with_password(&url, "wrong"), "wrong"]
        )
        .await
        .status
        .success()
    );
    git_succeeds(
        directory.path(),
        &["clone", "-q", &with_password(&url, TOKEN), "right"],
    )
    .await;
    assert!(directory.path().join("right/bin/stock").is_file());

    let credentials: Vec<_> = host
        .git()
        .requests()
        .iter()
        .map(|request| request.credential)
        .collect();
    assert!(credentials.contains(&Credential::Missing) && credentials.contains(&Credential::Wrong));
    assert_eq!(
        host.git().requests().last().unwrap().operation,
        GitOperation::Fetch
    );
    assert_eq!(host.git().requests().last().unwrap().status, Some(200));
    host.shutdown().await;
}

#[tokio::test]
async fn an_unknown_repository_is_not_found() {
    let (directory, host, _sample) = code_host().await;
    let url = with_password(&host.repository_url("acme/other"), TOKEN);
    let output = run_git(directory.path(), &["clone", &url, "other"]).await;
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("not found"),
        "{output:?}"
    );
    let client = client();
    for path in [
        "/acme/sample.git/../../etc/passwd",
        "/acme/sample.git/.%2e/HEAD",
        "/x",
        "/",
    ] {
        let url = format!("{}{path}", host.base_url());
        let response = client
            .get(url)
            .basic_auth("git", Some(TOKEN))
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 404, "{path}");
    }
}

#[tokio::test]
async fn a_push_arrives_and_runs_the_hooks() {
    let (directory, host, sample) = code_host().await;
    let ledger = directory.path().join("ledger");
    sample
        .install_hook(
            "post-receive",
            &format!("#!/bin/sh\ncat >>'{}'\n", ledger.display()),
        )
        .unwrap();
    pushed_branch(directory.path(), &host, "fabrica/news").await;

    let head = sample.head("fabrica/news").await.unwrap().unwrap();
    assert_eq!(
        sample.file("fabrica/news", "NEWS").await.unwrap().as_deref(),
        Some("something new\n")
    );
    assert_eq!(sample.log("fabrica/news").await.unwrap(), ["Tell the news"]);
    assert!(
        sample
            .diff("fabrica/news")
            .await
            .unwrap()
            .contains("+something new")
    );
    let line = std::fs::read_to_string(ledger).unwrap();
    assert_eq!(
        line.trim(),
        format!("{} {head} refs/heads/fabrica/news", "0".repeat(40))
    );
    assert!(
        host.git()
            .requests()
            .iter()
            .any(|request| request.operation == GitOperation::Push)
    );

    git_succeeds(
        &directory.path().join("clone"),
        &["remote", "set-url", "origin", &host.repository_url("acme/sample")],
    )
    .await;
    assert!(
        !run_git(&directory.path().join("clone"), &["push", "origin", "HEAD:other"])
            .await
            .status
            .success()
    );
    assert_eq!(sample.head("other").await.unwrap(), None);
}

#[tokio::test]
async fn large_packs_and_compressed_requests_pass() {
    let (directory, host, sample) = code_host().await;
    let url = with_password(&host.repository_url("acme/sample"), TOKEN);
    git_succeeds(directory.path(), &["clone", "-q", &url, "clone"]).await;
    let clone = directory.path().join("clone");
    // Bytes that do not compress, beyond git's buffer for a push, so that it is sent in chunks.
    let mut state = 1_u32;
    let noise: Vec<u8> = (0..3_000_000)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        })
        .collect();
    std::fs::write(clone.join("noise"), noise).unwrap();
    git_succeeds(&clone, &["add", "-A"]).await;
    git_succeeds(&clone, &["commit", "-q", "-m", "Add noise"]).await;
    for number in 0..40 {
        git_succeeds(&clone, &["commit", "-q", "--allow-empty", "-m", "Go on"]).await;
        git_succeeds(&clone, &["branch", &format!("branch-{number}")]).await;
    }
    git_succeeds(&clone, &["push", "-q", "origin", "--all"]).await;
    // Forty wants are long enough for git to compress its request.
    git_succeeds(directory.path(), &["clone", "-q", &url, "again"]).await;
    assert_eq!(
        std::fs::read(directory.path().join("again/noise")).unwrap().len(),
        3_000_000
    );
    let compressed = |encoding: Option<String>| encoding.as_deref() == Some("gzip");
    assert!(
        host.git()
            .requests()
            .into_iter()
            .any(|request| compressed(request.content_encoding))
    );
    assert_eq!(sample.refs().await.unwrap().len(), 41);
}
