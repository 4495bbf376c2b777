//! Commits are signed as they are made, by a key that is not in the sandbox. The signatures are verified by git.

use std::time::Duration;

use tokio::time::sleep;

use crate::claude::real_agent;
use crate::support::{AGENT_TOKEN, Fault, Moment, Sandbox, Trouble, until};

const BRANCH: &str = "fabrica/5c0ffee0";
const COMMIT: &str = "echo hello >hello.txt; git add hello.txt; git commit -q -m 'Add a greeting'";

/// A sandbox whose commits are to be signed.
fn signing(script: &str) -> Sandbox {
    let mut sandbox = Sandbox::new(script);
    sandbox.sign();
    sandbox
}

/// The commits of the session's branch beyond another, newest first, each with whether it is signed.
fn signed(sandbox: &Sandbox, base: &str) -> Vec<(String, bool)> {
    let listing = sandbox.ask_remote(&["log", "--format=%H %s", &format!("{base}..{BRANCH}")]);
    let commits = listing.lines().map(|line| line.split_once(' ').unwrap());
    commits
        .map(|(commit, subject)| (subject.to_owned(), sandbox.is_signed(commit)))
        .collect()
}

fn expected(subjects: &[(&str, bool)]) -> Vec<(String, bool)> {
    subjects
        .iter()
        .map(|(subject, signed)| ((*subject).to_owned(), *signed))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_of_the_agent_and_what_it_forgot_to_commit_are_signed() {
    let sandbox = signing(&format!(
        "{COMMIT}; git commit -q --amend -m 'Add a greeting'; git checkout -q -b side HEAD^; echo a >a; git add a; \
         git commit -q -m 'Work aside' --author 'Somebody <somebody@example.com>'; git checkout -q {BRANCH}; \
         git merge -q --no-edit side; echo left >left.txt"
    ));
    let end = sandbox.run().await;
    assert_eq!(end.completed().pushed.as_ref().unwrap().commits, 4);
    let merge = format!("Merge branch 'side' into {BRANCH}");
    let mut all = signed(&sandbox, "main");
    all.sort();
    let subjects = ["Add a greeting", "Greet the world", merge.as_str(), "Work aside"];
    assert_eq!(all, expected(&subjects.map(|subject| (subject, true))));
    assert!(!sandbox.is_signed("main"), "others' commits stay as they are");
    let told = end.progress().join("\n");
    assert!(!told.contains("without a signature"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_of_the_real_agent_are_signed() {
    let mut sandbox = real_agent();
    sandbox.sign();
    sandbox.gateway.play(&[COMMIT, "git log --oneline -1"]);
    sandbox.run().await.completed();
    assert_eq!(signed(&sandbox, "main"), expected(&[("Add a greeting", true)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_signed_where_the_operator_has_no_key() {
    let sandbox = Sandbox::new(&format!(
        "{COMMIT}; env | grep -c FABRICA_AGENT_TOKEN; echo left >left.txt"
    ));
    let end = sandbox.run().await;
    assert_eq!(end.completed().pushed.as_ref().unwrap().commits, 2);
    assert_eq!(end.output(), ["0"]);
    let raw = sandbox.ask_remote(&["cat-file", "commit", BRANCH]);
    assert!(!raw.contains("gpgsig"), "{raw}");
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_is_put_on_top_of_others_is_signed_again() {
    let mut sandbox = signing(&format!(
        "{COMMIT}; touch ../ready; while ! test -e ../go; do sleep 0.05; done"
    ));
    sandbox.job.branch = BRANCH.into();
    sandbox.commit_on_remote(BRANCH, "main", "before");
    let running = sandbox.start();
    until(|| sandbox.path("workspace/ready").exists()).await;
    sandbox.commit_on_remote(BRANCH, BRANCH, "meanwhile");
    std::fs::write(sandbox.path("workspace/go"), "").unwrap();
    let end = sandbox.end(running).await;
    assert!(end.completed().pushed.is_some());
    let told = end.progress().join("\n");
    assert!(told.contains("Put the work on top of 1 commit(s)"), "{told}");
    assert!(
        !told.contains("without a signature"),
        "others' commits are theirs: {told}"
    );
    let expected = expected(&[
        ("Add a greeting", true),
        ("Add meanwhile elsewhere", false),
        ("Add before elsewhere", false),
    ]);
    assert_eq!(signed(&sandbox, "main"), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_makes_the_agents_commit_fail_in_the_gateways_words() {
    let sandbox = signing(&format!(
        "{COMMIT} || echo exit $?; git log --format=%s -1; git reset -q --hard"
    ));
    let words = "fabrica: only commits by Fabrica are signed";
    sandbox
        .gateway
        .fail(Fault::Unsigned("signing.committer_refused", words));
    let end = sandbox.run().await;
    assert_eq!(end.completed().pushed, None);
    let output = end.output().join("\n");
    let said =
        "error: Fabrica does not sign this: only commits by Fabrica are signed (signing.committer_refused)";
    assert!(output.contains(said), "{output}");
    assert!(
        output.contains("exit 128") && output.ends_with("Begin"),
        "{output}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_the_runners_own_commit_is_what_the_session_fails_for() {
    let sandbox = signing("echo left >left.txt");
    let words = "fabrica: this Fabrica has no key to sign with";
    sandbox
        .gateway
        .fail(Fault::Unsigned("signing.not_configured", words));
    let end = sandbox.run().await;
    let (failure, pushed) = end.failed();
    assert_eq!(failure.code, "signing.refused");
    assert!(
        failure
            .cause
            .ends_with("no key to sign with (signing.not_configured)"),
        "{failure}"
    );
    assert_eq!(pushed, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_in_a_rebase_is_no_conflict() {
    let mut sandbox = signing(&format!(
        "{COMMIT}; touch ../ready; while ! test -e ../go; do sleep 0.05; done"
    ));
    sandbox.job.rounds = 3;
    sandbox.commit_on_remote(BRANCH, "main", "before");
    let running = sandbox.start();
    until(|| sandbox.path("workspace/ready").exists()).await;
    sandbox.commit_on_remote(BRANCH, BRANCH, "meanwhile");
    let words = "fabrica: this Fabrica has no key to sign with";
    sandbox
        .gateway
        .fail(Fault::Unsigned("signing.not_configured", words));
    std::fs::write(sandbox.path("workspace/go"), "").unwrap();
    let end = sandbox.end(running).await;
    assert_eq!(end.failed().0.code, "signing.refused");
    let kept = end.checkpoints().last().map(|checkpoint| checkpoint.head.clone());
    let subject = sandbox.ask_remote(&["log", "-1", "--format=%s", &kept.unwrap()]);
    assert_eq!(subject, "Add a greeting", "what the agent did is not lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_that_the_agent_left_unsigned_are_told_and_not_rewritten() {
    let sandbox = signing(&format!(
        "git config commit.gpgSign false; {COMMIT}; git config gpg.ssh.program /bin/false; echo left >left.txt"
    ));
    let end = sandbox.run().await;
    let expected = expected(&[("Greet the world", true), ("Add a greeting", false)]);
    assert_eq!(
        signed(&sandbox, "main"),
        expected,
        "the runner's own are signed whatever the clone says"
    );
    let told = end.progress().join("\n");
    assert!(told.contains("1 commit is pushed without a signature"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn repositories_that_tests_make_for_themselves_are_left_alone() {
    let sandbox = signing(
        "mkdir ../other; cd ../other; git init -q; git -c user.name=Test -c user.email=test@example.com commit -q \
         --allow-empty -m 'Begin' && echo committed; git cat-file commit HEAD | grep -c gpgsig",
    );
    assert_eq!(sandbox.run().await.output(), ["committed", "0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_the_key_nor_the_runners_token_is_needed_in_the_sandbox() {
    let mut sandbox = signing(&format!(
        "{COMMIT}; env >../found; cat .git/config >>../found; echo $FABRICA_AGENT_TOKEN >../token"
    ));
    // For whom the kernel's rules hold.
    sandbox.user = rustix::process::getuid().is_root().then_some(1000);
    sandbox.run().await.completed();
    assert_eq!(signed(&sandbox, "main"), expected(&[("Add a greeting", true)]));
    let found = std::fs::read_to_string(sandbox.path("workspace/found")).unwrap();
    assert!(
        !found.contains("runner-canary") && !found.contains("PRIVATE KEY"),
        "{found}"
    );
    assert!(found.contains(sandbox.job.signing_key.as_deref().unwrap()));
    let token = std::fs::read_to_string(sandbox.path("workspace/token")).unwrap();
    assert_eq!(token.trim(), AGENT_TOKEN);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_runner_waits_for_a_signature_for_as_long_as_the_gateway_is_away() {
    let mut sandbox = signing("echo left >left.txt");
    let once = "test -e $0.away || { touch $0.away; \
                echo 'error: Fabrica cannot sign at the moment, try again: it is away' >&2; exit 128; }";
    sandbox.pretend("*' commit '*", once);
    let end = sandbox.run().await;
    end.completed();
    assert!(sandbox.path("pretended/git.away").exists());
    assert_eq!(signed(&sandbox, "main"), expected(&[("Greet the world", true)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebase_that_nobody_could_sign_is_begun_again() {
    let mut sandbox = signing(&format!(
        "{COMMIT}; touch ../ready; while ! test -e ../go; do sleep 0.05; done"
    ));
    sandbox.commit_on_remote(BRANCH, "main", "before");
    // The first rebase is given a program that signs nothing.
    let once = "test -e $0.away || { \
                printf '#!/bin/sh\\necho Fabrica cannot sign at the moment, try again: it is away >&2; exit 1\\n' >$0.away; \
                chmod +x $0.away; for word; do shift; \
                case $word in gpg.ssh.program=*) word=gpg.ssh.program=$0.away;; esac; set -- \"$@\" \"$word\"; done; }";
    sandbox.pretend("*' rebase '*", once);
    let running = sandbox.start();
    until(|| sandbox.path("workspace/ready").exists()).await;
    sandbox.commit_on_remote(BRANCH, BRANCH, "meanwhile");
    std::fs::write(sandbox.path("workspace/go"), "").unwrap();
    sandbox.end(running).await.completed();
    assert!(sandbox.path("pretended/git.away").exists());
    let expected = expected(&[("Add a greeting", true), ("Add meanwhile elsewhere", false)]);
    assert_eq!(signed(&sandbox, "main")[..2], expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_whose_git_cannot_sign_is_told_before_the_agent_works() {
    let mut sandbox = signing("touch ../worked");
    sandbox.pretend("*version", "echo git version 2.30.2; exit");
    let end = sandbox.run().await;
    let (failure, _) = end.failed();
    assert_eq!(failure.code, "signing.git_too_old");
    assert!(failure.cause.contains("git version 2.30.2"), "{failure}");
    assert!(!sandbox.path("workspace/worked").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_away_is_waited_for_until_another_signs() {
    for trouble in [Trouble::Freezes, Trouble::Dies, Trouble::PutsOff] {
        let sandbox = signing(&format!("{COMMIT}; echo left >left.txt"));
        let request = Moment {
            request: "POST /git/signature",
            served: false,
        };
        sandbox.gateway.expect(request, trouble);
        let running = sandbox.start();
        until(|| !sandbox.gateway.expects()).await;
        sleep(Duration::from_millis(700)).await;
        sandbox.gateway.open();
        sandbox.end(running).await.completed();
        let expected = expected(&[("Greet the world", true), ("Add a greeting", true)]);
        assert_eq!(signed(&sandbox, "main"), expected, "{trouble:?}");
    }
}
