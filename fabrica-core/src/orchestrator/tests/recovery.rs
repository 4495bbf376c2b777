//! Taking over, handing over, and what must not be touched on the way.

use super::failures::{Attempt, claimed, code};
use super::worker::until;
use super::*;
use crate::ids::{Fence, LeaseNumber};
use crate::orchestrator::attempt::Driven;
use crate::ports::Presence;
use crate::ports::runtime::{ContainerName, ContainerSummary, LABEL_GATEWAY, LABEL_OWNER, Observation};
use crate::ports::store::{AttemptEnd, AttemptStart, ClaimLimits, ClaimRequest, Claimed, Resumed};
use crate::secrets::TokenHash;
use crate::testing::MockPresence;

fn start() -> AttemptStart {
    AttemptStart {
        container: "fabrica-x-1".into(),
        branch: "fabrica/018f4e1c".into(),
        title: "Say hello".into(),
        runner_token: TokenHash::of("runner's"),
        agent_token: TokenHash::of("agent's"),
    }
}

/// An attempt that another worker left under way.
fn resumed(last_event: u64) -> Claimed {
    Claimed {
        lease: LeaseNumber::new(2),
        max_attempts: 2,
        resumed: Some(Resumed {
            start: Some(start()),
            last_event,
            age: Duration::from_secs(5),
        }),
        ..claimed(PLAN, 1)
    }
}

fn container(observation: Observation) -> ContainerSummary {
    ContainerSummary {
        name: ContainerName::of(resumed(1).fence()),
        labels: std::iter::once((LABEL_GATEWAY.to_owned(), "/run/fabrica/x".to_owned())).collect(),
        observation,
    }
}

fn exited(code: i64) -> Observation {
    Observation::Exited {
        code,
        out_of_memory: false,
        reason: String::new(),
    }
}

#[tokio::test]
async fn a_container_that_runs_is_adopted_by_its_name_and_never_started_again() {
    let mut attempt = Attempt::new().cleans_up();
    // No call of `ensure` or `start_attempt` is expected.
    attempt
        .runtime
        .expect_list()
        .times(1)
        .returning(|_| Ok(vec![container(Observation::Running)]));
    attempt
        .gateway
        .expect_open()
        .times(1)
        .withf(|access| {
            access.runner_token == TokenHash::of("runner's") && access.agent_token == TokenHash::of("agent's")
        })
        .returning(|_| {
            Ok(crate::ports::gateway::GatewayEndpoint {
                directory: "/run/fabrica/x".into(),
            })
        });
    attempt
        .store
        .expect_add_messages()
        .times(1)
        .withf(|_, messages| messages[0].content.metadata["step"] == "adopted")
        .returning(|_, _| Ok(()));
    attempt.runtime.expect_observe().returning(|_| Ok(exited(3)));
    attempt.runtime.expect_log_tail().returning(|_, _| Ok(Vec::new()));
    let (end, _) = attempt.drive(resumed(7)).await;
    assert!(matches!(end, AttemptEnd::Lost { counts: true, .. }), "{end:?}");
}

#[tokio::test]
async fn a_container_that_is_gone_counts_only_if_its_runner_had_reported() {
    for (last_event, counted) in [(0, false), (7, true)] {
        let mut attempt = Attempt::new().cleans_up();
        attempt
            .runtime
            .expect_list()
            .times(1)
            .returning(|_| Ok(Vec::new()));
        let (end, messages) = attempt.drive(resumed(last_event)).await;
        let AttemptEnd::Lost { failure, counts, .. } = end else {
            panic!("{end:?}")
        };
        assert_eq!((failure.code.as_str(), counts), ("sandbox.lost", counted));
        assert_eq!(messages[0].content.metadata["counts"], counted);
    }
}

#[tokio::test]
async fn a_container_that_cannot_be_reached_is_not_waited_for() {
    let mut attempt = Attempt::new().cleans_up().opens();
    let mut elsewhere = container(Observation::Running);
    elsewhere
        .labels
        .insert(LABEL_GATEWAY.to_owned(), "/run/elsewhere".to_owned());
    attempt
        .runtime
        .expect_list()
        .returning(move |_| Ok(vec![elsewhere.clone()]));
    let last = Claimed {
        max_attempts: 1,
        ..resumed(7)
    };
    assert_eq!(code(&attempt.drive(last).await.0), "sandbox.out_of_reach");
}

#[tokio::test]
async fn an_end_that_was_recorded_before_the_takeover_is_acted_on() {
    // No look at the engine is expected, but for the clean-up.
    let attempt = Attempt::new().cleans_up();
    let failed = RunnerEvent::Failed {
        failure: Failure::new("verification.failed", "It does not pass.", "Look."),
        pushed: None,
    };
    let claimed = Claimed {
        reported: Some(serde_json::json!(failed)),
        ..resumed(7)
    };
    assert_eq!(code(&attempt.drive(claimed).await.0), "verification.failed");
}

#[tokio::test]
async fn the_recorded_failure_of_a_lost_attempt_does_not_fail_the_next_one() {
    let mut attempt = Attempt::new().starts().opens().cleans_up();
    attempt
        .runtime
        .expect_ensure()
        .times(1)
        .returning(|_| Ok(crate::ports::runtime::Ensured::Started));
    attempt.runtime.expect_observe().returning(|_| Ok(exited(3)));
    attempt.runtime.expect_log_tail().returning(|_, _| Ok(Vec::new()));
    let failed = RunnerEvent::Failed {
        failure: Failure::new("session.stopped", "Stopped.", "Again.").retryable(),
        pushed: None,
    };
    let claimed = Claimed {
        reported: Some(serde_json::json!(failed)),
        ..claimed(PLAN, 1)
    };
    assert_eq!(code(&attempt.drive(claimed).await.0), "sandbox.died");
}

#[tokio::test(start_paused = true)]
async fn whoever_lost_the_lease_kills_nothing_and_writes_nothing() {
    // Its wall time has passed while it was frozen, and so has its lease.
    let Attempt {
        mut store,
        mut runtime,
        mut gateway,
        forge,
    } = Attempt::new().starts().opens().lets_go();
    gateway.expect_close().never();
    runtime
        .expect_ensure()
        .times(1)
        .returning(|_| Ok(crate::ports::runtime::Ensured::Started));
    runtime.expect_observe().returning(|_| Ok(Observation::Running));
    runtime.expect_stop().never();
    runtime.expect_remove().never();
    store
        .expect_renew_leases()
        .times(1)
        .returning(|_, _, _| Ok(Vec::new()));
    store.expect_add_messages().returning(|_, _| Ok(()));
    store.expect_finish_attempt().never();
    let driven = Attempt::run(store, runtime, gateway, forge, claimed(PLAN, 1)).await;
    assert_eq!(driven, Driven::Settled);
}

#[tokio::test]
async fn a_worker_hands_its_sandbox_over_and_the_next_one_goes_on_with_it() {
    let rig = Rig::new(works_until_stopped);
    let id = rig.submit(PLAN).await;
    let shutdown = Shutdown::default();
    let (worker, stop) = (rig.orchestrator.clone(), shutdown.clone());
    let work = tokio::spawn(async move { worker.run(stop).await });
    until("its runner has reported", async || {
        rig.store.messages(id, 0, 10).await.unwrap().len() == 2
    })
    .await;
    shutdown.handover.cancel();
    work.await.unwrap().unwrap();
    let left = rig.store.session(id).await.unwrap().unwrap();
    assert_eq!((left.status, left.worker), (SessionStatus::Running, None));
    assert_eq!((rig.sandbox.containers(), rig.sandbox.accesses()), (1, 0));

    let next = Orchestrator::builder(
        rig.store.clone(),
        rig.sandbox.clone(),
        rig.sandbox.clone(),
        Options {
            worker: WorkerId::new("next"),
            ..options()
        },
    )
    .build();
    let stop = Shutdown::default();
    let work = tokio::spawn({
        let (next, stop) = (next.clone(), stop.clone());
        async move { next.run(stop).await }
    });
    until("it is adopted", async || rig.sandbox.accesses() == 1).await;
    next.cancel(id).await.unwrap();
    stop.drain.cancel();
    work.await.unwrap().unwrap();
    let ended = rig.store.session(id).await.unwrap().unwrap();
    assert_eq!((ended.status, ended.attempt.get()), (SessionStatus::Cancelled, 1));
    assert_eq!(rig.sandbox.started().len(), 1, "the sandbox was started once");
    assert_eq!((rig.sandbox.containers(), rig.sandbox.accesses()), (0, 0));
}

/// A session that runs on the fakes for a worker that does nothing more.
async fn abandoned(rig: &Rig, worker: &str) -> Fence {
    let id = rig.submit(PLAN).await;
    let claimed = rig
        .store
        .claim(&ClaimRequest {
            worker: WorkerId::new(worker),
            lease: Duration::from_hours(1),
            limit: 1,
            takeovers: 0,
            only: Some(id),
            limits: ClaimLimits::default(),
        })
        .await
        .unwrap()
        .remove(0);
    claimed.fence()
}

#[tokio::test]
async fn the_sessions_of_a_dead_worker_are_taken_over_before_their_leases_run_out() {
    let rig = Rig::new(Script::completes);
    let fence = abandoned(&rig, "dead").await;
    let mut presence = MockPresence::new();
    let buried = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let known = buried.clone();
    presence.expect_dead().returning(move || {
        if known.load(std::sync::atomic::Ordering::SeqCst) {
            Vec::new()
        } else {
            vec![WorkerId::new("dead")]
        }
    });
    let known = buried.clone();
    presence.expect_bury().returning(move |worker| {
        assert_eq!(worker.as_str(), "dead");
        known.store(true, std::sync::atomic::Ordering::SeqCst);
    });
    let orchestrator = Orchestrator::builder(
        rig.store.clone(),
        rig.sandbox.clone(),
        rig.sandbox.clone(),
        options(),
    )
    .presence(Arc::new(presence) as Arc<dyn Presence>)
    .build();
    let status = orchestrator
        .run_session(fence.session, Shutdown::default())
        .await
        .unwrap();
    assert_eq!(status, SessionStatus::Completed);
    assert!(buried.load(std::sync::atomic::Ordering::SeqCst));
    let ended = rig.store.session(fence.session).await.unwrap().unwrap();
    // Nothing had been done: the attempt that never began does not count.
    assert_eq!(ended.attempt.get(), 2);
}

#[tokio::test]
async fn containers_without_a_running_attempt_are_removed_and_strangers_are_left_alone() {
    let mut runtime = crate::testing::MockContainerRuntime::new();
    let rig = Rig::new(Script::completes);
    let running = abandoned(&rig, "other").await;
    let missing = Fence {
        session: "018f4e1c-7a52-4cc3-9d51-0a6f3ad1c2ff".parse().unwrap(),
        ..running
    };
    let label = |fence: Fence, name: ContainerName| ContainerSummary {
        name,
        labels: [
            (LABEL_OWNER, "fabrica".to_owned()),
            (crate::ports::runtime::LABEL_SESSION, fence.session.to_string()),
            (crate::ports::runtime::LABEL_ATTEMPT, fence.attempt.to_string()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into(),
        observation: Observation::Running,
    };
    let all = vec![
        label(running, ContainerName::of(running)),
        label(missing, ContainerName::of(missing)),
        label(missing, ContainerName::from_engine("somebody-elses")),
    ];
    runtime.expect_list().returning(move |_| Ok(all.clone()));
    runtime
        .expect_remove()
        .times(1)
        .withf(move |name| *name == ContainerName::of(missing))
        .returning(|_| Ok(()));
    let orchestrator = Orchestrator::builder(
        rig.store.clone(),
        Arc::new(runtime),
        rig.sandbox.clone(),
        options(),
    )
    .build();
    orchestrator.inner.reconcile().await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_agent_is_told_of_once_and_goes_on() {
    let rig = Rig::with(
        works_until_stopped,
        Options {
            stall_after: Duration::from_secs(2),
            ..options()
        },
        None,
    );
    let id = rig.submit(PLAN).await;
    let shutdown = Shutdown::default();
    let (worker, stop) = (rig.orchestrator.clone(), shutdown.clone());
    let work = tokio::spawn(async move { worker.run(stop).await });
    let stalls = async || {
        let messages = rig.store.messages(id, 0, 1_000).await.unwrap();
        messages
            .iter()
            .filter(|message| message.content.metadata.get("code") == Some(&"session.stalled".into()))
            .count()
    };
    until("the stall is told", async || stalls().await > 0).await;
    // By the paused clock: several spans of silence later it is still the same silence.
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(stalls().await, 1);
    rig.orchestrator.cancel(id).await.unwrap();
    shutdown.drain.cancel();
    work.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_container_of_a_failed_session_is_kept_for_as_long_as_the_operator_wants() {
    let keeping = Options {
        keep_failed: Duration::from_hours(1),
        ..options()
    };
    let failing = |_: &Job| Script::fails(Failure::new("agent.failed", "It broke.", "Look."));
    let rig = Rig::with(failing, keeping, None);
    let id = rig.submit(PLAN).await;
    rig.orchestrator
        .run_session(id, Shutdown::default())
        .await
        .unwrap();
    assert_eq!((rig.sandbox.containers(), rig.sandbox.accesses()), (1, 0));
    rig.orchestrator.inner.reconcile().await;
    assert_eq!(rig.sandbox.containers(), 1, "it is kept");
    let tidy = Orchestrator::builder(
        rig.store.clone(),
        rig.sandbox.clone(),
        rig.sandbox.clone(),
        options(),
    )
    .build();
    tidy.inner.reconcile().await;
    assert_eq!(rig.sandbox.containers(), 0, "its time has passed");
}
