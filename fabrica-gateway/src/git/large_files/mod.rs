//! `/git/….git/info/lfs/…`: the files that a repository keeps in Git LFS, over its
//! [batch API](https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md) with basic transfers.
//!
//! Code hosts send clients elsewhere for the content, with credentials in the address or beside it. Neither reaches the
//! sandbox: what it is told leads back here, and the gateway goes where the host said. Only the runner uploads, and only to
//! the plan's own repository; what an object is called is the SHA-256 of its content, so nothing is ever overwritten.

mod batch;
mod content;
mod http;
mod local;
mod remembered;

use std::sync::Arc;

use ::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST};
use ::http::{HeaderMap, StatusCode, Uri};
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};

use self::batch::{
    ALGORITHM, Action, Actions, Answer, Answered, Object, ObjectId, Operation, Question, TRANSFER,
};
pub(super) use self::remembered::Remembered;
use super::{Target, body, stale_upload};
use crate::access::{Role, Session, wrong_role};
use crate::memory::{self, Unread};
use crate::refusal::Refusal;

/// The media type of the batch API.
const MEDIA_TYPE: &str = "application/vnd.git-lfs+json";
/// The longest question. Clients ask for 100 objects at once.
const MAX_QUESTION: usize = 512 * 1024;
/// The most objects in a question.
const MOST_OBJECTS: usize = 1000;
/// How many times its size a question takes in memory until it is answered.
const COPIES: usize = 4;

/// Whose request it is, and to which repository.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) session: &'a Session,
    pub(super) target: &'a Target,
    /// Whether objects may be uploaded.
    pub(super) uploads: bool,
}

impl<'a> Asked<'a> {
    /// A request to the plan's repository.
    pub(super) fn repository(session: &'a Session, role: Role) -> Self {
        Self {
            session,
            target: &session.target,
            uploads: role == Role::Runner,
        }
    }

    /// `POST …/info/lfs/objects/batch`.
    pub(super) async fn batch(self, at: &Uri, request: Request) -> Response {
        answered(self.answer(at, request).await)
    }

    /// `GET …/info/lfs/objects/{object}?size=…`.
    pub(super) async fn download(self, object: &str, query: Option<&str>) -> Response {
        answered(self.give(object, query).await)
    }

    /// `PUT …/info/lfs/objects/{object}?size=…`.
    pub(super) async fn upload(self, object: &str, query: Option<&str>, request: Request) -> Response {
        answered(self.take(object, query, request).await)
    }

    async fn answer(self, at: &Uri, request: Request) -> Result<Response, Refusal> {
        let (parts, content) = request.into_parts();
        let question = self.question(&parts.headers, content).await?;
        if question.operation == Operation::Upload {
            self.may_upload().await?;
        }
        let operation = question.operation;
        let question = Question::new(operation, question.objects, &self.session.job.branch);
        let objects = match self.target {
            Target::Http(repository) => repository.large_files(self.session, &question).await?,
            Target::Local(path) => local::find(path, &question).await?,
        };
        let base = base(&parts.headers, at)?;
        let objects = objects
            .into_iter()
            .map(|object| ours(object, operation, &base))
            .collect();
        let answer = Answer {
            transfer: Some(TRANSFER.to_owned()),
            objects,
            hash_algo: Some(ALGORITHM.to_owned()),
        };
        let text =
            serde_json::to_string(&answer).map_err(|_| not_understood("its answer cannot be written"))?;
        Ok(([(CONTENT_TYPE, MEDIA_TYPE)], text).into_response())
    }

    async fn question(self, headers: &HeaderMap, content: Body) -> Result<Question, Refusal> {
        let held = memory::hold(self.session, headers, content, MAX_QUESTION, COPIES).await;
        let held = held.map_err(|unread| match unread {
            Unread::Stalled => memory::stalled(),
            Unread::Unfit => malformed(&format!("it is incomplete or has more than {MAX_QUESTION} bytes")),
        })?;
        let question: Question =
            serde_json::from_slice(&held.content).map_err(|error| malformed(&error.to_string()))?;
        let known =
            |wanted: &Option<String>, name: &str| wanted.as_deref().is_none_or(|wanted| wanted == name);
        if !known(&question.hash_algo, ALGORITHM) {
            return Err(malformed("its objects are not named by SHA-256"));
        }
        if question.objects.len() > MOST_OBJECTS {
            return Err(malformed(&format!("it names more than {MOST_OBJECTS} objects")));
        }
        Ok(question)
    }

    async fn give(self, object: &str, query: Option<&str>) -> Result<Response, Refusal> {
        let object = named(object, query)?;
        match self.target {
            Target::Http(repository) => repository.download(self.session, &object).await,
            Target::Local(path) => local::download(self.session, path, &object).await,
        }
    }

    async fn take(self, object: &str, query: Option<&str>, request: Request) -> Result<Response, Refusal> {
        let object = named(object, query)?;
        let (parts, content) = request.into_parts();
        let length = (parts.headers.get(CONTENT_LENGTH)).and_then(|value| value.to_str().ok()?.parse().ok());
        if length != Some(object.size) {
            return Err(malformed("the length of its content is not the object's size"));
        }
        self.may_upload().await?;
        let content = content::verified(body::plain(content, &HeaderMap::new()), &object);
        let content = body::guarded(content, Arc::clone(&self.session.sink));
        match self.target {
            Target::Http(repository) => repository.upload(self.session, &object, content).await?,
            Target::Local(path) => local::upload(path, &object, content).await?,
        }
        Ok(StatusCode::OK.into_response())
    }

    /// Whether the attempt may still change something, asked before anything is.
    async fn may_upload(self) -> Result<(), Refusal> {
        if !self.uploads {
            return Err(wrong_role());
        }
        self.session
            .sink
            .authorize()
            .await
            .map_err(|error| stale_upload(&error))
    }
}

/// The file locks of LFS, which nothing here needs: clients take the status to mean that the server has none.
pub(super) async fn no_locks() -> Response {
    let detail = "fabrica: the gateway knows no file locks of Git LFS";
    Refusal::new(StatusCode::NOT_FOUND, "large_files.no_locks", detail).into_lfs()
}

fn answered(outcome: Result<Response, Refusal>) -> Response {
    outcome.unwrap_or_else(Refusal::into_lfs)
}

/// What the sandbox is told instead of what the code host said.
fn ours(object: Answered, operation: Operation, base: &str) -> Answered {
    let here = || Action {
        href: format!("{base}/{}?size={}", object.oid, object.size),
        ..Action::default()
    };
    let actions = object.actions.as_ref().map(|actions| match operation {
        Operation::Download => Actions {
            download: actions.download.is_some().then(here),
            ..Actions::default()
        },
        Operation::Upload => Actions {
            upload: actions.upload.is_some().then(here),
            ..Actions::default()
        },
    });
    // `authenticated` is left out: clients then show us the token as they did before, in whichever way that was.
    Answered { actions, ..object }
}

/// Where the sandbox reaches the objects: as it reached the batch API.
fn base(headers: &HeaderMap, at: &Uri) -> Result<String, Refusal> {
    let host = headers.get(HOST).and_then(|value| value.to_str().ok());
    match (host, at.path().strip_suffix("/batch")) {
        (Some(host), Some(path)) => Ok(format!("http://{host}{path}")),
        _ => Err(malformed("it does not say whom it asks")),
    }
}

/// The object that an address names.
fn named(object: &str, query: Option<&str>) -> Result<Object, Refusal> {
    let oid = ObjectId::try_from(object.to_owned()).map_err(malformed)?;
    let size = query.and_then(|query| query.strip_prefix("size=")?.parse().ok());
    let size = size.ok_or_else(|| malformed("its address does not say the object's size"))?;
    Ok(Object { oid, size })
}

fn malformed(problem: &str) -> Refusal {
    Refusal::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "large_files.malformed",
        format!("fabrica: the request for files in Git LFS cannot be served: {problem}"),
    )
}

fn not_understood(problem: &str) -> Refusal {
    Refusal::new(
        StatusCode::BAD_GATEWAY,
        "large_files.not_understood",
        format!("fabrica: the code host's Git LFS cannot be used: {problem}"),
    )
}
