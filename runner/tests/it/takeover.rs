//! The gateway's process freezes, dies or does not know whether it may answer, at every step, and another takes over.

use std::time::Duration;

use fabrica_core::protocol::{HEARTBEAT, exit};
use tokio::time::{sleep, timeout};

use crate::support::{End, Fault, Moment, Sandbox, Trouble, until};

const BRANCH: &str = "fabrica/5c0ffee0";
const COMMIT: &str = "echo hello >hello.txt; git add hello.txt; git commit -q -m 'Add a greeting'";
const TROUBLES: [Trouble; 3] = [Trouble::Freezes, Trouble::Dies, Trouble::PutsOff];

const fn before(request: &'static str) -> Moment {
    Moment {
        request,
        served: false,
    }
}

const fn after(request: &'static str) -> Moment {
    Moment {
        request,
        served: true,
    }
}

/// Runs a session whose gateway gets into trouble at a moment; another process takes over after a while.
async fn overtaken(moment: Moment, trouble: Trouble, away: Duration) -> (Sandbox, End) {
    let script = format!("for n in $(seq 1 50); do echo line $n; done; {COMMIT}");
    let sandbox = Sandbox::new(&script);
    sandbox.gateway.expect(moment, trouble);
    let running = sandbox.start();
    until(|| !sandbox.gateway.expects()).await;
    sleep(away).await;
    sandbox.gateway.open();
    let end = sandbox.end(running).await;
    (sandbox, end)
}

fn nothing_is_lost_or_repeated(sandbox: &Sandbox, end: &End, case: &str) {
    let pushed = end.completed().pushed.as_ref();
    assert_eq!(pushed.map(|pushed| pushed.commits), Some(1), "{case}");
    assert_eq!(sandbox.subjects(BRANCH), ["Add a greeting", "Begin"], "{case}");
    let expected: Vec<_> = (1..=50).map(|n| format!("line {n}")).collect();
    assert_eq!(end.output(), expected, "{case}");
    assert_eq!(end.status.code(), Some(exit::REPORTED), "{case}");
}

async fn survives(moments: &[Moment]) {
    for moment in moments {
        for trouble in TROUBLES {
            let (sandbox, end) = overtaken(*moment, trouble, Duration::from_millis(700)).await;
            nothing_is_lost_or_repeated(&sandbox, &end, &format!("{trouble:?} {moment:?}"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_job_is_asked_for_until_somebody_answers() {
    survives(&[before("GET /session/job"), after("GET /session/job")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_that_was_cut_is_begun_again() {
    survives(&[
        before("info/refs?service=git-upload-pack"),
        before("POST /git/repository.git/git-upload-pack"),
        after("POST /git/repository.git/git-upload-pack"),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_are_delivered_again() {
    survives(&[before("POST /session/events"), after("POST /session/events")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_report_is_delivered_before_the_runner_ends() {
    for trouble in TROUBLES {
        let script = format!(
            "for n in $(seq 1 50); do echo line $n; done; {COMMIT}; touch ../ready; while ! test -e ../go; do sleep 0.05; done"
        );
        let sandbox = Sandbox::new(&script);
        let running = sandbox.start();
        until(|| sandbox.path("workspace/ready").exists()).await;
        until(|| format!("{:?}", sandbox.gateway.events()).contains("line 50")).await;
        sandbox.gateway.expect(before("POST /session/events"), trouble);
        std::fs::write(sandbox.path("workspace/go"), "").unwrap();
        until(|| !sandbox.gateway.expects()).await;
        sleep(Duration::from_millis(1_500)).await;
        sandbox.gateway.open();
        let end = sandbox.end(running).await;
        nothing_is_lost_or_repeated(&sandbox, &end, &format!("{trouble:?}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_was_cut_is_made_again_and_does_no_harm_if_it_came_through() {
    survives(&[
        before("info/refs?service=git-receive-pack"),
        before("POST /git/repository.git/git-receive-pack"),
        after("POST /git/repository.git/git-receive-pack"),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_meets_its_own_forerunner_has_succeeded() {
    let sandbox = Sandbox::new(&format!("for n in $(seq 1 50); do echo line $n; done; {COMMIT}"));
    sandbox.gateway.fail(Fault::PushedTwice);
    let end = sandbox.run().await;
    nothing_is_lost_or_repeated(&sandbox, &end, "pushed twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_away_for_longer_than_any_number_of_tries_is_waited_for() {
    // More tries than a git host is given: what is counted is not the gateway.
    let moments = [
        before("POST /git/repository.git/git-upload-pack"),
        before("POST /git/repository.git/git-receive-pack"),
    ];
    for moment in moments {
        let (sandbox, end) = overtaken(moment, Trouble::PutsOff, Duration::from_secs(9)).await;
        nothing_is_lost_or_repeated(&sandbox, &end, &format!("{moment:?}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_dies_again_and_again_during_the_clone_is_no_reason_to_fail() {
    let sandbox = Sandbox::new(&format!("for n in $(seq 1 50); do echo line $n; done; {COMMIT}"));
    let moment = before("POST /git/repository.git/git-upload-pack");
    sandbox.gateway.expect(moment, Trouble::Dies);
    let running = sandbox.start();
    for _ in 0..7 {
        until(|| !sandbox.gateway.expects()).await;
        sandbox.gateway.expect(moment, Trouble::Dies);
        sandbox.gateway.open();
    }
    until(|| !sandbox.gateway.expects()).await;
    sandbox.gateway.open();
    let end = sandbox.end(running).await;
    nothing_is_lost_or_repeated(&sandbox, &end, "seven deaths");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_by_the_git_host_still_fails_at_once() {
    let sandbox = Sandbox::new(COMMIT);
    sandbox
        .gateway
        .fail(Fault::Repository(404, "repository.not_found", "gone"));
    let end = sandbox.run().await;
    assert_eq!(end.failed().0.code, "repository.not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_the_wait_for_a_gateway_that_is_frozen() {
    for request in ["GET /session/job", "POST /git/repository.git/git-upload-pack"] {
        let sandbox = Sandbox::new(COMMIT);
        sandbox.gateway.expect(before(request), Trouble::Freezes);
        let running = sandbox.start();
        until(|| !sandbox.gateway.expects()).await;
        running.terminate();
        sleep(Duration::from_millis(300)).await;
        sandbox.gateway.open();
        let end = sandbox.end(running).await;
        assert_eq!(end.failed().0.code, "session.stopped", "{request}");
        assert_eq!(end.status.code(), Some(exit::STOPPED), "{request}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_whose_agent_is_silent_makes_itself_known_to_a_new_owner_at_once() {
    let sandbox = Sandbox::new(&format!(
        "echo ready; while ! test -e ../go; do sleep 0.05; done; {COMMIT}"
    ));
    let running = sandbox.start();
    until(|| format!("{:?}", sandbox.gateway.events()).contains("ready")).await;
    // Just after a heartbeat, so that the next one is far away.
    let heard = sandbox.gateway.deliveries();
    until(|| sandbox.gateway.deliveries() > heard).await;
    let heard = sandbox.gateway.deliveries();
    sandbox.gateway.open();
    let told = timeout(HEARTBEAT / 2, until(|| sandbox.gateway.deliveries() > heard)).await;
    assert!(told.is_ok(), "sooner than by the next heartbeat");
    std::fs::write(sandbox.path("workspace/go"), "").unwrap();
    let end = sandbox.end(running).await;
    assert!(end.completed().pushed.is_some());
}
