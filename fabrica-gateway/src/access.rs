//! Who may ask for what: the state of one attempt's access, and the check of every request's token.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fabrica_core::ids::Fence;
use fabrica_core::ports::{GatewayAccess, SessionSink};
use fabrica_core::protocol::Job;
use fabrica_core::secrets::TokenHash;
use http::header::{AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION};
use http::{HeaderMap, StatusCode};
use subtle::{Choice, ConstantTimeEq as _};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::client::HttpClient;
use crate::git::Target;
use crate::memory::BodyMemory;
use crate::options::{GitCredentials, ModelUpstream};
use crate::refusal::{Area, Refusal};
use crate::signing::SigningKey;

const API_KEY: &str = "x-api-key";

/// What all sessions share.
#[derive(Debug)]
pub(crate) struct Services {
    pub(crate) client: HttpClient,
    pub(crate) model: ModelUpstream,
    pub(crate) git: GitCredentials,
    pub(crate) signing_key: Option<SigningKey>,
    /// What all sandboxes together may have in memory.
    pub(crate) bodies: BodyMemory,
}

/// The access of one attempt.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) fence: Fence,
    runner_token: TokenHash,
    agent_token: TokenHash,
    pub(crate) job: Job,
    pub(crate) sink: Arc<dyn SessionSink>,
    pub(crate) target: Target,
    /// The plan's submodules, for fetching only.
    pub(crate) submodules: Vec<Target>,
    pub(crate) services: Arc<Services>,
    /// What this sandbox may have in memory.
    pub(crate) bodies: BodyMemory,
    /// What tells the sink what answers of the model used.
    pub(crate) counting: TaskTracker,
    /// Cancelled when this process serves the attempt no longer.
    pub(crate) ended: CancellationToken,
    /// Whether the attempt itself is over. Without it, another process may go on with the sandbox: then nothing may tell
    /// the runner that its token is worth nothing, since it would stop for good.
    over: AtomicBool,
}

/// Whose token a request carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Runner,
    Agent,
}

impl Session {
    pub(crate) fn new(
        access: GatewayAccess,
        services: Arc<Services>,
        ended: CancellationToken,
        bodies: BodyMemory,
    ) -> Self {
        let target = Target::new(&access.repository, &services.git);
        let submodules = (access.submodules.iter())
            .map(|submodule| Target::new(submodule, &services.git))
            .collect();
        Self {
            fence: access.fence,
            runner_token: access.runner_token,
            agent_token: access.agent_token,
            job: access.job,
            sink: access.sink,
            target,
            submodules,
            services,
            bodies,
            counting: TaskTracker::new(),
            ended,
            over: AtomicBool::new(false),
        }
    }

    /// Whether this access belongs to a later attempt, or to the same one under a later lease.
    pub(crate) fn is_later_than(&self, fence: Fence) -> bool {
        (self.fence.attempt, self.fence.lease) > (fence.attempt, fence.lease)
    }

    /// Ends the access because the attempt is over.
    pub(crate) fn revoke(&self) {
        self.over.store(true, Ordering::Release);
        self.ended.cancel();
    }

    /// Ends the access in this process only.
    pub(crate) fn release(&self) {
        self.ended.cancel();
    }

    /// What a request is told after the end, if it hears anything: its connection is cut.
    fn end(&self) -> Refusal {
        if self.over.load(Ordering::Acquire) {
            Refusal::new(
                StatusCode::UNAUTHORIZED,
                "gateway.token_revoked",
                "fabrica: the attempt's access has ended",
            )
        } else {
            Refusal::for_now(
                "gateway.released",
                "fabrica: another process of Fabrica goes on with this session; try again",
            )
        }
    }

    /// Whether this is the access that was asked for already.
    pub(crate) fn answers(&self, access: &GatewayAccess) -> bool {
        self.fence == access.fence
            && self.runner_token == access.runner_token
            && self.agent_token == access.agent_token
    }

    /// Every token that a request shows is compared with both of the session's, in constant time: how long it takes
    /// says nothing about which was nearly right.
    fn role(&self, headers: &HeaderMap) -> Option<Role> {
        let (mut runner, mut agent) = (Choice::from(0), Choice::from(0));
        for token in presented(headers) {
            let hash = TokenHash::of(&token);
            runner |= hash.as_bytes().ct_eq(self.runner_token.as_bytes());
            agent |= hash.as_bytes().ct_eq(self.agent_token.as_bytes());
        }
        if runner.into() {
            Some(Role::Runner)
        } else if agent.into() {
            Some(Role::Agent)
        } else {
            None
        }
    }
}

/// The tokens that a request shows: as a bearer, as an API key, as the password of git.
fn presented(headers: &HeaderMap) -> Vec<String> {
    let keys = headers
        .get_all(API_KEY)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .map(str::to_owned);
    let authorizations = headers.get_all(AUTHORIZATION).iter().filter_map(|value| {
        let (scheme, credential) = value.to_str().ok()?.split_once(' ')?;
        if scheme.eq_ignore_ascii_case("bearer") {
            Some(credential.trim().to_owned())
        } else if scheme.eq_ignore_ascii_case("basic") {
            let decoded = String::from_utf8(STANDARD.decode(credential.trim()).ok()?).ok()?;
            decoded.split_once(':').map(|(_, password)| password.to_owned())
        } else {
            None
        }
    });
    keys.chain(authorizations).collect()
}

/// Lets a request in whose token is one of the session's, without that token, and cuts it when the access ends.
pub(crate) async fn admit(State(session): State<Arc<Session>>, mut request: Request, next: Next) -> Response {
    let area = Area::of(request.uri().path());
    if session.ended.is_cancelled() {
        return session.end().in_area(area);
    }
    // Before the token is looked at: a process that may be stale calls nobody's token invalid.
    if !session.sink.holds_lease() {
        tracing::info!(session = %session.fence, ?area, "a request came while the lease is not known to be held");
        return lease_unknown().in_area(area);
    }
    let Some(role) = session.role(request.headers()) else {
        let shown = !presented(request.headers()).is_empty();
        tracing::info!(session = %session.fence, ?area, shown, "a request without a valid token was refused");
        return unauthorised(shown).in_area(area);
    };
    for name in [AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE] {
        request.headers_mut().remove(name);
    }
    request.headers_mut().remove(API_KEY);
    request.extensions_mut().insert(role);
    tokio::select! {
        biased;
        () = session.ended.cancelled() => session.end().in_area(area),
        response = next.run(request) => response,
    }
}

/// `/session/…` is the runner's alone.
pub(crate) async fn runner_only(request: Request, next: Next) -> Response {
    only(Role::Runner, Area::Session, request, next).await
}

/// `/model/…` is the agent's alone.
pub(crate) async fn agent_only(request: Request, next: Next) -> Response {
    only(Role::Agent, Area::Model, request, next).await
}

async fn only(role: Role, area: Area, request: Request, next: Next) -> Response {
    if request.extensions().get::<Role>() == Some(&role) {
        next.run(request).await
    } else {
        wrong_role().in_area(area)
    }
}

pub(crate) fn wrong_role() -> Refusal {
    Refusal::forbidden(
        "gateway.token_not_allowed",
        "fabrica: this token does not open this part of the gateway",
    )
}

fn unauthorised(shown: bool) -> Refusal {
    let (code, detail) = if shown {
        (
            "gateway.token_refused",
            "fabrica: the token is not, or no longer, one of this session",
        )
    } else {
        (
            "gateway.token_missing",
            "fabrica: the request carries no session token",
        )
    };
    Refusal::new(StatusCode::UNAUTHORIZED, code, detail)
}

fn lease_unknown() -> Refusal {
    Refusal::for_now(
        "gateway.lease_unknown",
        "fabrica: whether Fabrica still owns this session is not known at the moment; try again",
    )
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn tokens_are_found_wherever_clients_put_them() {
        let mut headers = HeaderMap::new();
        headers.append(API_KEY, HeaderValue::from_static("key"));
        headers.append(AUTHORIZATION, HeaderValue::from_static("BEARER bearer"));
        headers.append(
            AUTHORIZATION,
            HeaderValue::from_static("Basic Z2l0OnBhc3M6d29yZA=="),
        );
        headers.append(AUTHORIZATION, HeaderValue::from_static("Digest x"));
        headers.append(AUTHORIZATION, HeaderValue::from_static("Basic ???"));
        headers.append(AUTHORIZATION, HeaderValue::from_bytes(b"Bearer \xff").unwrap());
        assert_eq!(presented(&headers), ["key", "bearer", "pass:word"]);
    }
}
