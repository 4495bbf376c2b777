//! Files in Git LFS of a repository on this machine: where git-lfs itself keeps them, below `lfs/objects`.

use std::io;
use std::path::{Path, PathBuf};

use ::http::StatusCode;
use ::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use fabrica_core::clock::{Entropy as _, SystemEntropy};
use tokio::fs::{self, File};
use tokio_util::io::{ReaderStream, StreamReader};

use super::batch::{Action, Actions, Answered, Object, ObjectError, ObjectId, Operation, Question};
use super::{content, malformed};
use crate::access::Session;
use crate::git::body::{self, DataStream};
use crate::git::not_found;
use crate::listener::until_ended;
use crate::refusal::Refusal;

/// What there is to do with objects.
pub(super) async fn find(repository: &Path, question: &Question) -> Result<Vec<Answered>, Refusal> {
    let storage = storage(repository).await?;
    let mut found = Vec::with_capacity(question.objects.len());
    for object in &question.objects {
        let there = is_there(&storage, object).await;
        let here = Some(Action::default());
        let (actions, error) = match (question.operation, there) {
            (Operation::Download, true) => (
                Some(Actions {
                    download: here,
                    ..Actions::default()
                }),
                None,
            ),
            (Operation::Download, false) => {
                let message = "the repository does not have this object".to_owned();
                (None, Some(ObjectError { code: 404, message }))
            }
            (Operation::Upload, true) => (None, None),
            (Operation::Upload, false) => (
                Some(Actions {
                    upload: here,
                    ..Actions::default()
                }),
                None,
            ),
        };
        found.push(Answered {
            oid: object.oid.clone(),
            size: object.size,
            actions,
            error,
        });
    }
    Ok(found)
}

/// The content of an object.
pub(super) async fn download(
    session: &Session,
    repository: &Path,
    object: &Object,
) -> Result<Response, Refusal> {
    let storage = storage(repository).await?;
    if !is_there(&storage, object).await {
        let detail = format!(
            "fabrica: the repository does not have the object {} of Git LFS",
            object.oid
        );
        return Err(Refusal::new(
            StatusCode::NOT_FOUND,
            "large_files.not_found",
            detail,
        ));
    }
    let file = File::open(place(&storage, &object.oid))
        .await
        .map_err(|error| unusable(&error))?;
    let content = ReaderStream::with_capacity(file, 64 * 1024);
    let headers = [
        (CONTENT_TYPE, "application/octet-stream".to_owned()),
        (CONTENT_LENGTH, object.size.to_string()),
    ];
    Ok((headers, Body::from_stream(until_ended(content, &session.ended))).into_response())
}

/// Puts an object there, unless it is there already. Under its name it is complete, or not there.
pub(super) async fn upload(repository: &Path, object: &Object, stream: DataStream) -> Result<(), Refusal> {
    let storage = storage(repository).await?;
    if is_there(&storage, object).await {
        body::drain(stream).await;
        return Ok(());
    }
    let partial = Partial::new(&storage);
    let place = place(&storage, &object.oid);
    let written = async {
        for directory in [partial.0.parent(), place.parent()].into_iter().flatten() {
            fs::create_dir_all(directory).await?;
        }
        let mut file = File::create_new(&partial.0).await?;
        tokio::io::copy(&mut StreamReader::new(stream), &mut file).await?;
        file.sync_all().await?;
        fs::rename(&partial.0, &place).await
    };
    written.await.map_err(|error| {
        if content::is_wrong(&error) {
            malformed("its content is not what its name says")
        } else {
            unusable(&error)
        }
    })
}

/// A file that is removed unless it was given its name.
struct Partial(PathBuf);

impl Partial {
    fn new(storage: &Path) -> Self {
        let mut name = [0; 8];
        SystemEntropy.fill(&mut name);
        Self(
            storage
                .join("tmp")
                .join(format!("fabrica-{:016x}", u64::from_ne_bytes(name))),
        )
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // It is gone already if all went well.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The directory of git-lfs in a repository, with or without a working tree.
async fn storage(repository: &Path) -> Result<PathBuf, Refusal> {
    let repository = fs::canonicalize(repository)
        .await
        .map_err(|_| not_found(&repository.display().to_string()))?;
    let inner = repository.join(".git");
    let git_directory = if fs::metadata(&inner).await.is_ok_and(|found| found.is_dir()) {
        inner
    } else {
        repository
    };
    Ok(git_directory.join("lfs"))
}

fn place(storage: &Path, object: &ObjectId) -> PathBuf {
    let name = object.as_str();
    storage
        .join("objects")
        .join(&name[..2])
        .join(&name[2..4])
        .join(name)
}

async fn is_there(storage: &Path, object: &Object) -> bool {
    let found = fs::symlink_metadata(place(storage, &object.oid)).await;
    found.is_ok_and(|found| found.is_file() && found.len() == object.size)
}

fn unusable(error: &io::Error) -> Refusal {
    tracing::warn!(%error, "the files in Git LFS of a repository on this machine cannot be used");
    Refusal::new(
        StatusCode::BAD_GATEWAY,
        "large_files.unreachable",
        "fabrica: the repository's files in Git LFS cannot be read or written on Fabrica's machine",
    )
}
