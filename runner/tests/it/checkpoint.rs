//! What the agent did is safe outside of the sandbox, and comes back in a fresh one.

use std::time::Duration;

use fabrica_core::protocol::{Checkpoint, Resume, exit};
use tokio::time::sleep;

use crate::support::{AGENT_TOKEN, Moment, RUNNER_TOKEN, Sandbox, Trouble, checkpoints, until};

const BRANCH: &str = "fabrica/5c0ffee0";
const REFERENCE: &str = "refs/fabrica/5c0ffee0-1234-4321-8888-0123456789ab/checkpoint";
const COMMIT: &str = "echo hello >hello.txt; git add hello.txt; git commit -q -m 'Add a greeting'";
const ASK: &str = "fabrica-escalate 'Which one?' && exit 85";

fn answered(checkpoint: &Checkpoint) -> Resume {
    Resume {
        checkpoint: Some(checkpoint.clone()),
        prompt: "Answer to your question: the first.".into(),
    }
}

/// Lets one agent ask, and another one go on in its work.
async fn handed_over(sandbox: &mut Sandbox, second: &str) -> crate::support::End {
    let end = sandbox.run().await;
    assert_eq!(end.asked().question, "Which one?");
    let checkpoint = (*end.checkpoints().last().unwrap()).clone();
    assert_eq!(sandbox.ask_remote(&["rev-parse", REFERENCE]), checkpoint.commit);
    assert_eq!(sandbox.head(BRANCH), None, "the branch is not pushed");
    sandbox.resume(answered(&checkpoint), Some(second));
    sandbox.run().await
}

#[tokio::test(flavor = "multi_thread")]
async fn files_and_index_come_back_as_they_were() {
    let script = format!(
        "set -e; for file in deleted staged mode kept; do echo $file >$file; done; git add .; git commit -q -m First; \
         echo more >>README.md; rm deleted; echo one >staged; git add staged; echo two >staged; chmod +x mode; \
         echo new >staged-only; git add staged-only; git rm -q --cached kept; \
         echo untracked >untracked; mkdir -p ignored empty dir; echo no >ignored/file; echo x >dir/tool; chmod +x dir/tool; \
         ln -s README.md link; echo n >\"$(printf 'new\\nline')\"; chmod a-w untracked; \
         cp .git/index ../index; git status --porcelain -z --untracked-files=all | tr '\\000' '|' >../status; {ASK}"
    );
    let mut sandbox = Sandbox::new(&script);
    let end = sandbox.run().await;
    assert_eq!(end.asked().question, "Which one?");
    assert_eq!(end.status.code(), Some(exit::REPORTED));
    let read = |sandbox: &Sandbox, name: &str| std::fs::read(sandbox.path("workspace").join(name)).unwrap();
    let status = String::from_utf8(read(&sandbox, "status")).unwrap();
    assert!(
        status.contains("?? untracked|") && status.contains(" D deleted|"),
        "{status}"
    );
    assert_eq!(
        read(&sandbox, "index"),
        read(&sandbox, "repository/.git/index"),
        "the index is not touched"
    );
    let scratch = std::fs::read_dir(sandbox.path("workspace/.fabrica")).unwrap();
    let names: Vec<_> = scratch
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(
        !names
            .iter()
            .any(|name| name.contains("index") || name.contains("pack")),
        "{names:?}"
    );

    let checkpoint = end.first_checkpoint();
    assert!(!checkpoint.conversation);
    let second = "git status --porcelain -z --untracked-files=all | tr '\\000' '|' >../status; \
        git show :staged; cat staged; readlink link; test -x dir/tool && test -x mode && echo executable; \
        cat \"$(printf 'new\\nline')\"; ls -d ignored empty 2>/dev/null; cat \"$FABRICA_ANSWER\"";
    sandbox.resume(answered(&checkpoint), Some(second));
    let end = sandbox.run().await;
    assert_eq!(String::from_utf8(read(&sandbox, "status")).unwrap(), status);
    assert_eq!(
        end.output(),
        [
            "one",
            "two",
            "README.md",
            "executable",
            "n",
            "Answer to your question: the first."
        ]
    );
    let pushed = end.completed().pushed.clone().unwrap();
    assert_eq!(pushed.subjects, ["First", "Greet the world"]);
    assert_eq!(sandbox.file(BRANCH, "untracked").as_deref(), Some("untracked\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merge_with_conflicts_comes_back_with_its_marks() {
    let script = format!(
        "git checkout -q -b other; echo theirs >README.md; git commit -q -a -m Theirs; git checkout -q -; \
         echo ours >README.md; git commit -q -a -m Ours; git merge -q other; {ASK}"
    );
    let mut sandbox = Sandbox::new(&script);
    let end = handed_over(
        &mut sandbox,
        "git status --porcelain; cat README.md; git log --format=%s",
    )
    .await;
    let output = end.output();
    assert_eq!(output[0], " M README.md", "{output:?}");
    assert!(
        output[1].starts_with("<<<<<<<") && output.contains(&"theirs".to_owned()),
        "{output:?}"
    );
    assert_eq!(output[output.len() - 2..], ["Ours", "Begin"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_detached_head_comes_back_without_losing_the_branch() {
    let script = format!("{COMMIT}; git checkout -q --detach HEAD~1; echo old >old.txt; {ASK}");
    let mut sandbox = Sandbox::new(&script);
    let second = format!(
        "git symbolic-ref -q HEAD || git log --format=%s; git log --format=%s {BRANCH}; cat old.txt; git checkout -q {BRANCH}"
    );
    let end = handed_over(&mut sandbox, &second).await;
    assert_eq!(end.output(), ["Begin", "Add a greeting", "Begin", "old"]);
    assert_eq!(
        end.completed().pushed.as_ref().unwrap().subjects,
        ["Add a greeting", "Greet the world"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shallow_clone_is_restored_although_the_base_moved_on() {
    let mut sandbox = Sandbox::new(&format!("{COMMIT}; echo half >half.txt; {ASK}"));
    sandbox.job.depth = Some(1);
    sandbox.commit_on_remote("main", "main", "first.txt");
    let end = sandbox.run().await;
    let checkpoint = end.first_checkpoint();
    sandbox.commit_on_remote("main", "main", "second.txt");
    sandbox.commit_on_remote("main", "main", "third.txt");
    sandbox.resume(answered(&checkpoint), Some("cat half.txt; ls"));
    let end = sandbox.run().await;
    let pushed = end.completed().pushed.clone().unwrap();
    assert_eq!(pushed.subjects, ["Add a greeting", "Greet the world"]);
    assert_eq!(end.output()[0], "half");
    assert!(
        !end.output().contains(&"second.txt".to_owned()),
        "{:?}",
        end.output()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_work_is_secured_regularly_and_only_if_it_is_new() {
    let script = "echo one >one.txt; while ! test -e ../two; do sleep 0.05; done; echo two >two.txt; \
        while ! test -e ../go; do sleep 0.05; done";
    let mut sandbox = Sandbox::new(script);
    sandbox.job.checkpoint_seconds = Some(1);
    let running = sandbox.start();
    let made = |sandbox: &Sandbox| checkpoints(&sandbox.gateway.events()).len();
    until(|| made(&sandbox) == 1).await;
    sleep(Duration::from_millis(2_500)).await;
    assert_eq!(made(&sandbox), 1, "nothing is new");
    std::fs::write(sandbox.path("workspace/two"), "").unwrap();
    until(|| made(&sandbox) == 2).await;
    std::fs::write(sandbox.path("workspace/go"), "").unwrap();
    let end = sandbox.end(running).await;
    assert_eq!(end.completed().pushed.as_ref().unwrap().commits, 1);
    let [first, second, last] = end.checkpoints()[..] else {
        panic!("{:?}", end.checkpoints());
    };
    assert!(last.is_of_branch(), "{last:?}");
    let parents = sandbox.ask_remote(&["log", "-1", "--format=%P", REFERENCE]);
    let parents: Vec<&str> = parents.split(' ').collect();
    assert_eq!(
        (parents[0], parents[2]),
        (second.head.as_str(), first.commit.as_str())
    );
    assert_eq!(
        sandbox.ask_remote(&["show", &format!("{REFERENCE}:two.txt")]),
        "two"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_process_but_the_runner_has_its_token_while_checkpoints_are_made() {
    // Every environment and argument of every process, again and again, also of each git; and what git reads and writes.
    let script = format!(
        "git config core.fsmonitor 'env >>../found; false'; git config filter.spy.clean 'env >>../found; cat'; \
         echo '*.txt filter=spy' >.gitattributes; n=0; \
         while ! test -e ../go; do n=$((n + 1)); echo $n >n.txt; \
         cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | tr '\\000' '\\n' >>../found; \
         grep -l {token} ../found >/dev/null && touch ../caught; tail -n 3 ../found >../tail; : >>../found; done",
        token = &RUNNER_TOKEN[..RUNNER_TOKEN.len() - 4]
    );
    let mut sandbox = Sandbox::new(&script);
    sandbox.job.checkpoint_seconds = Some(1);
    sandbox.user = rustix::process::getuid().is_root().then_some(1000);
    let running = sandbox.start();
    until(|| checkpoints(&sandbox.gateway.events()).len() >= 3).await;
    std::fs::write(sandbox.path("workspace/go"), "").unwrap();
    sandbox.end(running).await;
    let found = std::fs::read(sandbox.path("workspace/found")).unwrap();
    let found = String::from_utf8_lossy(&found);
    assert!(
        found.contains("GIT_INDEX_FILE="),
        "the checkpoint's own git was seen"
    );
    assert!(found.contains(AGENT_TOKEN));
    let caught: Vec<_> = found.lines().filter(|line| line.contains(RUNNER_TOKEN)).collect();
    assert!(caught.is_empty(), "{caught:?}");
    assert!(sandbox.gateway.refused_git().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_whose_answer_was_lost_is_recognised() {
    for trouble in [Trouble::Freezes, Trouble::Dies, Trouble::PutsOff] {
        for served in [false, true] {
            let sandbox = Sandbox::new(&format!("echo half >half.txt; {ASK}"));
            let request = "POST /git/repository.git/git-receive-pack";
            sandbox.gateway.expect(Moment { request, served }, trouble);
            let running = sandbox.start();
            until(|| !sandbox.gateway.expects()).await;
            sleep(Duration::from_millis(700)).await;
            sandbox.gateway.open();
            let end = sandbox.end(running).await;
            assert_eq!(end.asked().question, "Which one?", "{trouble:?} {served}");
            let made = end.checkpoints();
            assert_eq!(made.len(), 1, "{trouble:?} {served}");
            assert_eq!(sandbox.ask_remote(&["rev-parse", REFERENCE]), made[0].commit);
            let parents = sandbox.ask_remote(&["log", "-1", "--format=%P", REFERENCE]);
            assert_eq!(
                parents.split(' ').count(),
                2,
                "there is only one: {trouble:?} {served}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_nobody_was_told_of_is_built_upon() {
    let mut sandbox = Sandbox::new(&format!("echo half >half.txt; {ASK}"));
    let unknown = sandbox.run().await.checkpoints()[0].commit.clone();
    let resume = Resume {
        checkpoint: None,
        prompt: "Go on.".into(),
    };
    let again =
        format!("cat \"$FABRICA_ANSWER\"; echo; test -e half.txt || echo anew; echo other >other.txt; {ASK}");
    sandbox.resume(resume, Some(&again));
    let end = sandbox.run().await;
    assert_eq!(end.output()[..2], ["Go on.", "anew"]);
    end.asked();
    let parents = sandbox.ask_remote(&["log", "-1", "--format=%P", REFERENCE]);
    assert!(parents.ends_with(&unknown), "{parents}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_is_gone_is_told() {
    let mut sandbox = Sandbox::new(&format!("echo half >half.txt; {ASK}"));
    let checkpoint = sandbox.run().await.first_checkpoint();
    let head = sandbox.head("main").unwrap();
    for wrong in [
        Checkpoint {
            commit: head,
            ..checkpoint.clone()
        },
        Checkpoint {
            commit: "1".repeat(40),
            ..checkpoint.clone()
        },
        Checkpoint {
            commit: "--output=x".into(),
            ..checkpoint.clone()
        },
        Checkpoint {
            head: "1".repeat(40),
            ..checkpoint.clone()
        },
        Checkpoint {
            reference: "refs/fabrica/other".into(),
            ..checkpoint.clone()
        },
        Checkpoint {
            reference: "--upload-pack=x".into(),
            ..checkpoint.clone()
        },
    ] {
        sandbox.resume(answered(&wrong), None);
        assert_eq!(
            sandbox.run().await.failed().0.code,
            "checkpoint.missing",
            "{wrong:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_left_out_and_told_once() {
    let script = format!(
        "head -c 27000000 /dev/zero >large; head -c 27000000 /dev/zero >'also large'; echo small >small; \
         git init -q nested; sleep 2.5; {ASK}"
    );
    let mut sandbox = Sandbox::new(&script);
    sandbox.job.checkpoint_seconds = Some(1);
    let end = sandbox.run().await;
    end.asked();
    let told: Vec<_> = end
        .progress()
        .into_iter()
        .filter(|line| line.contains("Left out"))
        .collect();
    let [line] = told[..] else { panic!("{told:?}") };
    for part in [
        "large (26 MiB)",
        "also large (26 MiB)",
        "nested/ (a repository of its own)",
    ] {
        assert!(line.contains(part), "{line}");
    }
    let files = sandbox.ask_remote(&["ls-tree", "--name-only", REFERENCE]);
    assert_eq!(
        files.lines().collect::<Vec<_>>(),
        [".gitignore", "README.md", "small"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failed_agent_had_not_committed_is_secured() {
    let sandbox = Sandbox::new(&format!("{COMMIT}; echo half >half.txt; exit 7"));
    let end = sandbox.run().await;
    assert_eq!(end.failed().0.code, "agent.failed");
    assert_eq!(end.failed().1.unwrap().commits, 1);
    assert_eq!(end.checkpoints().len(), 1);
    assert_eq!(
        sandbox.ask_remote(&["show", &format!("{REFERENCE}:half.txt")]),
        "half"
    );
    let sandbox = Sandbox::new(&format!("{COMMIT}; exit 7"));
    let end = sandbox.run().await;
    let [only] = end.checkpoints()[..] else {
        panic!("{:?}", end.checkpoints());
    };
    assert!(
        end.failed().1.is_some() && only.is_of_branch(),
        "its commits are on the branch: {only:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_had_when_it_was_stopped_is_secured() {
    let sandbox = Sandbox::new(&format!("{COMMIT}; echo half >half.txt; echo ready; sleep 300"));
    let running = sandbox.start();
    until(|| format!("{:?}", sandbox.gateway.events()).contains("ready")).await;
    running.terminate();
    let end = sandbox.end(running).await;
    assert_eq!(end.failed().0.code, "session.stopped");
    assert_eq!(end.failed().1.unwrap().commits, 1);
    let checkpoint = end.checkpoints()[0];
    assert_eq!(Some(&checkpoint.head), sandbox.head(BRANCH).as_ref());
    assert_eq!(
        sandbox.ask_remote(&["show", &format!("{}:half.txt", checkpoint.commit)]),
        "half"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_takes_no_checkpoints_is_told_once_and_no_question_is_asked() {
    let mut sandbox = Sandbox::new(&format!("{COMMIT}; sleep 3.5; {ASK}"));
    sandbox.job.checkpoint_seconds = Some(1);
    let hook = sandbox.remote().join("hooks/update");
    std::fs::create_dir_all(hook.parent().unwrap()).unwrap();
    std::fs::write(&hook, "#!/bin/sh\ncase $1 in refs/fabrica/*) exit 1;; esac\n").unwrap();
    std::fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let end = sandbox.run().await;
    let (failure, pushed) = end.failed();
    assert_eq!(failure.code, "checkpoint.refused");
    assert!(
        failure.diagnosis.last().unwrap().contains("Which one?"),
        "{failure:?}"
    );
    assert_eq!(pushed.unwrap().commits, 1);
    let told = end
        .progress()
        .iter()
        .filter(|line| line.starts_with("No checkpoint"))
        .count();
    assert_eq!(told, 1);
}
