//! A repository on this machine: git itself answers, as `git http-backend` would let it.
//!
//! The path is the user's, not the sandbox's, and git runs with nothing of the environment, none of the user's
//! configuration, no hooks, and no way to another repository.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::{Stream, StreamExt as _, TryStreamExt as _, future, stream};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdout, Command};
use tokio_util::io::{ReaderStream, StreamReader};
use tokio_util::task::AbortOnDropHandle;

use super::body::DataStream;
use super::{Ask, Service, not_found, packet};
use crate::access::Session;
use crate::listener::until_ended;
use crate::refusal::Refusal;

/// How long git may take to begin with the list of branches.
const PATIENCE: Duration = Duration::from_mins(1);
/// What git is told, whatever the repository's configuration says.
const CONFIGURATION: [&str; 11] = [
    // Fabrica may run as another user than the one who owns the repository; the user named it.
    "safe.directory=*",
    // No program that the repository names runs on the host.
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.alternateRefsCommand=true",
    "receive.denyCurrentBranch=refuse",
    "receive.denyNonFastForwards=true",
    "receive.denyDeletes=true",
    "receive.fsckObjects=true",
    "receive.autogc=false",
    "receive.advertisePushOptions=false",
    "uploadpack.allowFilter=true",
];

/// `GET info/refs`.
pub(super) async fn info_refs(ask: &Ask<'_>, path: &Path) -> Result<Response, Refusal> {
    let mut child = start(ask, path, true).await?;
    drop(child.stdin.take());
    let mut stdout = child
        .stdout
        .take()
        .ok_or_else(|| unavailable("git has no output"))?;
    // An answer with status 200 is only given once git has something to say: it is silent about what is no repository.
    let mut first = vec![0; 8 * 1024];
    let read = tokio::time::timeout(PATIENCE, stdout.read(&mut first))
        .await
        .map_err(|_| unavailable("git does not answer"))?
        .map_err(|_| unavailable("git's output cannot be read"))?;
    if read == 0 {
        finished(ask.session, &mut child).await;
        return Err(not_found(&path.display().to_string()));
    }
    first.truncate(read);
    let mut beginning = Vec::new();
    if version(ask).is_none_or(|version| !version.contains("version=2")) {
        packet::write(
            &mut beginning,
            format!("# service={}\n", ask.service.name()).as_bytes(),
        );
        beginning.extend_from_slice(packet::FLUSH);
    }
    beginning.extend_from_slice(&first);
    let begun = stream::once(future::ready(Ok(Bytes::from(beginning))));
    Ok(answer(
        ask,
        "advertisement",
        begun.chain(output(child, stdout, None)),
    ))
}

/// `POST git-upload-pack` or `git-receive-pack`.
pub(super) async fn call(ask: &Ask<'_>, path: &Path, body: DataStream) -> Result<Response, Refusal> {
    let mut child = start(ask, path, false).await?;
    let mut stdin = child
        .stdin
        .take()
        .ok_or_else(|| unavailable("git has no input"))?;
    let stdout = child
        .stdout
        .take()
        .ok_or_else(|| unavailable("git has no output"))?;
    let feeding = tokio::spawn(async move {
        tokio::io::copy(&mut StreamReader::new(body), &mut stdin).await?;
        stdin.shutdown().await
    });
    Ok(answer(
        ask,
        "result",
        output(child, stdout, Some(AbortOnDropHandle::new(feeding))),
    ))
}

async fn start(ask: &Ask<'_>, path: &Path, advertise: bool) -> Result<Child, Refusal> {
    let shown = path.display().to_string();
    let path: PathBuf = tokio::fs::canonicalize(path)
        .await
        .map_err(|_| not_found(&shown))?;
    let mut command = Command::new("git");
    command
        .env_clear()
        .envs(std::env::var_os("PATH").map(|value| ("PATH", value)))
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_ALLOW_PROTOCOL", "none")
        .env("GIT_NO_LAZY_FETCH", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("LC_ALL", "C");
    if let Some(version) = version(ask) {
        command.env("GIT_PROTOCOL", version);
    }
    for setting in CONFIGURATION {
        command.args(["-c", setting]);
    }
    command
        .arg(ask.service.name().trim_start_matches("git-"))
        .arg("--stateless-rpc");
    if advertise {
        command.arg("--advertise-refs");
    }
    command.arg("--").arg(&path).current_dir("/");
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    command.spawn().map_err(|error| {
        tracing::warn!(session = %ask.session.fence, %error, "git cannot be started");
        unavailable("git cannot be started on Fabrica's machine")
    })
}

/// The version of the protocol that the client asked for: only what git itself would send, only for fetching.
fn version<'a>(ask: &Ask<'a>) -> Option<&'a str> {
    let value = ask.headers.get("git-protocol")?.to_str().ok()?;
    let plain = value.len() <= 100
        && value
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "=:.-_".contains(c));
    (plain && ask.service == Service::UploadPack).then_some(value)
}

/// What git writes. The child is killed, and its feeding stopped, when the stream is dropped before its end.
fn output(
    child: Child,
    stdout: ChildStdout,
    feeding: Option<AbortOnDropHandle<io::Result<()>>>,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let end = stream::once(async move {
        let mut child = child;
        let status = child.wait().await?;
        if let Some(feeding) = feeding {
            // git may answer without reading all that it is sent, which is then an error here and nowhere else.
            feeding.abort();
            let _ = feeding.await;
        }
        if !status.success() {
            // git says what is wrong inside of its answer, and ends like this also after some that are complete.
            tracing::info!(%status, "git ended with an error");
        }
        Ok(Bytes::new())
    });
    ReaderStream::with_capacity(stdout, 64 * 1024)
        .chain(end)
        .try_filter(|bytes| future::ready(!bytes.is_empty()))
}

async fn finished(session: &Session, child: &mut Child) {
    match child.wait().await {
        Ok(status) => tracing::info!(session = %session.fence, %status, "git found no repository"),
        Err(error) => tracing::warn!(session = %session.fence, %error, "git's end was not seen"),
    }
}

fn answer(
    ask: &Ask<'_>,
    kind: &str,
    body: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
) -> Response {
    let mut response = Response::new(Body::from_stream(until_ended(body, &ask.session.ended)));
    let content_type = format!("application/x-{}-{kind}", ask.service.name());
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&content_type) {
        headers.insert(CONTENT_TYPE, value);
    }
    headers.insert(
        CACHE_CONTROL,
        HeaderValue::from_static("no-cache, max-age=0, must-revalidate"),
    );
    response
}

fn unavailable(what: &str) -> Refusal {
    Refusal::new(
        StatusCode::BAD_GATEWAY,
        "repository.unreachable",
        format!("fabrica: {what}"),
    )
}
