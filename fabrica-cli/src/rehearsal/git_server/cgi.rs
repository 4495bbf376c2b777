//! One run of `git http-backend`: a request in, an answer out, neither held in memory.

use std::{io, path::Path, process::Stdio};

use axum::{
    body::{Body, Bytes},
    extract::Request,
    http::{HeaderName, HeaderValue, StatusCode, header, request::Parts},
    response::Response,
};
use futures::{Stream, TryStreamExt as _, stream};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
};
use tokio_util::{io::StreamReader, task::AbortOnDropHandle};

use crate::rehearsal::git;

/// The longest head of an answer.
const LONGEST_HEAD: u64 = 64 * 1024;

/// How much of the answer is read at once.
const CHUNK: usize = 64 * 1024;

/// Runs the program for a request to `path` below `root`.
pub(super) async fn serve(backend: &Path, root: &Path, path: &str, request: Request) -> io::Result<Response> {
    let (parts, body) = request.into_parts();
    let mut child = command(backend, root, path, &parts).spawn()?;
    let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(io::Error::other("the pipes to git http-backend are missing"));
    };
    // What cannot be fed any more, git has not asked for; its answer tells the rest.
    let feeder = AbortOnDropHandle::new(tokio::spawn(async move {
        let _ = feed(body, stdin).await;
    }));
    let mut stdout = BufReader::with_capacity(CHUNK, stdout);
    let mut response = head(&mut stdout).await?;
    *response.body_mut() = Body::from_stream(rest(Running {
        stdout,
        child,
        _feeder: feeder,
    }));
    Ok(response)
}

fn command(backend: &Path, root: &Path, path: &str, parts: &Parts) -> Command {
    let text = |name: HeaderName| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let mut command = git::isolated(backend);
    command
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GATEWAY_INTERFACE", "CGI/1.1")
        .env("REQUEST_METHOD", parts.method.as_str())
        .env("PATH_INFO", path)
        .env("QUERY_STRING", parts.uri.query().unwrap_or_default())
        // Whom receive-pack asks for; without a user it refuses to be written to.
        .env("REMOTE_USER", "rehearsal")
        .env("REMOTE_ADDR", "127.0.0.1");
    let variables = [
        ("CONTENT_TYPE", header::CONTENT_TYPE),
        ("CONTENT_LENGTH", header::CONTENT_LENGTH),
        ("HTTP_CONTENT_ENCODING", header::CONTENT_ENCODING),
        ("HTTP_GIT_PROTOCOL", HeaderName::from_static("git-protocol")),
    ];
    for (variable, name) in variables {
        if let Some(value) = text(name) {
            command.env(variable, value);
        }
    }
    command
        .current_dir(root)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}

async fn feed(body: Body, mut stdin: ChildStdin) -> io::Result<()> {
    let mut body = StreamReader::new(body.into_data_stream().map_err(io::Error::other));
    tokio::io::copy_buf(&mut body, &mut stdin).await?;
    stdin.shutdown().await
}

/// Reads the head: header lines up to an empty one, with the status among them.
async fn head(stdout: &mut BufReader<ChildStdout>) -> io::Result<Response> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "an invalid head of git http-backend");
    let mut response = Response::new(Body::empty());
    let mut lines = stdout.take(LONGEST_HEAD);
    let mut line = String::new();
    loop {
        line.clear();
        if lines.read_line(&mut line).await? == 0 {
            return Err(invalid());
        }
        let text = line.trim_end();
        if text.is_empty() {
            return Ok(response);
        }
        let (name, value) = text.split_once(':').ok_or_else(invalid)?;
        let value = value.trim();
        if name.eq_ignore_ascii_case("status") {
            let code = value.split(' ').next().unwrap_or_default();
            *response.status_mut() = StatusCode::from_bytes(code.as_bytes()).map_err(|_| invalid())?;
        } else {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid())?;
            let value = HeaderValue::from_str(value).map_err(|_| invalid())?;
            response.headers_mut().append(name, value);
        }
    }
}

/// A running program; it ends with the client that waits for it.
struct Running {
    stdout: BufReader<ChildStdout>,
    child: Child,
    _feeder: AbortOnDropHandle<()>,
}

fn rest(running: Running) -> impl Stream<Item = io::Result<Bytes>> {
    stream::try_unfold(running, |mut running| async move {
        let chunk = Bytes::copy_from_slice(running.stdout.fill_buf().await?);
        if chunk.is_empty() {
            running.child.wait().await?;
            return Ok(None);
        }
        running.stdout.consume(chunk.len());
        Ok(Some((chunk, running)))
    })
}
