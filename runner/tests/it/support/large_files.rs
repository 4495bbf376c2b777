//! Git LFS as the gateway has it: the batch API, and content behind it.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const MEDIA_TYPE: &str = "application/vnd.git-lfs+json";

/// The name of some content.
pub(crate) fn oid(content: &str) -> String {
    format!(
        "{:x}",
        Bytes::copy_from_slice(&Sha256::digest(content.as_bytes()))
    )
}

/// What a commit has in the place of some content.
pub(crate) fn pointer(content: &str) -> String {
    format!(
        "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n",
        oid(content),
        content.len()
    )
}

/// Content by repository and name.
#[derive(Debug, Default)]
pub(crate) struct LargeFiles {
    kept: Mutex<HashMap<(String, String), Vec<u8>>>,
    /// Whether nothing more is taken.
    full: Mutex<bool>,
    asked: AtomicUsize,
}

impl LargeFiles {
    /// Keeps some content for a repository, such as `repository.git`.
    pub(crate) fn keep(&self, repository: &str, content: &str) {
        let key = (repository.to_owned(), oid(content));
        self.kept.lock().unwrap().insert(key, content.as_bytes().to_vec());
    }

    /// Whether it is kept.
    pub(crate) fn has(&self, repository: &str, content: &str) -> bool {
        let key = (repository.to_owned(), oid(content));
        self.kept.lock().unwrap().contains_key(&key)
    }

    /// How often it was asked where objects are.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// Takes nothing more.
    pub(crate) fn fill(&self) {
        *self.full.lock().unwrap() = true;
    }

    /// Serves a request below a repository's `info/lfs/objects`, to somebody who may upload or not.
    pub(crate) async fn serve(&self, request: Request, may_upload: bool) -> Response {
        let (parts, body) = request.into_parts();
        let host = parts.headers[header::HOST].to_str().unwrap().to_owned();
        let path = parts.uri.path().to_owned();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        let inner = path.strip_prefix("/git/").unwrap();
        let (repository, name) = inner.split_once("/info/lfs/objects/").unwrap();
        if parts.method == Method::POST {
            assert_eq!(name, "batch");
            let question: Value = serde_json::from_slice(&body).unwrap();
            let upload = question["operation"] == "upload";
            if upload && !may_upload {
                return refuse(StatusCode::FORBIDDEN, "gateway.token_not_allowed", "no");
            }
            let base = format!("http://{host}{}", path.strip_suffix("/batch").unwrap());
            return self.batch(repository, &question, upload, &base);
        }
        let key = (repository.to_owned(), name.to_owned());
        let mut kept = self.kept.lock().unwrap();
        match parts.method {
            Method::GET => kept[&key].clone().into_response(),
            Method::PUT if *self.full.lock().unwrap() => {
                let words = "fabrica: the host has no room left (large_files.refused)";
                refuse(StatusCode::UNPROCESSABLE_ENTITY, "large_files.refused", words)
            }
            Method::PUT => {
                assert!(may_upload);
                let length = parts.headers[header::CONTENT_LENGTH].to_str().unwrap();
                assert_eq!(parts.uri.query(), Some(format!("size={length}").as_str()));
                assert_eq!(oid(std::str::from_utf8(&body).unwrap()), name);
                kept.insert(key, body.to_vec());
                StatusCode::OK.into_response()
            }
            _ => StatusCode::METHOD_NOT_ALLOWED.into_response(),
        }
    }

    fn batch(&self, repository: &str, question: &Value, upload: bool, base: &str) -> Response {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let kept = self.kept.lock().unwrap();
        let answered = |object: &Value| {
            let name = object["oid"].as_str().unwrap().to_owned();
            let there = kept.contains_key(&(repository.to_owned(), name.clone()));
            let action = json!({"href": format!("{base}/{name}?size={}", object["size"])});
            let mut answered = object.clone();
            match (upload, there) {
                (false, true) => answered["actions"] = json!({"download": action}),
                (true, false) => answered["actions"] = json!({"upload": action}),
                (true, true) => {}
                (false, false) => answered["error"] = json!({"code": 404, "message": "fabrica: it is gone"}),
            }
            answered
        };
        let objects: Vec<Value> = question["objects"]
            .as_array()
            .unwrap()
            .iter()
            .map(answered)
            .collect();
        let answer = json!({"transfer": "basic", "objects": objects, "hash_algo": "sha256"});
        (
            [(header::CONTENT_TYPE, MEDIA_TYPE)],
            Body::from(answer.to_string()),
        )
            .into_response()
    }
}

fn refuse(status: StatusCode, code: &'static str, words: &str) -> Response {
    let headers = [("content-type", MEDIA_TYPE), ("x-fabrica-code", code)];
    (status, headers, json!({"message": words}).to_string()).into_response()
}
