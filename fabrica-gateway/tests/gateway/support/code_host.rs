//! A code host: `git http-backend` behind Basic authentication, which keeps what reaches it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::response::Response;
use base64::Engine as _;
use http::StatusCode;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::GIT_SECRET;
use super::large_files::{self, Storage};
use super::upstream::{Ledger, Seen, Server, answer};

/// The host and what it saw.
#[derive(Debug)]
pub(crate) struct CodeHost {
    pub(crate) server: Server,
    pub(crate) seen: Ledger,
    pub(crate) bare: PathBuf,
    /// Where it keeps files in Git LFS.
    pub(crate) storage: Storage,
    _root: tempfile::TempDir,
}

impl CodeHost {
    pub(crate) async fn start() -> Self {
        let root = tempfile::tempdir().unwrap();
        let bare = super::git::bare_repository(root.path()).await;
        let seen = Ledger::default();
        let (directory, kept): (Arc<Path>, _) = (root.path().into(), seen.clone());
        let storage = Storage::start().await;
        let (address, objects) = (storage.server.url.clone(), storage.objects.clone());
        let router = Router::new().fallback(move |request: Request| {
            let (directory, kept) = (directory.clone(), kept.clone());
            let (address, objects) = (address.clone(), objects.clone());
            async move {
                let seen = see(&kept, request).await;
                if !seen.path.contains("/info/lfs/") {
                    return serve(&directory, &seen).await;
                }
                let home = format!("http://{}", seen.header("host").unwrap());
                if trusted(&seen) {
                    large_files::host(&address, &objects, &home, &seen)
                } else {
                    unknown()
                }
            }
        });
        Self {
            server: Server::start(router).await,
            storage,
            seen,
            bare,
            _root: root,
        }
    }

    pub(crate) fn repository(&self) -> String {
        format!("{}/owner/name.git", self.server.url)
    }

    /// The posts of pushes that arrived.
    pub(crate) fn pushes(&self) -> usize {
        let seen = self.seen.lock().unwrap();
        seen.iter()
            .filter(|request| request.path.ends_with("/git-receive-pack"))
            .count()
    }
}

async fn see(kept: &Ledger, request: Request) -> Seen {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap_or_default().to_vec();
    let path = parts.uri.path_and_query().unwrap().to_string();
    let seen = Seen {
        method: parts.method.to_string(),
        path,
        headers: parts.headers,
        body,
    };
    kept.lock().unwrap().push(seen.clone());
    seen
}

fn trusted(seen: &Seen) -> bool {
    let credential = base64::engine::general_purpose::STANDARD.encode(format!("x-access-token:{GIT_SECRET}"));
    seen.header("authorization") == Some(&format!("Basic {credential}"))
}

fn unknown() -> Response {
    answer(401, &[("www-authenticate", "Basic realm=\"host\"")], "no")
}

async fn serve(root: &Path, seen: &Seen) -> Response {
    if !trusted(seen) {
        return unknown();
    }
    if let Some(rest) = seen.path.strip_prefix("/owner/renamed.git") {
        return answer(301, &[("location", &format!("/owner/name.git{rest}"))], "");
    }
    let (path, query) = seen.path.split_once('?').unwrap_or((&seen.path, ""));
    backend(root, seen, path, query).await
}

async fn backend(root: &Path, seen: &Seen, path: &str, query: &str) -> Response {
    let header = |name| seen.header(name).unwrap_or_default();
    let mut child = Command::new("git")
        .arg("http-backend")
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("REMOTE_USER", "fabrica")
        .env("REQUEST_METHOD", &seen.method)
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query)
        .env("CONTENT_TYPE", header("content-type"))
        .env("CONTENT_LENGTH", seen.body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("GIT_PROTOCOL", header("git-protocol"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (mut stdin, body) = (child.stdin.take().unwrap(), seen.body.clone());
    tokio::spawn(async move { stdin.write_all(&body).await });
    let output = child.wait_with_output().await.unwrap().stdout;
    let split = output
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .unwrap();
    let head = std::str::from_utf8(&output[..split]).unwrap();
    let mut response = Response::new(Body::from(output[split + 4..].to_vec()));
    for line in head.split("\r\n") {
        let (name, value) = line.split_once(": ").unwrap();
        if name == "Status" {
            let status = value.split(' ').next().unwrap().parse().unwrap();
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
        } else {
            let name: http::HeaderName = name.parse().unwrap();
            response.headers_mut().insert(name, value.parse().unwrap());
        }
    }
    response
}
