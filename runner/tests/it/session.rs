//! Whole sessions: the real runner between a repository and a gateway.

use std::time::Duration;

use fabrica_core::plan::Agent;
use fabrica_core::protocol::exit;
use tokio::time::{Instant, sleep};

use crate::support::{Fault, Sandbox, until};

const BRANCH: &str = "fabrica/5c0ffee0";
const COMMIT: &str = "echo hello >hello.txt; git add hello.txt; git commit -q -m 'Add a greeting'";

#[tokio::test(flavor = "multi_thread")]
async fn what_the_agent_commits_is_pushed_and_verified() {
    let mut sandbox = Sandbox::new(&format!("cat \"$FABRICA_TASK\"; {COMMIT}; echo All done"));
    sandbox.job.setup = vec!["echo prepared >ignored.log; mkdir ignored; mv ignored.log ignored/".into()];
    sandbox.job.verify = vec![
        "grep -q hello hello.txt".into(),
        "test -f ignored/ignored.log".into(),
    ];
    let end = sandbox.run().await;
    let result = end.completed();
    let pushed = result.pushed.as_ref().unwrap();
    assert_eq!(
        (pushed.base.as_str(), pushed.branch.as_str(), pushed.commits),
        ("main", BRANCH, 1)
    );
    assert_eq!(pushed.subjects, ["Add a greeting"]);
    assert_eq!(sandbox.head(BRANCH).as_ref(), Some(&pushed.head));
    assert_eq!(result.verification.len(), 2);
    assert!(result.verification.iter().all(|verification| verification.passed));
    assert_eq!(result.summary, "All done");
    assert_eq!(end.status.code(), Some(exit::REPORTED));
    assert!(
        end.output().contains(&"Write a greeting.".to_owned()),
        "the task is in the file"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_agent_forgot_to_commit_is_committed_without_ignored_files() {
    let sandbox = Sandbox::new("mkdir -p ignored dir; echo x >ignored/x; echo y >dir/y; echo z >>README.md");
    let end = sandbox.run().await;
    let pushed = end.completed().pushed.clone().unwrap();
    assert_eq!(pushed.subjects, ["Greet the world"]);
    assert_eq!(sandbox.file(BRANCH, "dir/y").as_deref(), Some("y\n"));
    assert_eq!(sandbox.file(BRANCH, "ignored/x"), None);
    let author = crate::support::git(
        &sandbox.remote(),
        &["log", "-1", "--format=%an <%ae> %cn", BRANCH],
    );
    assert_eq!(
        String::from_utf8_lossy(&author.stdout).trim(),
        "Fabrica Test <fabrica@example.com> Fabrica Test"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_that_takes_long_says_how_far_it_is() {
    let mut sandbox = Sandbox::new("echo new >new");
    let slowly = "printf 'Receiving objects:  43%% (431/1000), 450.00 MiB | 9.00 MiB/s\\r' >&2; \
                  until test -e $0.told; do sleep 0.05; done";
    sandbox.pretend("*' clone '*", slowly);
    let running = sandbox.start();
    let told = || format!("{:?}", sandbox.gateway.events()).contains("Receiving objects: 43 %, 450.00 MiB");
    until(told).await;
    std::fs::write(sandbox.path("pretended/git.told"), "").unwrap();
    sandbox.end(running).await.completed();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_change_nothing_is_pushed() {
    let sandbox = Sandbox::new("echo nothing to do");
    let end = sandbox.run().await;
    assert_eq!(end.completed().pushed, None);
    assert_eq!(sandbox.head(BRANCH), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_verification_pushes_the_commits_all_the_same() {
    let mut sandbox = Sandbox::new(COMMIT);
    sandbox.job.verify = vec![
        "echo 'test greet ... FAILED' >&2; exit 3".into(),
        "echo never".into(),
    ];
    let end = sandbox.run().await;
    let (failure, pushed) = end.failed();
    assert_eq!(failure.code, "verification.failed");
    assert!(failure.cause.contains("exited with code 3"), "{failure}");
    assert_eq!(failure.diagnosis, ["test greet ... FAILED"]);
    assert_eq!(sandbox.head(BRANCH).as_ref(), Some(&pushed.unwrap().head));
    assert!(!end.output().contains(&"never".to_owned()));
}

/// An agent that needs to be told twice.
const SLOW_LEARNER: &str = "[ -z \"$FABRICA_ANSWER\" ] || cat \"$FABRICA_ANSWER\"; echo x >>tries; git add tries; git commit -q -m 'Try'";
const THREE_TRIES: &str = "n=$(wc -l <tries); echo \"tried $n times\"; test $n -ge 3";

#[tokio::test(flavor = "multi_thread")]
async fn what_a_verification_wrote_goes_back_to_the_agent_until_it_passes() {
    let mut sandbox = Sandbox::new(SLOW_LEARNER);
    sandbox.job.rounds = 3;
    sandbox.job.verify = vec![THREE_TRIES.into(), "echo second".into()];
    let end = sandbox.run().await;
    let result = end.completed();
    assert_eq!((result.rounds, result.pushed.as_ref().unwrap().commits), (3, 3));
    let outputs: Vec<_> = result
        .verification
        .iter()
        .map(|step| step.output.join("\n"))
        .collect();
    assert_eq!(outputs, ["tried 3 times", "second"]);
    let told = end.output().join("\n");
    for expected in [
        "exited with code 1",
        "tried 1 times",
        "round 2 of 3",
        "tried 2 times",
        "round 3 of 3",
    ] {
        assert!(told.contains(expected), "{expected}: {told}");
    }
    let steps = end.progress().join("\n");
    assert!(steps.contains("the agent is told (round 2 of 3)"), "{steps}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verification_that_never_passes_ends_after_its_rounds_and_the_work_is_pushed() {
    let mut sandbox = Sandbox::new(SLOW_LEARNER);
    sandbox.job.rounds = 2;
    sandbox.job.verify = vec![THREE_TRIES.into()];
    let end = sandbox.run().await;
    let (failure, pushed) = end.failed();
    assert_eq!(failure.code, "verification.failed");
    assert!(failure.cause.ends_with("still in round 2"), "{failure}");
    assert_eq!(failure.diagnosis, ["tried 2 times"]);
    assert_eq!(pushed.unwrap().commits, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_cannot_mend_its_work_is_not_what_the_session_fails_for() {
    let mut sandbox = Sandbox::new(&format!("[ -z \"$FABRICA_ANSWER\" ] || exit 9; {COMMIT}"));
    sandbox.job.rounds = 3;
    sandbox.job.verify = vec!["echo wrong; false".into()];
    let end = sandbox.run().await;
    let (failure, pushed) = end.failed();
    assert_eq!(failure.code, "verification.failed");
    assert_eq!(failure.diagnosis[0], "wrong");
    assert!(failure.diagnosis[1].contains("exited with code 9"), "{failure:?}");
    assert_eq!(pushed.unwrap().commits, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_may_ask_when_it_cannot_mend_what_failed() {
    let mut sandbox =
        Sandbox::new("[ -z \"$FABRICA_ANSWER\" ] || { fabrica-escalate 'Who broke it?'; exit 85; }");
    sandbox.job.rounds = 3;
    sandbox.job.verify = vec!["false".into()];
    assert_eq!(sandbox.run().await.asked().question, "Who broke it?");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_to_finish_publishes_what_there_is_without_its_agent() {
    let mut sandbox = Sandbox::new("echo kept >kept.txt; fabrica-escalate 'More?'; exit 85");
    let asked = sandbox.run().await;
    asked.asked();
    let resume = fabrica_core::protocol::Resume {
        checkpoint: asked.checkpoints().last().map(|&checkpoint| checkpoint.clone()),
        prompt: "never told".into(),
    };
    sandbox.resume(resume, Some("touch agent-was-here"));
    sandbox.job.finish = true;
    sandbox.job.rounds = 3;
    sandbox.job.verify = vec!["echo not yet; false".into()];
    let end = sandbox.run().await;
    let result = end.completed();
    assert!(
        result.unfinished && result.summary.contains("Unfinished"),
        "{result:?}"
    );
    let [step] = result.verification.as_slice() else {
        panic!("{result:?}");
    };
    assert_eq!(
        (step.passed, step.output.as_slice()),
        (false, &["not yet".to_owned()][..])
    );
    assert_eq!(sandbox.file(BRANCH, "kept.txt").as_deref(), Some("kept\n"));
    assert_eq!(sandbox.file(BRANCH, "agent-was-here"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_template_of_the_commit_that_is_pushed_is_reported() {
    let template = "## Why\n\n## Risk";
    let sandbox = Sandbox::new(&format!(
        "mkdir .github; printf '{template}\n' >.github/PULL_REQUEST_TEMPLATE.md; {COMMIT}"
    ));
    assert_eq!(
        sandbox.run().await.completed().template.as_deref(),
        Some(template)
    );
    let without = Sandbox::new(COMMIT).run().await;
    assert_eq!(without.completed().template, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_setup_is_told_with_the_end_of_its_output() {
    let mut sandbox = Sandbox::new("echo never");
    sandbox.job.setup = vec!["echo looking; echo 'no such package' >&2; false".into()];
    let end = sandbox.run().await;
    let (failure, pushed) = end.failed();
    assert_eq!(failure.code, "setup.failed");
    assert!(failure.diagnosis.contains(&"no such package".to_owned()));
    assert_eq!(pushed, None);
    assert!(!end.output().contains(&"never".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_fails_keeps_its_commits_but_not_its_leftovers() {
    let sandbox = Sandbox::new(&format!(
        "{COMMIT}; echo half >half.txt; echo giving up >&2; exit 7"
    ));
    let end = sandbox.run().await;
    let (failure, pushed) = end.failed();
    assert_eq!(failure.code, "agent.failed");
    assert_eq!(failure.diagnosis, ["giving up"]);
    assert_eq!(pushed.unwrap().commits, 1);
    assert_eq!(sandbox.subjects(BRANCH)[0], "Add a greeting");
    assert_eq!(sandbox.file(BRANCH, "half.txt"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_of_a_git_that_was_killed_keep_nobody_from_committing() {
    let locks = ["index.lock", "HEAD.lock", "refs/heads/fabrica/5c0ffee0.lock"];
    let touch = locks.map(|lock| format!("; >.git/{lock}")).concat();
    let sandbox = Sandbox::new(&format!("{COMMIT}; echo more >more.txt{touch}"));
    let end = sandbox.run().await;
    assert_eq!(end.completed().pushed.as_ref().unwrap().commits, 2);
    assert_eq!(sandbox.file(BRANCH, "more.txt").as_deref(), Some("more\n"));
    let told = |message: &&str| message.contains("killed") && locks.iter().all(|lock| message.contains(lock));
    assert!(end.progress().iter().any(told), "{:?}", end.progress());
    // One that is released by itself belongs to somebody who works.
    let leaving = "(sleep 1; rm .git/index.lock) >/dev/null 2>&1 &";
    let sandbox = Sandbox::new(&format!(">.git/index.lock; echo more >more.txt; {leaving}"));
    let end = sandbox.run().await;
    assert_eq!(end.completed().pushed.as_ref().unwrap().commits, 1);
    assert!(!end.progress().iter().any(|message| message.contains("killed")));
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_cannot_be_started_are_told_apart() {
    for (program, code) in [
        ("no-such-agent", "agent.not_found"),
        ("./README.md", "agent.not_executable"),
    ] {
        let mut sandbox = Sandbox::new("");
        sandbox.job.agent = Agent::Command(vec![program.into()]);
        assert_eq!(sandbox.run().await.failed().0.code, code);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_exists_is_continued() {
    let mut sandbox = Sandbox::new(COMMIT);
    sandbox.commit_on_remote("topic", "main", "first.txt");
    // The base moves on meanwhile.
    sandbox.commit_on_remote("main", "main", "second.txt");
    sandbox.job.branch = "topic".into();
    sandbox.job.depth = Some(1);
    let end = sandbox.run().await;
    let pushed = end.completed().pushed.clone().unwrap();
    assert_eq!(pushed.subjects, ["Add first.txt elsewhere", "Add a greeting"]);
    assert_eq!(
        sandbox.subjects("topic"),
        ["Add a greeting", "Add first.txt elsewhere", "Begin"]
    );
    assert!(
        end.progress()
            .iter()
            .any(|line| line.contains("exists already, 1 commits beyond main"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_holds_the_work_already_is_reported_as_pushed() {
    let mut sandbox = Sandbox::new("true");
    sandbox.commit_on_remote("topic", "main", "first.txt");
    sandbox.job.branch = "topic".into();
    let end = sandbox.run().await;
    assert_eq!(end.completed().pushed.as_ref().unwrap().commits, 1);
    assert!(!end.progress().iter().any(|line| line.starts_with("Pushed")));
}

/// An agent that works on `file` until others have pushed to its branch; then `more`.
async fn overtaken(sandbox: &Sandbox, file: &str) -> crate::support::End {
    let running = sandbox.start();
    until(|| sandbox.path("workspace/repository/ready").exists()).await;
    sandbox.commit_on_remote(BRANCH, "main", file);
    std::fs::write(sandbox.path("workspace/repository/go"), "").unwrap();
    sandbox.end(running).await
}

const WAIT: &str = "touch ready; while ! test -e go; do sleep 0.05; done; rm go ready";

#[tokio::test(flavor = "multi_thread")]
async fn work_is_put_on_top_of_what_others_pushed_and_verified_there() {
    let mut sandbox = Sandbox::new(&format!("{COMMIT}; {WAIT}"));
    sandbox.job.verify = vec!["test -e other.txt && test -e hello.txt".into()];
    let end = overtaken(&sandbox, "other.txt").await;
    assert_eq!(end.completed().pushed.as_ref().unwrap().commits, 2);
    assert_eq!(
        sandbox.subjects(BRANCH),
        ["Add a greeting", "Add other.txt elsewhere", "Begin"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_push_during_the_verification_is_verified_too() {
    let mut sandbox = Sandbox::new(COMMIT);
    sandbox.job.verify = vec![format!(
        "echo run >>../runs; test -e other.txt || {{ {WAIT}; }}; ls"
    )];
    let end = overtaken(&sandbox, "other.txt").await;
    end.completed();
    let runs = std::fs::read_to_string(sandbox.path("workspace/runs")).unwrap();
    assert_eq!(runs.lines().count(), 2);
    assert_eq!(sandbox.subjects(BRANCH)[0], "Add a greeting");
}

#[tokio::test(flavor = "multi_thread")]
async fn conflicts_with_others_are_the_agents_to_resolve() {
    let resolve = "git merge -q origin/fabrica/5c0ffee0 >/dev/null; cat \"$FABRICA_ANSWER\"; echo both >hello.txt; \
                   git add hello.txt; git commit -q -m 'Keep both'";
    let mut sandbox = Sandbox::new(&format!(
        "if [ -n \"$FABRICA_ANSWER\" ]; then {resolve}; else {COMMIT}; {WAIT}; fi"
    ));
    sandbox.job.rounds = 2;
    let end = overtaken(&sandbox, "hello.txt").await;
    end.completed();
    let told = end.output().join("\n");
    assert!(
        told.contains("- hello.txt") && told.contains("others pushed 1 commit"),
        "{told}"
    );
    assert_eq!(sandbox.file(BRANCH, "hello.txt").as_deref(), Some("both\n"));
    let subjects = sandbox.subjects(BRANCH);
    assert_eq!(subjects[0], "Keep both");
    assert!(
        subjects.contains(&"Add hello.txt elsewhere".to_owned()),
        "{subjects:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn conflicts_that_the_agent_does_not_resolve_are_a_persons_to_decide() {
    let sandbox = Sandbox::new(&format!("{COMMIT}; {WAIT}"));
    let end = overtaken(&sandbox, "hello.txt").await;
    let question = end.asked();
    assert!(question.question.contains("conflict"), "{question:?}");
    assert!(question.context.contains("hello.txt"));
    assert_eq!(
        sandbox.subjects(BRANCH),
        ["Add hello.txt elsewhere", "Begin"],
        "nothing of others is overwritten"
    );
    assert_eq!(end.checkpoints().len(), 1, "the work is safe");
}

#[tokio::test(flavor = "multi_thread")]
async fn work_on_another_branch_of_the_agents_own_is_found() {
    let sandbox = Sandbox::new(&format!(
        "git checkout -q -b my-idea; {COMMIT}; echo more >more.txt"
    ));
    let end = sandbox.run().await;
    assert_eq!(
        end.completed().pushed.as_ref().unwrap().subjects,
        ["Add a greeting", "Greet the world"]
    );
    assert_eq!(sandbox.head("my-idea"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn repositories_that_cannot_be_used_are_told_by_code() {
    let mut sandbox = Sandbox::new("");
    sandbox.job.base = Some("develop".into());
    assert_eq!(sandbox.run().await.failed().0.code, "repository.base_not_found");

    let sandbox = Sandbox::new("");
    sandbox.gateway.fail(Fault::Repository(
        404,
        "repository.not_found",
        "acme/gone does not exist",
    ));
    let end = sandbox.run().await;
    assert_eq!(end.failed().0.code, "repository.not_found");
    assert_eq!(end.failed().0.cause, "acme/gone does not exist");

    let sandbox = Sandbox::new("");
    std::fs::remove_dir_all(sandbox.remote()).unwrap();
    std::fs::create_dir(sandbox.remote()).unwrap();
    crate::support::git(&sandbox.remote(), &["init", "-q", "--bare"]);
    assert_eq!(sandbox.run().await.failed().0.code, "repository.empty");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_stops_the_agent_and_its_commits_are_pushed() {
    let sandbox = Sandbox::new(&format!(
        "trap '' TERM; {COMMIT}; echo ready; sleep 300 & wait; sleep 300"
    ));
    let running = sandbox.start();
    until(|| {
        sandbox
            .gateway
            .events()
            .iter()
            .any(|event| format!("{event:?}").contains("ready"))
    })
    .await;
    let asked = Instant::now();
    running.terminate();
    let end = sandbox.end(running).await;
    let (failure, pushed) = end.failed();
    assert_eq!(
        (failure.code.as_str(), pushed.unwrap().commits),
        ("session.stopped", 1)
    );
    assert_eq!(sandbox.subjects(BRANCH)[0], "Add a greeting");
    assert_eq!(end.status.code(), Some(exit::STOPPED));
    assert!(
        asked.elapsed() < Duration::from_secs(9),
        "within an engine's usual patience: {:?}",
        asked.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_in_an_acknowledgement_stops_the_agent() {
    let sandbox = Sandbox::new(&format!("{COMMIT}; while true; do echo tick; sleep 0.1; done"));
    let running = sandbox.start();
    until(|| {
        sandbox
            .gateway
            .events()
            .iter()
            .any(|event| format!("{event:?}").contains("tick"))
    })
    .await;
    sandbox.gateway.cancel();
    let end = sandbox.end(running).await;
    let (failure, pushed) = end.failed();
    assert_eq!(
        (failure.code.as_str(), pushed.unwrap().commits),
        ("session.cancelled", 1)
    );
    assert_eq!(end.status.code(), Some(exit::REPORTED));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fenced_attempt_ends_at_once_and_pushes_nothing() {
    let sandbox = Sandbox::new(&format!("{COMMIT}; while true; do echo tick; sleep 0.1; done"));
    sandbox.gateway.fail(Fault::FencedAfter(6));
    let end = sandbox.run().await;
    assert_eq!(end.status.code(), Some(exit::UNREPORTED));
    assert_eq!(sandbox.head(BRANCH), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_restarted_loses_and_repeats_nothing() {
    let script =
        format!("for n in $(seq 1 400); do echo line $n; test $((n % 20)) = 0 && sleep 0.05; done; {COMMIT}");
    let sandbox = Sandbox::new(&script);
    let running = sandbox.start();
    for round in 1..=3 {
        until(|| sandbox.gateway.events().len() > 2 * round).await;
        sandbox.gateway.close();
        sleep(Duration::from_millis(250)).await;
        sandbox.gateway.open();
    }
    let end = sandbox.end(running).await;
    assert!(end.completed().pushed.is_some());
    let lines: Vec<_> = end
        .output()
        .into_iter()
        .filter(|line| line.starts_with("line"))
        .collect();
    let expected: Vec<_> = (1..=400).map(|n| format!("line {n}")).collect();
    assert_eq!(lines, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_answers_and_partial_acknowledgements_repeat_nothing() {
    for fault in [Fault::AnswersLost(4), Fault::AcknowledgeAtMost(2)] {
        let sandbox = Sandbox::new("for n in $(seq 1 40); do echo line $n; sleep 0.02; done");
        sandbox.gateway.fail(fault);
        let end = sandbox.run().await;
        end.completed();
        let expected: Vec<_> = (1..=40).map(|n| format!("line {n}")).collect();
        assert_eq!(end.output(), expected, "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_any_bytes_is_reported_whole_and_in_order() {
    let script =
        r"seq 1 60000; printf 'a\000b\377c\n'; head -c 3000000 /dev/zero | tr '\0' x; echo; echo end";
    let sandbox = Sandbox::new(script);
    let end = sandbox.run().await;
    end.completed();
    let output = end.output();
    assert_eq!(output.len(), 60_003);
    assert!(
        output[..60_000]
            .iter()
            .enumerate()
            .all(|(index, line)| *line == (index + 1).to_string())
    );
    assert_eq!(output[60_000], "a\u{fffd}b\u{fffd}c");
    assert!(output[60_001].len() < 40_000 && output[60_001].contains("bytes cut"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_setup_leaves_running_serves_until_the_push() {
    let mut sandbox = Sandbox::new(COMMIT);
    sandbox.job.setup = vec!["(while true; do echo beat >../beat; sleep 0.05; done) & echo started".into()];
    sandbox.job.verify = vec!["rm ../beat; sleep 0.5; test -e ../beat".into()];
    let end = sandbox.run().await;
    end.completed();
    std::fs::remove_file(sandbox.path("workspace/beat")).unwrap();
    sleep(Duration::from_millis(200)).await;
    assert!(
        !sandbox.path("workspace/beat").exists(),
        "nothing of the sandbox is left alive"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_process_of_a_sandbox_buries_orphans_and_outlives_all_others() {
    let possible = std::process::Command::new("unshare")
        .args(["--pid", "--fork", "--mount-proc", "true"])
        .output();
    if !possible.is_ok_and(|output| output.status.success()) {
        println!("skipped: this user may not make a process namespace");
        return;
    }
    let orphans = "for n in 1 2 3 4 5; do sh -c '(sleep 0.1) & exit 0'; done; sleep 1";
    let zombies = "cat /proc/[0-9]*/stat 2>/dev/null | grep -c ') Z ' | sed 's/^/zombies /'";
    let survivor = "setsid sh -c 'while true; do echo beat >../beat; sleep 0.02; done' >/dev/null 2>&1 &";
    let script = format!("{orphans}; {zombies}; echo parent $PPID; {COMMIT}; {survivor} sleep 0.2");
    let mut sandbox = Sandbox::new(&script);
    sandbox.first = true;
    let end = sandbox.run().await;
    assert_eq!(end.completed().pushed.as_ref().unwrap().commits, 1);
    let output = end.output();
    assert!(
        output.contains(&"parent 1".to_owned()) && output.contains(&"zombies 0".to_owned()),
        "{output:?}"
    );
    std::fs::remove_file(sandbox.path("workspace/beat")).unwrap();
    sleep(Duration::from_millis(200)).await;
    assert!(!sandbox.path("workspace/beat").exists());
}
