//! From the clone to the code host, before the commits that need it.

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use fabrica_core::failure::Failure;
use hyper::StatusCode;
use serde::{Deserialize, Serialize};

use super::kept;
use super::pointer::{MAX_POINTER, Object, parse};
use crate::distrusted;
use crate::gateway::{Gateway, GatewayError, Service};
use crate::repository::{Checkout, Git, args, refused};
use crate::upload::Upload;

/// How long the list of a range's small files may be.
const MAX_LIST: usize = 64 * 1024 * 1024;
/// How many of them are read at once.
const READ: usize = 5_000;
/// How many objects are asked for at once, as git-lfs does it.
const ASKED: usize = 100;
/// How long the line before a file's content is.
const LINE: usize = 128;

/// Uploads the content of files in Git LFS. The runner speaks to the gateway itself, so that its token is in no other
/// process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Uploader<'a> {
    pub(crate) git: &'a Git,
    pub(crate) gateway: &'a Gateway,
    pub(crate) checkout: &'a Checkout,
}

/// What the gateway is asked, as the batch API of Git LFS has it.
#[derive(Serialize)]
struct Question<'a> {
    operation: &'static str,
    transfers: [&'static str; 1],
    objects: &'a [Object],
    hash_algo: &'static str,
}

#[derive(Deserialize)]
struct Answer {
    objects: Vec<Answered>,
}

#[derive(Deserialize)]
struct Answered {
    #[serde(flatten)]
    object: Object,
    #[serde(default)]
    actions: Option<Actions>,
    #[serde(default)]
    error: Option<Refusal>,
}

/// Where it is to be put is known: at the gateway.
#[derive(Deserialize)]
struct Actions {
    #[serde(default)]
    upload: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Refusal {
    code: u16,
    message: String,
}

/// What a refusal of the gateway says.
#[derive(Deserialize)]
struct Words {
    message: String,
}

impl Uploader<'_> {
    /// Puts what a commit keeps in Git LFS to where its code host has it, but for what leads to the commits in `without`.
    /// What is in neither place is returned as words for people: the host decides whether it takes such a commit.
    pub(crate) async fn upload(&self, commit: &str, without: &[&str]) -> Result<Option<String>, Failure> {
        if self.git.large_files().is_none() || !kept(self.git, &self.checkout.directory, commit).await {
            return Ok(None);
        }
        let mut missing = Vec::new();
        for objects in self.objects(commit, without).await?.chunks(ASKED) {
            for object in self.needed(objects).await? {
                match self.open(&object) {
                    Some(content) => self.store(&object, content).await?,
                    None => missing.push(object.oid),
                }
            }
        }
        Ok(missing.first().map(|first| {
            let count = missing.len();
            format!("{count} files in Git LFS that the work points to are neither in the sandbox nor on the git host, such as {first}")
        }))
    }

    /// What the pointers in a range lead to.
    async fn objects(&self, commit: &str, without: &[&str]) -> Result<Vec<Object>, Failure> {
        let inside = || self.git.inside(&self.checkout.directory);
        let mut listing = args!(inside(), "rev-list", "--objects", "--no-object-names");
        listing
            .args([
                "--filter=object:type=blob",
                &format!("--filter=blob:limit={}", MAX_POINTER + 1),
            ])
            .args(["--filter-provided-objects", commit, "--not"])
            .args(without);
        let listing = self.git.exchange(listing, Vec::new(), MAX_LIST).await?;
        let names: Vec<&[u8]> = listing
            .split(|byte| *byte == b'\n')
            .filter(|name| !name.is_empty())
            .collect();
        let (mut found, mut seen) = (Vec::new(), HashSet::new());
        for names in names.chunks(READ) {
            let mut names = names.join(&b'\n');
            names.push(b'\n');
            let limit = READ * (MAX_POINTER + LINE);
            let contents = self
                .git
                .exchange(args!(inside(), "cat-file", "--batch"), names, limit)
                .await?;
            for content in files(&contents) {
                if let Some(object) = parse(content)
                    && seen.insert(object.clone())
                {
                    found.push(object);
                }
            }
        }
        Ok(found)
    }

    /// Those that the code host does not have.
    async fn needed(&self, objects: &[Object]) -> Result<Vec<Object>, Failure> {
        let question = Question {
            operation: "upload",
            transfers: ["basic"],
            objects,
            hash_algo: "sha256",
        };
        let unclear = |error| failed(&GatewayError::Unreadable(error));
        let question = serde_json::to_vec(&question).map_err(unclear)?;
        let answer = self
            .gateway
            .large_files(question)
            .await
            .map_err(|error| failed(&error))?;
        let answer: Answer = serde_json::from_slice(&answer).map_err(unclear)?;
        let mut needed = Vec::new();
        for answered in answer.objects {
            if let Some(refusal) = answered.error {
                return Err(failed(&GatewayError::Refused {
                    status: StatusCode::from_u16(refusal.code).unwrap_or(StatusCode::BAD_GATEWAY),
                    code: Some("large_files.refused".to_owned()),
                    text: refusal.message,
                }));
            }
            let wanted = answered.actions.is_some_and(|actions| actions.upload.is_some());
            // Only what was asked for: the rest of an answer names no files here.
            if wanted && objects.contains(&answered.object) {
                needed.push(answered.object);
            }
        }
        Ok(needed)
    }

    /// The content, where git-lfs keeps it. The agent may have put anything there: the gateway looks whether it is what its
    /// name says.
    fn open(&self, object: &Object) -> Option<Upload> {
        let name = object.oid.as_str();
        let place: PathBuf = [".git", "lfs", "objects", &name[..2], &name[2..4], name]
            .iter()
            .collect();
        let file = distrusted::open(&self.checkout.directory.join(place)).ok()?;
        let whole = file.metadata().is_ok_and(|found| found.len() == object.size);
        let content = |file| -> io::Result<Upload> { Upload::with_file(Vec::new(), Arc::new(file)) };
        whole.then(|| content(file).ok()).flatten()
    }

    async fn store(&self, object: &Object, content: Upload) -> Result<(), Failure> {
        self.gateway
            .store_large_file(&object.oid, object.size, content)
            .await
            .map_err(|error| failed(&error))
    }
}

/// The contents in what `cat-file --batch` writes: a line with name, kind and length before each, and an end of line behind.
fn files(mut batch: &[u8]) -> Vec<&[u8]> {
    let mut files = Vec::new();
    while let Some(end) = batch.iter().position(|byte| *byte == b'\n') {
        let line = &batch[..end];
        batch = &batch[end + 1..];
        let length = line.rsplit(|byte| *byte == b' ').next();
        let length = length.and_then(|length| std::str::from_utf8(length).ok()?.parse::<usize>().ok());
        // What is missing has a line only.
        let Some(length) = length else { continue };
        let Some(content) = batch.get(..length) else { break };
        files.push(content);
        batch = batch.get(length + 1..).unwrap_or_default();
    }
    files
}

/// What went wrong, in the gateway's words.
fn failed(error: &GatewayError) -> Failure {
    if let GatewayError::Refused { status, code, text } = error
        && let Ok(Words { message }) = serde_json::from_str(text)
    {
        let (status, code) = (*status, code.clone());
        return refused(
            &GatewayError::Refused {
                status,
                code,
                text: message,
            },
            Service::ReceivePack,
        );
    }
    refused(error, Service::ReceivePack)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_cut_at_their_lengths() {
        let batch = b"0a blob 5\nhel\no\n0b missing\n0c blob 0\n\n0d blob 3\nabc\n";
        assert_eq!(files(batch), [&b"hel\no"[..], b"", b"abc"]);
        assert_eq!(files(b"0a blob 500\ncut"), [&b""[..]; 0]);
    }

    #[test]
    fn the_gateways_words_stand_without_their_wrapping() {
        let error = GatewayError::Refused {
            status: StatusCode::UNPROCESSABLE_ENTITY,
            code: Some("large_files.refused".into()),
            text: r#"{"message": "fabrica: the host takes no more (large_files.refused)"}"#.into(),
        };
        let failure = failed(&error);
        assert_eq!(failure.cause, "the host takes no more (large_files.refused)");
        assert!(failure.code == "large_files.refused" && !failure.retryable);
    }
}
