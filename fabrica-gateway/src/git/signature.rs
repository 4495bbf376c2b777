//! `POST /git/signature`: the signature of a commit, made with a key that no sandbox ever has.
//!
//! Git asks for it, in the agent's hands or in the runner's, so everyone with a token may. What [`Commit`] does not let
//! pass is not signed.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use fabrica_core::ports::SinkError;
use fabrica_core::protocol::{Identity, MAX_SIGNED_BYTES};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};

use super::refused;
use crate::access::Session;
use crate::memory::{self, Unread};
use crate::refusal::Refusal;
use crate::signing::{Commit, Objection};

pub(super) async fn sign(State(session): State<Arc<Session>>, headers: HeaderMap, body: Body) -> Response {
    match answer(&session, &headers, body).await {
        Ok(signature) => {
            let headers = [
                (CONTENT_TYPE, "text/plain; charset=utf-8"),
                (CACHE_CONTROL, "no-store"),
            ];
            (headers, signature).into_response()
        }
        Err(refusal) => refused(&session, refusal),
    }
}

async fn answer(session: &Session, headers: &HeaderMap, body: Body) -> Result<String, Refusal> {
    // Once for the bytes, once for what is made of them.
    let held = memory::hold(session, headers, body, MAX_SIGNED_BYTES, 2).await;
    let held = held.map_err(unread)?;
    let Some(key) = &session.services.signing_key else {
        return Err(Refusal::forbidden(
            "signing.not_configured",
            "fabrica: this Fabrica has no key to sign with",
        ));
    };
    let committer = &session.job.committer;
    let commit = Commit::read(&held.content)
        .and_then(|commit| (commit.is_by(committer).then_some(commit)).ok_or(Objection::Committer))
        .map_err(|objection| objected(objection, committer))?;
    // A signature cannot be taken back: an attempt that is over gets none.
    session.sink.authorize().await.map_err(|error| stale(&error))?;
    let signature = key.sign(&held.content).map_err(|error| {
        tracing::error!(session = %session.fence, %error, "a commit cannot be signed");
        Refusal::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "signing.failed",
            "fabrica: the signature cannot be made; Fabrica's log says why",
        )
    })?;
    tracing::info!(session = %session.fence, tree = commit.tree, "a commit was signed");
    Ok(signature)
}

fn unread(reason: Unread) -> Refusal {
    match reason {
        Unread::Stalled => memory::stalled(),
        Unread::Unfit => Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "signing.too_large",
            format!(
                "fabrica: the commit is incomplete or has more than {MAX_SIGNED_BYTES} bytes without its files"
            ),
        ),
    }
}

fn objected(objection: Objection, committer: &Identity) -> Refusal {
    match objection {
        Objection::Tag => Refusal::forbidden(
            "signing.tag_refused",
            "fabrica: tags are not signed, only commits are; make the tag without a signature",
        ),
        Objection::Signed => Refusal::forbidden(
            "signing.signed_already",
            "fabrica: the commit has a signature already; one is enough",
        ),
        Objection::Committer => Refusal::forbidden(
            "signing.committer_refused",
            format!(
                "fabrica: only commits by {} <{}> are signed: leave the committer as it is set, and name others as the author",
                committer.name, committer.email
            ),
        ),
        Objection::NotACommit(why) => Refusal::forbidden(
            "signing.not_a_commit",
            format!("fabrica: only commits are signed, and this is none: {why}"),
        ),
    }
}

/// An attempt that is over, or of which that cannot be said now.
fn stale(error: &SinkError) -> Refusal {
    match error {
        SinkError::Fenced => Refusal::new(
            StatusCode::CONFLICT,
            "session.fenced",
            format!("fabrica: {error}"),
        ),
        _ => Refusal::for_now(
            "session.unavailable",
            "fabrica: whether this attempt may still sign cannot be found out now; ask again",
        ),
    }
}
