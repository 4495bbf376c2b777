//! A stub forge: enough of the REST APIs of GitHub and of Gitea/Forgejo to open a pull request.

mod gitea;
mod github;
mod page;
mod pulls;

use std::{
    collections::{BTreeSet, VecDeque},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{OriginalUri, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;

pub use self::pulls::{PullRequest, PullRequestState};
use super::{
    ledger::{Ledger, locked},
    repository::BareRepository,
};

/// The longest body that is read.
const LONGEST_BODY: usize = 4 * 1024 * 1024;

/// Which API a request spoke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForgeFlavour {
    /// GitHub's, below `/api/v3` as at an enterprise server.
    GitHub,
    /// Gitea's and Forgejo's, below `/api/v1`.
    Gitea,
}

/// A request to the forge's API.
#[derive(Debug, Clone, PartialEq)]
pub struct ForgeRequest {
    /// The API.
    pub flavour: ForgeFlavour,
    /// The method.
    pub method: String,
    /// The path with its query, for instance `/api/v3/user`.
    pub path: String,
    /// The `Authorization` header, which is not hidden.
    pub authorization: Option<String>,
    /// The body, or null where it was not JSON.
    pub body: Value,
    /// The status of the answer, once it has begun.
    pub status: Option<u16>,
}

/// An outage of the forge: what the next request meets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForgeFault {
    /// The status of the answer.
    pub status: u16,
    /// Headers of the answer, such as `retry-after`.
    pub headers: Vec<(String, String)>,
    /// Whether the request takes effect all the same, so that only its answer is lost.
    pub takes_effect: bool,
}

/// A forge that knows the bare repositories of a directory. Its clones share its state.
#[derive(Debug, Clone)]
pub struct StubForge(Arc<Forge>);

#[derive(Debug)]
struct Forge {
    root: PathBuf,
    token: SecretString,
    /// Whose review may be asked for; nobody listed means everybody.
    collaborators: BTreeSet<String>,
    /// The repositories' labels; a label's id is its place, counted from 1.
    labels: Mutex<Vec<String>>,
    pulls: Mutex<Vec<PullRequest>>,
    faults: Mutex<VecDeque<ForgeFault>>,
    requests: Ledger<ForgeRequest>,
}

impl StubForge {
    pub(super) fn new(
        root: &Path,
        token: SecretString,
        labels: Vec<String>,
        collaborators: BTreeSet<String>,
    ) -> Self {
        Self(Arc::new(Forge {
            root: root.to_owned(),
            token,
            collaborators,
            labels: Mutex::new(labels),
            pulls: Mutex::default(),
            faults: Mutex::default(),
            requests: Ledger::default(),
        }))
    }

    /// All requests so far, in the order of their arrival.
    pub fn requests(&self) -> Vec<ForgeRequest> {
        self.0.requests.entries()
    }

    /// Waits until at least `count` requests have arrived.
    pub async fn requests_reach(&self, count: usize) {
        self.0.requests.reaches(count).await;
    }

    /// The pull requests, in the order in which they were opened.
    pub fn pull_requests(&self) -> Vec<PullRequest> {
        locked(&self.0.pulls).clone()
    }

    /// Lets the next request of an accepted token meet `fault`; several faults wait their turn.
    pub fn inject(&self, fault: ForgeFault) {
        locked(&self.0.faults).push_back(fault);
    }

    /// Both APIs, and a page for each pull request.
    pub(super) fn router(&self, base_url: &str) -> Router {
        let github = self.guarded(ForgeFlavour::GitHub, github::router(self, base_url));
        let gitea = self.guarded(ForgeFlavour::Gitea, gitea::router(self, base_url));
        page::router(self).nest("/api/v3", github).nest("/api/v1", gitea)
    }

    fn guarded(&self, flavour: ForgeFlavour, router: Router) -> Router {
        let guard = Guard {
            forge: self.clone(),
            flavour,
        };
        router.layer(middleware::from_fn_with_state(guard, admit))
    }

    fn repository(&self, owner: &str, name: &str) -> Option<BareRepository> {
        let repository = BareRepository::at(&self.0.root, &format!("{owner}/{name}")).ok()?;
        repository.exists().then_some(repository)
    }

    fn may_review(&self, name: &str) -> bool {
        self.0.collaborators.is_empty() || self.0.collaborators.contains(name)
    }
}

#[derive(Debug, Clone)]
struct Guard {
    forge: StubForge,
    flavour: ForgeFlavour,
}

/// Records every request, lets only the token in, and plays the outages.
async fn admit(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(bytes) = to_bytes(body, LONGEST_BODY).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let uri = parts
        .extensions
        .get::<OriginalUri>()
        .map_or(&parts.uri, |original| &original.0);
    let authorization = parts.headers.get(header::AUTHORIZATION);
    let index = guard.forge.0.requests.push(ForgeRequest {
        flavour: guard.flavour,
        method: parts.method.to_string(),
        path: uri
            .path_and_query()
            .map_or(uri.path(), |path| path.as_str())
            .to_owned(),
        authorization: authorization.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()),
        body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        status: None,
    });
    let response = match guard.refusal(&parts.headers, parts.uri.path()) {
        Some(refusal) => refusal,
        None => {
            guard
                .play(Request::from_parts(parts, Body::from(bytes)), next)
                .await
        }
    };
    guard
        .forge
        .0
        .requests
        .amend(index, |request| request.status = Some(response.status().as_u16()));
    response
}

impl Guard {
    fn refusal(&self, headers: &HeaderMap, path: &str) -> Option<Response> {
        let given = headers.get(header::AUTHORIZATION);
        let token = given.and_then(|value| value.to_str().ok()).and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            ["bearer", "token"]
                .contains(&scheme.to_ascii_lowercase().as_str())
                .then_some(token)
        });
        if token.is_some_and(|token| token == self.forge.0.token.expose_secret()) {
            return None;
        }
        match self.flavour {
            ForgeFlavour::GitHub => Some(github::unauthorised(given.is_some())),
            ForgeFlavour::Gitea => gitea::unauthorised(given.is_some(), path),
        }
    }

    async fn play(&self, request: Request, next: Next) -> Response {
        let Some(fault) = locked(&self.forge.0.faults).pop_front() else {
            return next.run(request).await;
        };
        if fault.takes_effect {
            // Its answer is what gets lost.
            let _ = next.run(request).await;
        }
        let status = StatusCode::from_u16(fault.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (
            status,
            axum::Json(serde_json::json!({"message": "a rehearsed outage"})),
        )
            .into_response();
        for (name, value) in &fault.headers {
            let name = HeaderName::try_from(name.as_str());
            if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value.as_str())) {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }
}
