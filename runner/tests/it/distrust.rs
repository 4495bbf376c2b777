//! What a hostile agent tries.

use fabrica_core::protocol::exit;

use crate::support::{AGENT_TOKEN, RUNNER_TOKEN, Sandbox};

const BRANCH: &str = "fabrica/5c0ffee0";
const COMMIT: &str = "echo hello >hello.txt; git add hello.txt; git commit -q -m 'Add a greeting'";

/// Another user than root, for whom the kernel's rules hold.
const ORDINARY: u32 = 1000;

fn ordinary() -> Option<u32> {
    rustix::process::getuid().is_root().then_some(ORDINARY)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_runners_token_is_nowhere_within_the_agents_reach() {
    // The runner is the parent of the agent. Whatever of /proc can be read is searched.
    let script = format!(
        "set -u; {COMMIT}; runner=$PPID; \
         env >../found; \
         for file in environ mem maps fd/1 root/etc/passwd; do \
            if cat /proc/$runner/$file >>../found 2>/dev/null; then echo read $file; fi; \
         done; \
         ls -l /proc/$runner/fd >>../found 2>&1; \
         for file in /proc/[0-9]*/environ /proc/[0-9]*/cmdline; do tr '\\0' '\\n' <$file >>../found 2>/dev/null; done; \
         cat ../.fabrica/* .git/config ~/.gitconfig >>../found 2>/dev/null; \
         grep -c runner-canary ../found; \
         echo agent token $FABRICA_SESSION; echo {RUNNER_TOKEN} is a guess"
    );
    let mut sandbox = Sandbox::new(&script);
    sandbox.user = ordinary();
    let end = sandbox.run().await;
    end.completed();
    let output = end.output();
    assert!(!output.iter().any(|line| line.starts_with("read")), "{output:?}");
    let found = std::fs::read_to_string(sandbox.path("workspace/found")).unwrap();
    // The script itself, with the guess in its arguments, is the only place.
    assert!(sandbox.gateway.refused_git().is_empty());
    let elsewhere: Vec<_> = found
        .lines()
        .filter(|line| line.contains(RUNNER_TOKEN) && !line.contains("guess"))
        .collect();
    assert!(elsewhere.is_empty(), "{elsewhere:?}");
    assert!(found.contains(AGENT_TOKEN), "the agent's own token is there");
    assert!(
        output.contains(&"[redacted] is a guess".to_owned()),
        "no report holds a token: {output:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_survives_its_group_never_meets_the_push() {
    // It leaves the group and the session, and looks for the token in every environment while git pushes.
    let spy = "setsid sh -c 'echo $$ >../spy; while true; do \
               cat /proc/[0-9]*/environ 2>/dev/null | tr \"\\\\0\" \"\\\\n\" | grep -a \"^GIT_CONFIG_VALUE_0=.*runner-canary\" >>../caught; \
               done' >/dev/null 2>&1 &";
    let mut sandbox = Sandbox::new(&format!("{COMMIT}; {spy} sleep 0.3"));
    sandbox.user = ordinary();
    let end = sandbox.run().await;
    assert!(end.completed().pushed.is_some());
    let spy = std::fs::read_to_string(sandbox.path("workspace/spy")).unwrap();
    assert!(
        !std::path::Path::new(&format!("/proc/{}", spy.trim())).exists(),
        "the spy is dead"
    );
    let caught = std::fs::read_to_string(sandbox.path("workspace/caught")).unwrap_or_default();
    assert_eq!(caught, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn tampering_with_the_clone_neither_runs_anything_nor_redirects_the_push() {
    let script = format!(
        "{COMMIT}; trap=$PWD/../trap; printf '#!/bin/sh\\necho $0 $(env | grep -c runner-canary) >>%s\\n' $trap >../evil; \
         chmod +x ../evil; evil=$PWD/../evil; \
         git config url.http://127.0.0.1:9/.insteadOf http://127.0.0.1; \
         git config url.http://127.0.0.1:9/.pushInsteadOf http://127.0.0.1; \
         git config remote.origin.url http://127.0.0.1:9/other.git; \
         git config core.fsmonitor $evil; git config core.sshCommand $evil; git config credential.helper \"!$evil\"; \
         git config core.hooksPath $PWD/../hooks; git config http.proxy http://127.0.0.1:9; \
         git config core.alternateRefsCommand $evil; git config push.gpgSign true; git config gpg.program $evil; \
         git config commit.gpgSign true; git config core.editor $evil; git config core.pager $evil; \
         git config remote.pushDefault elsewhere; git config core.askPass $evil; git config diff.external $evil; \
         mkdir ../hooks; for hook in pre-push pre-commit post-commit commit-msg reference-transaction post-index-change; \
         do cp ../evil ../hooks/$hook; cp ../evil .git/hooks/$hook 2>/dev/null; done; \
         printf '[core]\\n\\tfsmonitor = %s\\n' $evil >~/.gitconfig; \
         mkdir -p ~/bin; cp ../evil ~/bin/git; echo leftover >left.txt; rm -f ../trap"
    );
    let sandbox = Sandbox::new(&script);
    let end = sandbox.run().await;
    assert_eq!(end.completed().pushed.as_ref().unwrap().commits, 2);
    assert_eq!(sandbox.file(BRANCH, "left.txt").as_deref(), Some("leftover\n"));
    let trap = std::fs::read_to_string(sandbox.path("workspace/trap")).unwrap_or_default();
    assert_eq!(trap, "");
    assert_eq!(end.status.code(), Some(exit::REPORTED));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_that_was_destroyed_is_a_failure_without_secrets() {
    let script =
        format!("{COMMIT}; ln -sf /proc/self/environ .git/shallow; rm -rf .git/refs; echo x >.git/HEAD");
    let sandbox = Sandbox::new(&script);
    let end = sandbox.run().await;
    let (failure, pushed) = end.failed();
    assert!(failure.code.starts_with("repository."), "{failure}");
    assert_eq!(pushed, None);
    assert!(!format!("{failure:?}").contains("canary"), "{failure:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tokens_the_runner_does_not_start() {
    let mut sandbox = Sandbox::new("");
    sandbox.variables = vec![("FABRICA_RUNNER_TOKEN".into(), String::new())];
    let end = sandbox.run().await;
    assert_eq!(end.status.code(), Some(exit::ENVIRONMENT));
    assert!(end.events.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agents_own_token_fetches_but_does_not_push() {
    let script = format!(
        "{COMMIT}; git fetch -q origin main && echo fetched; git push -q origin HEAD:refs/heads/other || echo refused"
    );
    let sandbox = Sandbox::new(&script);
    let end = sandbox.run().await;
    end.completed();
    let output = end.output();
    assert!(
        output.contains(&"fetched".to_owned()) && output.contains(&"refused".to_owned()),
        "{output:?}"
    );
    assert_eq!(sandbox.head("other"), None);
    assert!(!sandbox.gateway.refused_git().is_empty());
}
