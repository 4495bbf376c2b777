//! A git server over smart HTTP, whose every repository is private.

mod cgi;
mod large_files;

use std::path::{Path, PathBuf};

use axum::{
    extract::Request,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret as _, SecretString};

use super::{error::RehearsalError, git, ledger::Ledger, repository::BareRepository};

/// What a request to the git server wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GitOperation {
    /// Reading, by `git-upload-pack`.
    Fetch,
    /// Writing, by `git-receive-pack`.
    Push,
    /// Anything else.
    Other,
}

/// What credential a request bore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credential {
    /// None.
    Missing,
    /// One that is not the forge token.
    Wrong,
    /// The forge token.
    Accepted,
}

/// A request to the git server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitRequest {
    /// The method.
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// What it wanted.
    pub operation: GitOperation,
    /// How it was authorised.
    pub credential: Credential,
    /// `gzip` where the body was compressed.
    pub content_encoding: Option<String>,
    /// The status of the answer, once it has begun.
    pub status: Option<u16>,
}

/// Serves the bare repositories of a directory through git's own `http-backend`.
///
/// Any user name will do, the password must be the forge token, for fetch and push alike. Hooks of the
/// repositories run. What they keep in Git LFS is served too.
#[derive(Debug, Clone)]
pub struct GitServer {
    root: PathBuf,
    backend: PathBuf,
    token: SecretString,
    requests: Ledger<GitRequest>,
}

impl GitServer {
    /// Finds `http-backend`; the [`CodeHost`](super::CodeHost) listens.
    pub(super) async fn new(root: &Path, token: SecretString) -> Result<Self, RehearsalError> {
        let path = git::run(root, &["--exec-path"], b"").await?;
        let backend = Path::new(String::from_utf8_lossy(&path).trim()).join("git-http-backend");
        Ok(Self {
            root: root.to_owned(),
            backend,
            token,
            requests: Ledger::default(),
        })
    }

    /// All requests so far, in the order of their arrival.
    pub fn requests(&self) -> Vec<GitRequest> {
        self.requests.entries()
    }

    /// Waits until at least `count` requests have arrived.
    pub async fn requests_reach(&self, count: usize) {
        self.requests.reaches(count).await;
    }

    /// Answers one request, whatever its path is.
    pub(super) async fn serve(self, request: Request) -> Response {
        let credential = self.credential(request.headers());
        let content_encoding = request.headers().get(header::CONTENT_ENCODING);
        let index = self.requests.push(GitRequest {
            method: request.method().to_string(),
            path: request.uri().path().to_owned(),
            operation: operation(&request),
            credential,
            content_encoding: content_encoding
                .and_then(|value| value.to_str().ok())
                .map(str::to_owned),
            status: None,
        });
        let response = self.respond(request, credential).await;
        self.requests
            .amend(index, |request| request.status = Some(response.status().as_u16()));
        response
    }

    async fn respond(&self, request: Request, credential: Credential) -> Response {
        if credential != Credential::Accepted {
            let challenge = [(header::WWW_AUTHENTICATE, "Basic realm=\"rehearsal\"")];
            return (StatusCode::UNAUTHORIZED, challenge, "a credential is needed\n").into_response();
        }
        let Some(path) = self.known_path(request.uri().path()) else {
            return (StatusCode::NOT_FOUND, "repository not found\n").into_response();
        };
        if let Some((repository, inside)) = path.split_once("/info/lfs/objects/") {
            let repository = self.root.join(repository.trim_start_matches('/'));
            return large_files::serve(&repository, inside, request).await;
        }
        match cgi::serve(&self.backend, &self.root, &path, request).await {
            Ok(response) => response,
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "git http-backend failed"
                );
                (StatusCode::BAD_GATEWAY, "git http-backend failed\n").into_response()
            }
        }
    }

    /// The path for `http-backend`, if it leads into a repository; `.git` may be left out, as at the forges.
    fn known_path(&self, path: &str) -> Option<String> {
        let mut parts = path.strip_prefix('/')?.splitn(3, '/');
        let (owner, name, inside) = (parts.next()?, parts.next()?, parts.next()?);
        let repository = BareRepository::at(&self.root, &format!("{owner}/{name}")).ok()?;
        let safe = !inside
            .split('/')
            .any(|part| part.is_empty() || part.starts_with('.'));
        let name = name.strip_suffix(".git").unwrap_or(name);
        (safe && repository.exists()).then(|| format!("/{owner}/{name}.git/{inside}"))
    }

    fn credential(&self, headers: &HeaderMap) -> Credential {
        let Some(value) = headers.get(header::AUTHORIZATION) else {
            return Credential::Missing;
        };
        let password = || {
            let (scheme, encoded) = value.to_str().ok()?.split_once(' ')?;
            let decoded = STANDARD.decode(encoded.trim()).ok()?;
            let pair = String::from_utf8(decoded).ok()?;
            let (_, password) = pair.split_once(':')?;
            scheme.eq_ignore_ascii_case("basic").then(|| password.to_owned())
        };
        if password().is_some_and(|password| password == self.token.expose_secret()) {
            Credential::Accepted
        } else {
            Credential::Wrong
        }
    }
}

fn operation(request: &Request) -> GitOperation {
    let service = match request.uri().query() {
        Some(query) => query.strip_prefix("service=").unwrap_or_default(),
        None => request.uri().path().rsplit('/').next().unwrap_or_default(),
    };
    match service {
        "git-upload-pack" => GitOperation::Fetch,
        "git-receive-pack" => GitOperation::Push,
        _ => GitOperation::Other,
    }
}
