//! A server on loopback, and what calls it.

use std::net::SocketAddr;
use std::sync::Arc;

use fabrica_core::ids::WorkerId;
use fabrica_core::orchestrator::{Options, Orchestrator};
use fabrica_core::ports::store::Store;
use fabrica_core::secrets::TokenHash;
use fabrica_core::testing::{FakeSandbox, FakeStore};
use fabrica_server::{AppState, BoundedListener, HostPolicy, router};
use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::Value;
use tokio::net::TcpListener;

pub(crate) const TOKEN: &str = "the-token-of-these-tests";
pub(crate) const PLAN: &str =
    "---\nrepo: https://example.com/acme/app.git\n---\n# Say hello\n\nIn the README.\n";

pub(crate) struct Rig {
    pub(crate) address: SocketAddr,
    pub(crate) orchestrator: Orchestrator,
    client: Client,
}

impl Rig {
    pub(crate) async fn start() -> Self {
        Self::with_store(Arc::new(FakeStore::default())).await
    }

    pub(crate) async fn with_store(store: Arc<dyn Store>) -> Self {
        Self::over(store, FakeSandbox::that_completes()).await
    }

    pub(crate) async fn over(store: Arc<dyn Store>, sandbox: FakeSandbox) -> Self {
        let orchestrator = orchestrator(store, sandbox);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let api = router(state(&orchestrator));
        tokio::spawn(axum::serve(BoundedListener::new(listener), api).into_future());
        Self {
            address,
            orchestrator,
            client: client(),
        }
    }

    /// A request without a token.
    pub(crate) fn anonymous(&self, method: Method, path: &str) -> RequestBuilder {
        self.client
            .request(method, format!("http://{}{path}", self.address))
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.anonymous(method, path).bearer_auth(TOKEN)
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.request(Method::GET, path).send().await.unwrap()
    }

    pub(crate) fn post_plan(&self, plan: impl Into<reqwest::Body>) -> RequestBuilder {
        self.request(Method::POST, "/run")
            .header("content-type", "text/markdown")
            .body(plan)
    }

    /// Submits the plan and returns its session's id.
    pub(crate) async fn submit(&self) -> String {
        let answer = self.post_plan(PLAN).send().await.unwrap();
        assert_eq!(answer.status(), 202);
        let answer: Value = answer.json().await.unwrap();
        answer["sessionId"].as_str().unwrap().to_owned()
    }
}

pub(crate) fn client() -> Client {
    // An error means that another test was faster.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().no_proxy().build().unwrap()
}

pub(crate) fn orchestrator(store: Arc<dyn Store>, sandbox: FakeSandbox) -> Orchestrator {
    let sandbox = Arc::new(sandbox);
    let options = Options::new(WorkerId::new("test"), "/usr/lib/fabrica/fabrica-runner");
    Orchestrator::builder(store, sandbox.clone(), sandbox, options).build()
}

pub(crate) fn state(orchestrator: &Orchestrator) -> AppState {
    let hosts = HostPolicy::new("127.0.0.1:0", ["fabrica.example.com"]).unwrap();
    AppState::new(orchestrator.clone(), TokenHash::of(TOKEN), hosts)
}

/// Checks that an answer is a problem document, and returns it.
pub(crate) async fn problem(answer: Response, status: u16, code: &str) -> Value {
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    assert!(answer.headers().contains_key("x-request-id"));
    let got = answer.status();
    let problem: Value = answer.json().await.unwrap();
    assert_eq!(
        (got.as_u16(), problem["code"].as_str()),
        (status, Some(code)),
        "{problem}"
    );
    assert_eq!(problem["status"], status);
    assert_eq!(problem["type"], format!("urn:fabrica:problem:{code}"));
    for member in ["title", "detail", "hint"] {
        assert!(
            problem[member].as_str().is_some_and(|text| !text.is_empty()),
            "{member} of {problem}"
        );
    }
    problem
}
