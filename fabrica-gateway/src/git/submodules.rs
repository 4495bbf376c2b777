//! `/git/submodules/1.git` and so on: the repositories that the plan lists as submodules, for fetching.

use std::sync::Arc;

use axum::Router;
use axum::extract::{OriginalUri, Path, RawQuery, Request, State};
use axum::response::Response;
use axum::routing::{any, get, post};
use http::StatusCode;

use super::large_files::{Asked, no_locks};
use super::{Ask, Service, Target, advertise, fetch, refuse};
use crate::access::Session;
use crate::refusal::{Area, Refusal};

pub(super) fn router() -> Router<Arc<Session>> {
    Router::new()
        .route("/info/refs", get(info_refs))
        .route("/git-upload-pack", post(upload_pack))
        .route("/git-receive-pack", post(refuse_push))
        .route("/info/lfs/objects/batch", post(large_file_batch))
        .route("/info/lfs/objects/{object}", get(large_file))
        .route("/info/lfs/locks", any(no_locks))
        .route("/info/lfs/locks/{*rest}", any(no_locks))
        .method_not_allowed_fallback(refuse)
        .fallback(refuse)
}

async fn info_refs(
    State(session): State<Arc<Session>>,
    Path(name): Path<String>,
    request: Request,
) -> Response {
    match request.uri().query() {
        Some("service=git-upload-pack") => {}
        Some("service=git-receive-pack") => return refuse_push().await,
        _ => return refuse().await,
    }
    let ask = Ask {
        session: &session,
        service: Service::UploadPack,
        headers: request.headers(),
    };
    match find(&session, &name) {
        Some(target) => advertise(target, &ask).await,
        None => unknown(),
    }
}

async fn upload_pack(
    State(session): State<Arc<Session>>,
    Path(name): Path<String>,
    request: Request,
) -> Response {
    match find(&session, &name) {
        Some(target) => fetch(&session, target, request).await,
        None => unknown(),
    }
}

async fn large_file_batch(
    State(session): State<Arc<Session>>,
    Path(name): Path<String>,
    OriginalUri(at): OriginalUri,
    request: Request,
) -> Response {
    match large_files_of(&session, &name) {
        Some(asked) => asked.batch(&at, request).await,
        None => unknown(),
    }
}

async fn large_file(
    State(session): State<Arc<Session>>,
    Path((name, object)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Response {
    match large_files_of(&session, &name) {
        Some(asked) => asked.download(&object, query.as_deref()).await,
        None => unknown(),
    }
}

fn large_files_of<'a>(session: &'a Session, name: &str) -> Option<Asked<'a>> {
    let target = find(session, name)?;
    Some(Asked {
        session,
        target,
        uploads: false,
    })
}

/// The name is a number from 1, as the plan lists them, and `.git`.
fn find<'a>(session: &'a Session, name: &str) -> Option<&'a Target> {
    let mut numbered = (1..).zip(&session.submodules);
    numbered.find_map(|(number, target): (usize, _)| (name == format!("{number}.git")).then_some(target))
}

/// Whoever asks: the work of a session is the branch of its own repository.
async fn refuse_push() -> Response {
    Refusal::forbidden(
        "push.submodule_refused",
        "fabrica: submodules are there to be fetched; nothing is pushed to them. Change them with a plan of their own",
    )
    .in_area(Area::Git)
}

fn unknown() -> Response {
    Refusal::new(
        StatusCode::NOT_FOUND,
        "repository.not_listed",
        "fabrica: the plan lists no such submodule: add its address to `submodules`",
    )
    .in_area(Area::Git)
}
