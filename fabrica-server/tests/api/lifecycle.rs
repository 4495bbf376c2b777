//! From the start to a graceful end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fabrica_core::orchestrator::{Orchestrator, Submission};
use fabrica_core::ports::store::StoreError;
use fabrica_core::session::SessionStatus;
use fabrica_core::testing::{FakeSandbox, FakeStore, MockStore, Script, ScriptEnd};
use fabrica_server::{Drain, ServerError, Service, serve};
use futures::StreamExt as _;
use futures::channel::mpsc;
use reqwest::Method;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::support::{PLAN, TOKEN, client, orchestrator, state};

const SOON: Duration = Duration::from_secs(10);

struct Running {
    address: SocketAddr,
    orchestrator: Orchestrator,
    stop: mpsc::UnboundedSender<()>,
    task: JoinHandle<Result<(), ServerError>>,
}

impl Running {
    async fn start(sandbox: FakeSandbox, drain: Drain) -> Self {
        let orchestrator = orchestrator(Arc::new(FakeStore::default()), sandbox);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stops) = mpsc::unbounded();
        let service = Service {
            listener,
            state: state(&orchestrator),
            drain,
        };
        let task = tokio::spawn(serve(service, stops.chain(futures::stream::pending())));
        Self {
            address,
            orchestrator,
            stop,
            task,
        }
    }

    async fn submit(&self) -> fabrica_core::ids::SessionId {
        let request = client()
            .request(Method::POST, format!("http://{}/run", self.address))
            .bearer_auth(TOKEN);
        let answer: Value = request.body(PLAN).send().await.unwrap().json().await.unwrap();
        answer["sessionId"].as_str().unwrap().parse().unwrap()
    }

    async fn reaches(&self, session: fabrica_core::ids::SessionId, status: SessionStatus) {
        let reached = async {
            while self
                .orchestrator
                .store()
                .session(session)
                .await
                .unwrap()
                .unwrap()
                .status
                != status
            {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(SOON, reached)
            .await
            .unwrap_or_else(|_| panic!("the session does not become {status}"));
    }

    /// Waits until the session's sandbox has reported: from then on there is something to hand over.
    async fn works(&self, session: fabrica_core::ids::SessionId) {
        let reported = async {
            while self
                .orchestrator
                .store()
                .messages(session, 1, 10)
                .await
                .unwrap()
                .is_empty()
            {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(SOON, reported).await.expect("the sandbox reports");
    }

    async fn ends(self) -> Result<(), ServerError> {
        timeout(SOON, self.task).await.expect("the server ends").unwrap()
    }
}

/// A sandbox whose agent works until it is stopped.
fn endless() -> FakeSandbox {
    FakeSandbox::new(|job| Script {
        end: ScriptEnd::WaitForStop(Vec::new()),
        events: Script::completes(job).events[..1].to_vec(),
    })
}

#[tokio::test]
async fn a_submitted_plan_is_worked_on_to_its_end() {
    let server = Running::start(FakeSandbox::that_completes(), Drain::Handover).await;
    let session = server.submit().await;
    server.reaches(session, SessionStatus::Completed).await;
    server.stop.unbounded_send(()).unwrap();
    let address = server.address;
    server.ends().await.unwrap();
    assert!(
        client()
            .get(format!("http://{address}/health"))
            .send()
            .await
            .is_err(),
        "nobody listens any more"
    );
}

#[tokio::test]
async fn a_request_to_stop_leaves_what_runs_to_the_next_process() {
    let server = Running::start(endless(), Drain::Handover).await;
    let session = server.submit().await;
    server.works(session).await;
    server.stop.unbounded_send(()).unwrap();
    let store = server.orchestrator.store().clone();
    server.ends().await.unwrap();
    let row = store.session(session).await.unwrap().unwrap();
    assert_eq!((row.status, row.worker), (SessionStatus::Running, None));
    assert_eq!(row.attempt.get(), 1);
}

#[tokio::test]
async fn a_server_that_finishes_waits_for_what_runs_and_takes_nothing_more() {
    let server = Running::start(endless(), Drain::Finish).await;
    let session = server.submit().await;
    server.reaches(session, SessionStatus::Running).await;
    server.stop.unbounded_send(()).unwrap();
    let later = server.orchestrator.submit(Submission::new(PLAN)).await.unwrap();
    server.orchestrator.cancel(session).await.unwrap();
    let store = server.orchestrator.store().clone();
    server.ends().await.unwrap();
    let status = |id| {
        let store = store.clone();
        async move { store.session(id).await.unwrap().unwrap().status }
    };
    assert_eq!(status(session).await, SessionStatus::Cancelled);
    assert_eq!(status(later.session()).await, SessionStatus::Pending);
}

#[tokio::test]
async fn a_second_request_to_stop_does_not_wait_for_what_runs() {
    let server = Running::start(endless(), Drain::Finish).await;
    let session = server.submit().await;
    server.works(session).await;
    server.stop.unbounded_send(()).unwrap();
    server.stop.unbounded_send(()).unwrap();
    let store = server.orchestrator.store().clone();
    server.ends().await.unwrap();
    let row = store.session(session).await.unwrap().unwrap();
    assert_eq!((row.status, row.worker), (SessionStatus::Running, None));
}

#[tokio::test]
async fn a_worker_that_ends_ends_the_server_with_an_error() {
    let mut store = MockStore::new();
    store.expect_subscribe().returning(|| {
        Err(StoreError::Unavailable {
            message: "gone".into(),
            source: None,
        })
    });
    let orchestrator = orchestrator(Arc::new(store), FakeSandbox::that_completes());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let service = Service {
        listener,
        state: state(&orchestrator),
        drain: Drain::default(),
    };
    let ended = timeout(SOON, serve(service, futures::stream::pending()))
        .await
        .expect("the server ends");
    assert_eq!(ended.unwrap_err().code(), "database.unavailable");
}

#[tokio::test]
async fn a_worker_that_panics_ends_the_server_with_an_error() {
    // A mock without expectations panics when it is called.
    let orchestrator = orchestrator(Arc::new(MockStore::new()), FakeSandbox::that_completes());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let service = Service {
        listener,
        state: state(&orchestrator),
        drain: Drain::default(),
    };
    let ended = timeout(SOON, serve(service, futures::stream::pending()))
        .await
        .expect("the server ends");
    assert_eq!(ended.unwrap_err().code(), "server.worker_ended");
}
