//! `/git/repository.git`: git's smart HTTP protocol, for the plan's repository only. Everyone with a token may fetch;
//! only the runner may push, and only what [`push`] lets pass. `/git/submodules/1.git` and so on are the further
//! repositories that the plan lists: these are fetched from, and nobody pushes to them. Below each, `info/lfs` leads to the
//! files that it keeps in Git LFS. `/git/signature` signs commits.

mod body;
mod large_files;
mod local;
mod packet;
mod push;
mod report;
mod signature;
mod submodules;
mod upstream;

use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{OriginalUri, Path, RawQuery, Request, State};
use axum::response::Response;
use axum::routing::{any, get, post};
use axum::{Extension, Router};
use fabrica_core::plan::Repository;
use fabrica_core::ports::SinkError;
use http::header::CONTENT_ENCODING;
use http::{HeaderMap, StatusCode};

use self::large_files::Asked;
use self::push::{Allowed, PushRequest, Reason};
use self::upstream::HttpRepository;
use crate::access::{Role, Session, wrong_role};
use crate::options::GitCredentials;
use crate::refusal::{Area, Refusal};

/// Where a repository really is.
#[derive(Debug)]
pub(crate) enum Target {
    Http(HttpRepository),
    Local(PathBuf),
}

impl Target {
    pub(crate) fn new(repository: &Repository, credentials: &GitCredentials) -> Self {
        match repository {
            Repository::Http(url) | Repository::Ssh { https: url, .. } => {
                let credential = repository
                    .authority()
                    .and_then(|authority| credentials.get(&authority).cloned());
                Self::Http(HttpRepository::new(url.clone(), credential))
            }
            Repository::Local(path) => Self::Local(path.clone()),
        }
    }
}

/// The two halves of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Service {
    /// What `git fetch` and `git clone` talk to.
    UploadPack,
    /// What `git push` talks to.
    ReceivePack,
}

impl Service {
    const fn name(self) -> &'static str {
        match self {
            Self::UploadPack => "git-upload-pack",
            Self::ReceivePack => "git-receive-pack",
        }
    }
}

/// A request to the repository, past all checks.
#[derive(Debug)]
struct Ask<'a> {
    session: &'a Session,
    service: Service,
    headers: &'a HeaderMap,
}

pub(crate) fn router() -> Router<Arc<Session>> {
    Router::new()
        .route("/repository.git/info/refs", get(info_refs))
        .route("/repository.git/git-upload-pack", post(upload_pack))
        .route("/repository.git/git-receive-pack", post(receive_pack))
        .route("/repository.git/info/lfs/objects/batch", post(large_file_batch))
        .route(
            "/repository.git/info/lfs/objects/{object}",
            get(large_file).put(store_large_file),
        )
        .route("/repository.git/info/lfs/locks", any(large_files::no_locks))
        .route(
            "/repository.git/info/lfs/locks/{*rest}",
            any(large_files::no_locks),
        )
        .nest("/submodules/{name}", submodules::router())
        .route("/signature", post(signature::sign))
        .method_not_allowed_fallback(refuse)
        .fallback(refuse)
}

pub(crate) async fn refuse() -> Response {
    Refusal::forbidden(
        "git.path_refused",
        "fabrica: the gateway serves the plan's repository only, at /git/repository.git, and its submodules, over the smart HTTP protocol",
    )
    .in_area(Area::Git)
}

async fn info_refs(
    State(session): State<Arc<Session>>,
    Extension(role): Extension<Role>,
    request: Request,
) -> Response {
    let service = match request.uri().query() {
        Some("service=git-upload-pack") => Service::UploadPack,
        Some("service=git-receive-pack") => Service::ReceivePack,
        _ => return refuse().await,
    };
    if service == Service::ReceivePack && role != Role::Runner {
        return wrong_role().in_area(Area::Git);
    }
    let ask = Ask {
        session: &session,
        service,
        headers: request.headers(),
    };
    advertise(&session.target, &ask).await
}

/// What a repository has.
async fn advertise(target: &Target, ask: &Ask<'_>) -> Response {
    match target {
        Target::Http(repository) => repository.info_refs(ask).await,
        Target::Local(path) => local::info_refs(ask, path).await,
    }
    .unwrap_or_else(|refusal| refused(ask.session, refusal))
}

async fn upload_pack(State(session): State<Arc<Session>>, request: Request) -> Response {
    fetch(&session, &session.target, request).await
}

/// Hands out what a fetch asks for.
async fn fetch(session: &Session, target: &Target, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let ask = Ask {
        session,
        service: Service::UploadPack,
        headers: &parts.headers,
    };
    match target {
        // A compressed body is passed on as it is.
        Target::Http(repository) => {
            repository
                .call(&ask, body.into_data_stream(), &parts.headers)
                .await
        }
        Target::Local(path) => local::call(&ask, path, body::plain(body, &parts.headers)).await,
    }
    .unwrap_or_else(|refusal| refused(session, refusal))
}

async fn receive_pack(
    State(session): State<Arc<Session>>,
    Extension(role): Extension<Role>,
    request: Request,
) -> Response {
    if role != Role::Runner {
        return wrong_role().in_area(Area::Git);
    }
    let (parts, body) = request.into_parts();
    push(&session, parts.headers, body)
        .await
        .unwrap_or_else(|refusal| refused(&session, refusal))
}

async fn large_file_batch(
    State(session): State<Arc<Session>>,
    Extension(role): Extension<Role>,
    OriginalUri(at): OriginalUri,
    request: Request,
) -> Response {
    Asked::repository(&session, role).batch(&at, request).await
}

async fn large_file(
    State(session): State<Arc<Session>>,
    Extension(role): Extension<Role>,
    Path(object): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    Asked::repository(&session, role)
        .download(&object, query.as_deref())
        .await
}

async fn store_large_file(
    State(session): State<Arc<Session>>,
    Extension(role): Extension<Role>,
    Path(object): Path<String>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Response {
    Asked::repository(&session, role)
        .upload(&object, query.as_deref(), request)
        .await
}

/// Reads what the push wants to change, and only then, and only if all of it is allowed, lets it through.
async fn push(session: &Session, mut headers: HeaderMap, body: Body) -> Result<Response, Refusal> {
    let compressed = headers.contains_key(CONTENT_ENCODING);
    let (prelude, rest) = body::split_prelude(body::plain(body, &headers)).await?;
    if compressed {
        // It was uncompressed to be read, and goes on like that.
        headers.remove(CONTENT_ENCODING);
        headers.remove(http::header::CONTENT_LENGTH);
    }
    if prelude.request.commands.is_empty() {
        // Before a large push, git sends an empty one to see whether it is let in.
        body::drain(rest).await;
        return Ok(report::empty());
    }
    let allowed = Allowed::of(session);
    if let Err(reason) = allowed.check(&prelude.request) {
        tracing::warn!(session = %session.fence, code = reason.code, "a push was refused");
        body::drain(rest).await;
        return Ok(report::refusal(&prelude.request, &reason));
    }
    let ask = Ask {
        session,
        service: Service::ReceivePack,
        headers: &headers,
    };
    // The last look before something happens that cannot be taken back.
    if let Err(error) = session.sink.authorize().await {
        tracing::warn!(session = %session.fence, %error, "a push was not let out");
        // git hears the answer only after it has sent everything.
        body::drain(rest).await;
        return stale(&error, &prelude.request);
    }
    let whole = body::guarded(body::rejoin(prelude.bytes, rest), Arc::clone(&session.sink));
    match &session.target {
        Target::Http(repository) => repository.call(&ask, whole, &headers).await,
        Target::Local(path) => local::call(&ask, path, whole).await,
    }
}

/// A push of an attempt that is over, or of which that cannot be said now.
fn stale(error: &SinkError, request: &PushRequest) -> Result<Response, Refusal> {
    match error {
        SinkError::Fenced => {
            let reason = Reason {
                code: "session.fenced",
                sentence: error.to_string(),
            };
            Ok(report::refusal(request, &reason))
        }
        _ => Err(unknown()),
    }
}

/// The same where no git listens: a file of a large size.
fn stale_upload(error: &SinkError) -> Refusal {
    match error {
        SinkError::Fenced => Refusal::new(StatusCode::CONFLICT, "session.fenced", error.to_string()),
        _ => unknown(),
    }
}

fn unknown() -> Refusal {
    Refusal::for_now(
        "session.unavailable",
        "fabrica: whether this attempt may still push cannot be found out now; push again",
    )
}

fn refused(session: &Session, refusal: Refusal) -> Response {
    tracing::info!(session = %session.fence, code = refusal.code, "a git request failed");
    refusal.in_area(Area::Git)
}

fn not_found(what: &str) -> Refusal {
    Refusal::new(
        StatusCode::NOT_FOUND,
        "repository.not_found",
        format!("fabrica: the repository {what} is not there, or is hidden from Fabrica's credential"),
    )
}
