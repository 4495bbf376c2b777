//! `/git/…` in front of a repository on this machine, with the real git client.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use fabrica_core::plan::Repository;

use crate::support::git::{Forwarder, Sandbox, bare_repository, git, refs};
use crate::support::{AGENT, BRANCH, Rig, RigOptions, SESSION, code};

async fn rig_for(path: &Path) -> Rig {
    Rig::with(RigOptions {
        repository: Repository::Local(path.to_owned()),
        ..RigOptions::default()
    })
    .await
}

/// Lets every program that the repository may name leave a mark.
fn set_traps(git_directory: &Path, mark: &Path) {
    let trap = format!("#!/bin/sh\ntouch {}\ncat >/dev/null\n", mark.display());
    let hooks = git_directory.join("hooks");
    std::fs::create_dir_all(&hooks).unwrap();
    for hook in [
        "pre-receive",
        "update",
        "post-receive",
        "post-update",
        "reference-transaction",
    ] {
        std::fs::write(hooks.join(hook), &trap).unwrap();
        std::fs::set_permissions(hooks.join(hook), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let config = git_directory.join("config");
    let mut text = std::fs::read_to_string(&config).unwrap();
    let touch = format!("touch {} #", mark.display());
    text += &format!("[core]\n\tfsmonitor = {touch}\n\talternateRefsCommand = {touch}\n");
    text += &format!("[uploadpack]\n\tpackObjectsHook = {touch}\n");
    std::fs::write(config, text).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn clone_fetch_and_push_work_and_no_program_of_the_repository_runs() {
    let root = tempfile::tempdir().unwrap();
    let bare = bare_repository(root.path()).await;
    let mark = root.path().join("mark");
    set_traps(&bare, &mark);
    let rig = rig_for(&bare).await;
    let sandbox = Sandbox::new(&rig).await;
    sandbox.push(&["origin", "HEAD"]).await.good();
    let checkpoint = format!("HEAD:refs/fabrica/{SESSION}/checkpoint");
    sandbox.push(&["origin", &checkpoint]).await.good();
    sandbox.git(&["fetch", "-q", "origin"]).await.good();
    let url = sandbox.forwarder.url(AGENT);
    let home = sandbox.home.path();
    git(
        home,
        &[
            "-c",
            "protocol.version=0",
            "clone",
            "-q",
            "--depth=1",
            &url,
            "old",
        ],
    )
    .await
    .good();
    git(
        home,
        &["clone", "-q", "--filter=blob:none", "--bare", &url, "partial"],
    )
    .await
    .good();
    let there = refs(&bare).await;
    assert!(there.contains(BRANCH) && there.contains("/checkpoint"), "{there}");
    assert!(!mark.exists(), "a program of the repository ran on the host");
}

#[tokio::test(flavor = "multi_thread")]
async fn forbidden_pushes_change_nothing() {
    let root = tempfile::tempdir().unwrap();
    let bare = bare_repository(root.path()).await;
    let rig = rig_for(&bare).await;
    let sandbox = Sandbox::new(&rig).await;
    let before = refs(&bare).await;
    // Options are refused by the client itself: git is told not to offer them.
    sandbox.push_what_is_forbidden().await;
    let url = sandbox.forwarder.url(AGENT);
    sandbox.push(&[&url, "HEAD"]).await.bad();
    assert_eq!(refs(&bare).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn history_cannot_be_rewritten() {
    let root = tempfile::tempdir().unwrap();
    let bare = bare_repository(root.path()).await;
    let rig = rig_for(&bare).await;
    let sandbox = Sandbox::new(&rig).await;
    sandbox.push(&["origin", "HEAD"]).await.good();
    sandbox
        .git(&["commit", "-q", "--amend", "-m", "rewritten"])
        .await
        .good();
    let before = refs(&bare).await;
    let text = sandbox.push(&["--force", "origin", "HEAD"]).await.bad();
    assert!(text.contains("non-fast-forward"), "{text}");
    assert_eq!(refs(&bare).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shallow_clone_of_a_repository_with_a_work_tree_can_be_pushed_from() {
    let root = tempfile::tempdir().unwrap();
    bare_repository(root.path()).await;
    let tree = root.path().join("seed");
    let rig = rig_for(&tree).await;
    let sandbox = Sandbox::cloned(&rig, &["--depth=1"]).await;
    sandbox.push(&["origin", "HEAD"]).await.good();
    assert!(refs(&tree).await.contains(BRANCH));
    let status = git(&tree, &["status", "--porcelain"]).await.good();
    assert_eq!(status, "", "the user's files are as they were");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_without_a_repository_is_not_found() {
    let root = tempfile::tempdir().unwrap();
    for path in [root.path().to_owned(), root.path().join("missing")] {
        let rig = rig_for(&path).await;
        let refused = rig
            .get("/git/repository.git/info/refs?service=git-upload-pack", AGENT)
            .await;
        assert_eq!(
            (refused.status().as_u16(), code(&refused)),
            (404, "repository.not_found")
        );
        let forwarder = Forwarder::start(&rig).await;
        let printed = git(root.path(), &["ls-remote", &forwarder.url(AGENT)])
            .await
            .bad();
        assert!(printed.contains("is not there"), "{printed}");
    }
}
