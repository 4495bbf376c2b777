//! Every step that can fail.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::ids::{Fence, LeaseNumber};
use crate::orchestrator::attempt::Driven;
use crate::orchestrator::lease::Lease;
use crate::ports::gateway::{GatewayEndpoint, GatewayError};
use crate::ports::runtime::{ContainerName, Ensured, Observation, RuntimeError};
use crate::ports::store::{AttemptEnd, Claimed, StoreError};
use crate::session::Spec;
use crate::testing::{MockContainerRuntime, MockGateway, MockStore};

pub(super) fn session_id() -> SessionId {
    "018f4e1c-7a52-4cc3-9d51-0a6f3ad1c2b4".parse().unwrap()
}

pub(super) fn claimed(plan: &str, attempt: u32) -> Claimed {
    let at = chrono::DateTime::UNIX_EPOCH;
    let session = Session {
        id: session_id(),
        status: SessionStatus::Running,
        repo_url: "https://git.example.com/acme/app.git".into(),
        title: None,
        branch_name: None,
        pr_url: None,
        attempt: crate::ids::AttemptNumber::new(attempt),
        worker: Some(WorkerId::new("worker")),
        cancel_requested: false,
        usage: crate::protocol::Usage::default(),
        submitter: None,
        created_at: at,
        completed_at: None,
    };
    let spec = Spec {
        id: "018f4e1c-7a52-4cc3-9d51-0a6f3ad1c2b5".parse().unwrap(),
        session: session.id,
        version: 1,
        content: plan.into(),
        created_at: at,
    };
    Claimed {
        session,
        spec,
        max_attempts: 1,
        lease: LeaseNumber::new(1),
        resumed: None,
        reported: None,
        checkpoint: None,
        answered: None,
    }
}

/// The mocks of one attempt, and how it ended.
pub(super) struct Attempt {
    pub(super) store: MockStore,
    pub(super) runtime: MockContainerRuntime,
    pub(super) gateway: MockGateway,
    pub(super) forge: MockForge,
}

impl Attempt {
    pub(super) fn new() -> Self {
        let mut store = MockStore::new();
        // For what the attempts used so far.
        store.expect_session().returning(|_| Ok(None));
        store.expect_notes().returning(|_, _| Ok(Vec::new()));
        Self {
            store,
            runtime: MockContainerRuntime::new(),
            gateway: MockGateway::new(),
            forge: MockForge::new(),
        }
    }

    pub(super) fn starts(mut self) -> Self {
        self.store
            .expect_start_attempt()
            .times(1)
            .returning(|_, _| Ok(()));
        self
    }

    pub(super) fn opens(mut self) -> Self {
        self.gateway.expect_open().times(1).returning(|_| {
            Ok(GatewayEndpoint {
                directory: "/run/fabrica/x".into(),
            })
        });
        self
    }

    /// The clean-up comes, once, on every path on which something was opened.
    pub(super) fn cleans_up(mut self) -> Self {
        self.gateway.expect_close().times(1).returning(|_| Ok(()));
        self.runtime.expect_remove().times(1).returning(|_| Ok(()));
        self
    }

    /// Only this process's own part of the access ends.
    pub(super) fn lets_go(mut self) -> Self {
        self.gateway.expect_release().times(1).returning(|_| ());
        self
    }

    /// Drives it and returns its end as the store saw it.
    pub(super) async fn drive(self, claimed: Claimed) -> (AttemptEnd, Vec<crate::message::NewMessage>) {
        let Self {
            mut store,
            runtime,
            gateway,
            forge,
        } = self;
        store
            .expect_renew_leases()
            .returning(|_, fences, _| Ok(fences.to_vec()));
        let ends = Arc::new(std::sync::Mutex::new(Vec::new()));
        let seen = ends.clone();
        store.expect_finish_attempt().returning(move |_, end, messages| {
            seen.lock().unwrap().push((end, messages));
            Ok(SessionStatus::Failed)
        });
        Self::run(store, runtime, gateway, forge, claimed).await;
        let mut ends = std::mem::take(&mut *ends.lock().unwrap());
        assert_eq!(ends.len(), 1, "the attempt ends exactly once");
        ends.remove(0)
    }

    pub(super) async fn run(
        store: MockStore,
        runtime: MockContainerRuntime,
        gateway: MockGateway,
        forge: MockForge,
        claimed: Claimed,
    ) -> Driven {
        let options = Options {
            engine_patience: Duration::from_millis(20),
            ..options()
        };
        let orchestrator =
            Orchestrator::builder(Arc::new(store), Arc::new(runtime), Arc::new(gateway), options)
                .forge(Arc::new(forge))
                .build();
        let lease = Lease::new(
            claimed.fence(),
            tokio::time::Instant::now() + Duration::from_mins(1),
        );
        crate::orchestrator::attempt::Attempt {
            inner: orchestrator.inner.clone(),
            claimed: Arc::new(claimed),
            lease: Arc::new(lease),
            signals: crate::orchestrator::attempt::Signals::default(),
        }
        .drive()
        .await
    }
}

pub(super) fn code(end: &AttemptEnd) -> &str {
    match end {
        AttemptEnd::Failed(failure) => {
            assert!(!failure.advice.is_empty());
            &failure.code
        }
        other => panic!("{other:?} is no failure"),
    }
}

pub(super) fn unavailable() -> StoreError {
    StoreError::Unavailable {
        message: "gone".into(),
        source: None,
    }
}

pub(super) fn engine_down() -> RuntimeError {
    RuntimeError::Unavailable {
        engine: "docker".into(),
        message: "refused".into(),
        source: None,
    }
}

#[tokio::test]
async fn a_stored_plan_that_is_wrong_fails_without_starting_anything() {
    let (end, messages) = Attempt::new().drive(claimed("---\nrepo: [\n---\nx", 1)).await;
    assert_eq!(code(&end), "plan.invalid_value");
    assert_eq!(messages[0].kind, MessageKind::Error);
}

#[tokio::test]
async fn an_intent_that_is_not_stored_starts_nothing() {
    let mut attempt = Attempt::new().cleans_up();
    attempt
        .store
        .expect_start_attempt()
        .times(1)
        .returning(|_, _| Err(unavailable()));
    let (end, _) = attempt.drive(claimed(PLAN, 1)).await;
    assert_eq!(code(&end), "database.unavailable");
}

#[tokio::test]
async fn a_gateway_that_does_not_open_is_told() {
    let mut attempt = Attempt::new().starts().cleans_up();
    attempt.gateway.expect_open().times(1).returning(|_| {
        Err(GatewayError {
            action: "create",
            directory: "/run/fabrica/x".into(),
            source: std::io::ErrorKind::PermissionDenied.into(),
        })
    });
    assert_eq!(
        code(&attempt.drive(claimed(PLAN, 1)).await.0),
        "gateway.unavailable"
    );
}

#[tokio::test]
async fn what_the_engine_refuses_is_told_and_cleaned_up() {
    let reasons: [fn() -> RuntimeError; 4] = [
        || RuntimeError::ImageMissing {
            reference: "x".into(),
            reason: "not found".into(),
        },
        || RuntimeError::Unsupported {
            engine: "podman".into(),
            capability: "the memory limit".into(),
        },
        || RuntimeError::AlreadyExists {
            name: ContainerName::from_engine("x"),
            difference: "the image".into(),
        },
        engine_down,
    ];
    for reason in reasons {
        let mut attempt = Attempt::new().starts().opens().cleans_up();
        attempt
            .runtime
            .expect_ensure()
            .times(1)
            .returning(move |_| Err(reason()));
        let (end, messages) = attempt.drive(claimed(PLAN, 1)).await;
        assert_eq!(code(&end), reason().code());
        assert_eq!(messages[0].content.metadata["code"], reason().code());
    }
}

#[tokio::test]
async fn an_engine_that_stays_away_loses_the_attempt() {
    let mut attempt = Attempt::new().starts().opens().cleans_up();
    attempt
        .runtime
        .expect_ensure()
        .returning(|_| Ok(Ensured::Started));
    attempt.runtime.expect_observe().returning(|_| Err(engine_down()));
    assert_eq!(
        code(&attempt.drive(claimed(PLAN, 1)).await.0),
        "engine.unavailable"
    );
}

#[tokio::test]
async fn an_engine_that_comes_back_is_waited_for() {
    let mut attempt = Attempt::new().starts().opens().cleans_up();
    attempt
        .runtime
        .expect_ensure()
        .returning(|_| Ok(Ensured::Started));
    let asked = AtomicUsize::new(0);
    attempt
        .runtime
        .expect_observe()
        .returning(move |_| match asked.fetch_add(1, Ordering::SeqCst) {
            0 => Err(engine_down()),
            _ => Ok(Observation::Exited {
                code: 3,
                out_of_memory: false,
                reason: String::new(),
            }),
        });
    attempt
        .runtime
        .expect_log_tail()
        .returning(|_, _| Ok(vec!["last words".into()]));
    let (end, messages) = attempt.drive(claimed(PLAN, 1)).await;
    assert_eq!(code(&end), "sandbox.died");
    assert_eq!(messages[0].content.metadata["diagnosis"][0], "last words");
}

#[tokio::test(start_paused = true)]
async fn a_container_that_cannot_be_removed_at_once_is_removed_later() {
    let mut attempt = Attempt::new().starts().opens();
    attempt.gateway.expect_close().times(1).returning(|_| Ok(()));
    attempt.runtime.expect_ensure().returning(|_| Err(engine_down()));
    let asked = AtomicUsize::new(0);
    attempt
        .runtime
        .expect_remove()
        .times(3)
        .returning(move |_| match asked.fetch_add(1, Ordering::SeqCst) {
            0 | 1 => Err(engine_down()),
            _ => Ok(()),
        });
    attempt.drive(claimed(PLAN, 1)).await;
}

#[tokio::test]
async fn the_containers_of_earlier_attempts_are_removed_first() {
    let mut attempt = Attempt::new().starts();
    let mut order = mockall::Sequence::new();
    for number in [1, 2, 3] {
        let fence = Fence {
            session: session_id(),
            attempt: crate::ids::AttemptNumber::new(number),
            lease: LeaseNumber::new(1),
        };
        attempt
            .gateway
            .expect_close()
            .times(1)
            .withf(move |known| *known == fence)
            .returning(|_| Ok(()));
        attempt
            .runtime
            .expect_remove()
            .times(1)
            .in_sequence(&mut order)
            .withf(move |name| *name == ContainerName::of(fence))
            .returning(|_| Ok(()));
    }
    attempt = attempt.opens();
    attempt.runtime.expect_ensure().returning(|_| Err(engine_down()));
    attempt.drive(claimed(PLAN, 3)).await;
}

/// A session whose work is done and recorded.
fn unpublished() -> Claimed {
    let result = serde_json::json!({
        "summary": "Done.",
        "pushed": {"branch": "fabrica/x", "base": "main", "head": "abc", "commits": 1, "subjects": ["One"]},
    });
    Claimed {
        reported: Some(result),
        ..claimed(PLAN, 1)
    }
}

#[tokio::test]
async fn a_recorded_result_is_only_published() {
    // The mocks of runtime and gateway expect no call at all.
    let mut attempt = Attempt::new();
    attempt
        .forge
        .expect_publish()
        .times(1)
        .returning(|_| Ok(Publication::PullRequest(request("https://x/7"))));
    attempt
        .store
        .expect_set_pull_request()
        .times(1)
        .returning(|_, _| Ok(()));
    let (end, messages) = attempt.drive(unpublished()).await;
    assert_eq!(end, AttemptEnd::Completed { heard: 0 });
    assert_eq!(messages[0].content.metadata["prUrl"], "https://x/7");
}

#[tokio::test(start_paused = true)]
async fn a_forge_that_refuses_fails_the_session_and_says_that_the_work_is_pushed() {
    for (error, times) in [("denied", 1), ("unavailable", 4)] {
        let mut attempt = Attempt::new();
        attempt.forge.expect_publish().times(times).returning(move |_| {
            Err(if error == "denied" {
                ForgeError::Denied("401".into())
            } else {
                ForgeError::Unavailable {
                    message: "503".into(),
                    source: None,
                }
            })
        });
        let (end, messages) = attempt.drive(unpublished()).await;
        assert_eq!(code(&end), format!("forge.{error}"));
        assert_eq!(messages[0].content.metadata["branch"], "fabrica/x");
    }
}

#[tokio::test(start_paused = true)]
async fn a_forge_that_recovers_is_asked_again() {
    let mut attempt = Attempt::new();
    let asked = AtomicUsize::new(0);
    attempt
        .forge
        .expect_publish()
        .times(3)
        .returning(move |_| match asked.fetch_add(1, Ordering::SeqCst) {
            0 | 1 => Err(ForgeError::Unavailable {
                message: "502".into(),
                source: None,
            }),
            _ => Ok(Publication::PullRequest(request("https://x/7"))),
        });
    attempt
        .store
        .expect_set_pull_request()
        .times(1)
        .returning(|_, _| Ok(()));
    assert_eq!(
        attempt.drive(unpublished()).await.0,
        AttemptEnd::Completed { heard: 0 }
    );
}

#[tokio::test]
async fn a_pull_request_that_cannot_be_stored_does_not_complete_the_session() {
    let mut attempt = Attempt::new();
    attempt
        .forge
        .expect_publish()
        .returning(|_| Ok(Publication::PullRequest(request("https://x/7"))));
    attempt
        .store
        .expect_set_pull_request()
        .returning(|_, _| Err(unavailable()));
    let (end, _) = attempt
        .drive(Claimed {
            max_attempts: 2,
            ..unpublished()
        })
        .await;
    assert!(matches!(end, AttemptEnd::Lost { .. }), "{end:?}");
}

#[tokio::test(start_paused = true)]
async fn the_end_is_stored_once_the_database_is_back() {
    let mut store = MockStore::new();
    store
        .expect_renew_leases()
        .returning(|_, fences, _| Ok(fences.to_vec()));
    let asked = AtomicUsize::new(0);
    store.expect_finish_attempt().times(3).returning(move |_, _, _| {
        match asked.fetch_add(1, Ordering::SeqCst) {
            0 | 1 => Err(unavailable()),
            _ => Ok(SessionStatus::Failed),
        }
    });
    let plan = claimed("---\nrepo: [\n---\nx", 1);
    Attempt::run(
        store,
        MockContainerRuntime::new(),
        MockGateway::new(),
        MockForge::new(),
        plan,
    )
    .await;
}

#[tokio::test]
async fn an_attempt_that_is_fenced_off_writes_nothing_more() {
    // Neither its container nor its directory is touched: they may be another owner's by now.
    let mut attempt = Attempt::new().lets_go();
    attempt
        .store
        .expect_start_attempt()
        .returning(|fence, _| Err(StoreError::Fenced(fence)));
    attempt.store.expect_finish_attempt().never();
    let Attempt {
        store,
        runtime,
        gateway,
        forge,
    } = attempt;
    let driven = Attempt::run(store, runtime, gateway, forge, claimed(PLAN, 1)).await;
    assert_eq!(driven, Driven::Settled);
}
