//! Git LFS: the batch API, and the content where git-lfs keeps it in a bare repository.

use std::io;
use std::path::Path;

use axum::{
    body::to_bytes,
    extract::Request,
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use crate::rehearsal::repository::large_file;

/// The media type of the batch API.
const MEDIA_TYPE: &str = "application/vnd.git-lfs+json";
/// How much is taken in one request: rehearsals have no large files.
const MOST: usize = 64 * 1024 * 1024;

/// Serves a request for what lies below `info/lfs/objects/` of a repository.
pub(super) async fn serve(repository: &Path, inside: &str, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MOST).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    if inside == "batch" && parts.method == Method::POST {
        let base = base(&parts.headers, parts.uri.path());
        return match serde_json::from_slice(&body) {
            Ok(question) => batch(repository, &question, &base),
            Err(error) => (StatusCode::UNPROCESSABLE_ENTITY, error.to_string()).into_response(),
        };
    }
    let Some(place) = large_file(repository, inside) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    match parts.method {
        Method::GET => match std::fs::read(place) {
            Ok(content) => content.into_response(),
            Err(_) => StatusCode::NOT_FOUND.into_response(),
        },
        Method::PUT => match write(&place, &body) {
            Ok(()) => StatusCode::OK.into_response(),
            Err(error) => (StatusCode::INSUFFICIENT_STORAGE, error.to_string()).into_response(),
        },
        _ => StatusCode::METHOD_NOT_ALLOWED.into_response(),
    }
}

fn batch(repository: &Path, question: &Value, base: &str) -> Response {
    let upload = question["operation"] == "upload";
    let answered = |object: &Value| {
        let name = object["oid"].as_str().unwrap_or_default();
        let there = large_file(repository, name).is_some_and(|place| place.is_file());
        let mut answered = object.clone();
        let action = json!({ "href": format!("{base}/{name}") });
        match (upload, there) {
            (true, false) => answered["actions"] = json!({ "upload": action }),
            (false, true) => answered["actions"] = json!({ "download": action }),
            (false, false) => answered["error"] = json!({ "code": 404, "message": "no such object" }),
            (true, true) => {}
        }
        answered
    };
    let objects = question["objects"].as_array().cloned().unwrap_or_default();
    let objects: Vec<Value> = objects.iter().map(answered).collect();
    let answer = json!({ "transfer": "basic", "objects": objects }).to_string();
    ([(header::CONTENT_TYPE, MEDIA_TYPE)], answer).into_response()
}

/// Where a client finds the content: as it found the batch API.
fn base(headers: &HeaderMap, path: &str) -> String {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let path = path.strip_suffix("/batch").unwrap_or(path);
    format!("http://{}{path}", host.unwrap_or_default())
}

fn write(place: &Path, content: &[u8]) -> io::Result<()> {
    if let Some(directory) = place.parent() {
        std::fs::create_dir_all(directory)?;
    }
    std::fs::write(place, content)
}
