//! A gateway that records everything, refuses what it should, and fails on command.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path as UrlPath, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get, post, put};
use fabrica_core::protocol::{Acknowledgement, Envelope, Instruction, Job};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::task::JoinHandle;

use super::large_files::LargeFiles;
use super::listener::Process;
use super::{AGENT_TOKEN, RUNNER_TOKEN, model, signer};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The git host refuses, with a status, a code and words.
    Repository(u16, &'static str, &'static str),
    /// The first event deliveries are stored, but their answers are lost.
    AnswersLost(usize),
    /// Only so many events are acknowledged at a time.
    AcknowledgeAtMost(usize),
    /// A push arrives twice, and the answer is the second one's: as if one whose answer was lost came through meanwhile.
    PushedTwice,
    /// The attempt is over after so many events.
    FencedAfter(usize),
    /// Nothing is signed, with a code and words.
    Unsigned(&'static str, &'static str),
}

/// What happens to the gateway's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It freezes: connections hang, and new ones are still taken by the kernel.
    Freezes,
    /// It dies.
    Dies,
    /// It says that it cannot answer now, to everything.
    PutsOff,
}

/// When it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    /// At the first request whose method and address contain this.
    pub(crate) request: &'static str,
    /// After the request was served, so that only its answer is lost.
    pub(crate) served: bool,
}

pub(crate) struct Gateway {
    socket: PathBuf,
    repositories: PathBuf,
    state: Mutex<Recorded>,
    server: Mutex<Option<(JoinHandle<()>, Process)>>,
    deliveries: AtomicUsize,
    awaited: Mutex<Option<(Moment, Trouble)>>,
    puts_off: AtomicBool,
    /// How long a delivery takes.
    delay: Mutex<Duration>,
    pub(crate) large_files: LargeFiles,
}

#[derive(Default)]
struct Recorded {
    job: Option<Job>,
    events: Vec<Envelope>,
    artifacts: Vec<(String, Bytes)>,
    cancel: bool,
    fault: Option<Fault>,
    refused_git: Vec<String>,
    script: Vec<String>,
    /// The private key that commits are signed with.
    signing_key: Option<PathBuf>,
    /// Which requests to the model, counted from 0, are refused, with which status and words.
    refusals: HashMap<usize, (u16, String)>,
    prompts: Vec<String>,
}

impl Gateway {
    pub(crate) fn start(socket: PathBuf, repositories: PathBuf) -> Arc<Self> {
        let gateway = Arc::new(Self {
            socket,
            repositories,
            state: Mutex::default(),
            server: Mutex::default(),
            deliveries: AtomicUsize::new(0),
            awaited: Mutex::default(),
            puts_off: AtomicBool::new(false),
            delay: Mutex::default(),
            large_files: LargeFiles::default(),
        });
        gateway.open();
        gateway
    }

    /// Another process takes over: it listens in a new socket, in the place of the one that may be there.
    pub(crate) fn open(self: &Arc<Self>) {
        let process = Process::default();
        let listener = process.listen(&self.socket);
        self.puts_off.store(false, Ordering::SeqCst);
        let router = Router::new()
            .route("/session/job", get(job))
            .route("/session/events", post(events))
            .route("/session/artifacts/{name}", put(artifact).get(stored))
            .route("/git/signature", post(signature))
            .route("/git/{*path}", any(repository))
            .route("/model/v1/messages", post(model))
            .layer(axum::extract::DefaultBodyLimit::disable())
            .layer(from_fn_with_state((Arc::clone(self), process.clone()), troubled))
            .with_state(Arc::clone(self));
        let server = tokio::spawn(async move {
            axum::serve(listener, router).await.unwrap();
        });
        *self.server.lock().unwrap() = Some((server, process));
    }

    /// Dies: connections break, the socket is gone.
    pub(crate) fn close(&self) {
        self.kill();
        std::fs::remove_file(&self.socket).unwrap();
    }

    fn kill(&self) {
        if let Some((server, process)) = self.server.lock().unwrap().take() {
            process.kill();
            server.abort();
        }
    }

    /// Gets into trouble at a moment.
    pub(crate) fn expect(&self, moment: Moment, trouble: Trouble) {
        *self.awaited.lock().unwrap() = Some((moment, trouble));
    }

    /// Whether the moment is still to come.
    pub(crate) fn expects(&self) -> bool {
        self.awaited.lock().unwrap().is_some()
    }

    /// Lets every delivery take so long.
    pub(crate) fn slow_down(&self, delay: Duration) {
        *self.delay.lock().unwrap() = delay;
    }

    /// How many batches came, empty ones too.
    pub(crate) fn deliveries(&self) -> usize {
        self.deliveries.load(Ordering::SeqCst)
    }

    pub(crate) fn give_job(&self, job: &Job) {
        self.state.lock().unwrap().job = Some(job.clone());
    }

    pub(crate) fn events(&self) -> Vec<Envelope> {
        self.state.lock().unwrap().events.clone()
    }

    /// Begins another attempt: its events are numbered from 1.
    pub(crate) fn forget_events(&self) {
        self.state.lock().unwrap().events.clear();
    }

    /// Loses what was stored.
    pub(crate) fn forget_artifacts(&self) {
        self.state.lock().unwrap().artifacts.clear();
    }

    /// What was stored under a name.
    pub(crate) fn artifact(&self, name: &str) -> Option<Bytes> {
        let state = self.state.lock().unwrap();
        state
            .artifacts
            .iter()
            .rfind(|artifact| artifact.0 == name)
            .map(|artifact| artifact.1.clone())
    }

    pub(crate) fn cancel(&self) {
        self.state.lock().unwrap().cancel = true;
    }

    pub(crate) fn fail(&self, fault: Fault) {
        self.state.lock().unwrap().fault = Some(fault);
    }

    /// Signs commits with a key of `ssh-keygen`.
    pub(crate) fn sign_with(&self, key: PathBuf) {
        self.state.lock().unwrap().signing_key = Some(key);
    }

    /// The shell commands that the model asks for, one a turn.
    pub(crate) fn play(&self, commands: &[&str]) {
        self.state.lock().unwrap().script = commands.iter().map(|&command| command.to_owned()).collect();
    }

    /// The model refuses that request, counted from 0, and wants no other try.
    pub(crate) fn refuse(&self, request: usize, status: u16, words: &str) {
        let refusal = (status, words.to_owned());
        self.state.lock().unwrap().refusals.insert(request, refusal);
    }

    /// What the model was asked.
    pub(crate) fn prompts(&self) -> Vec<String> {
        self.state.lock().unwrap().prompts.clone()
    }

    /// Requests for the repository without the right token.
    pub(crate) fn refused_git(&self) -> Vec<String> {
        self.state.lock().unwrap().refused_git.clone()
    }

    fn fault(&self) -> Option<Fault> {
        self.state.lock().unwrap().fault
    }

    /// Stores what is new, refuses gaps.
    fn store(&self, body: &[u8]) -> Result<u64, (StatusCode, String)> {
        let state = &mut *self.state.lock().unwrap();
        let most = match state.fault {
            Some(Fault::AcknowledgeAtMost(most)) => most,
            _ => usize::MAX,
        };
        let mut taken = 0;
        for line in std::str::from_utf8(body).unwrap().lines() {
            let event: Envelope = serde_json::from_str(line).unwrap();
            let next = state.events.len() as u64 + 1;
            if event.seq > next {
                return Err((
                    StatusCode::UNPROCESSABLE_ENTITY,
                    format!("event {next} is missing"),
                ));
            }
            if event.seq == next && taken < most {
                state.events.push(event);
                taken += 1;
            }
        }
        Ok(state.events.len() as u64)
    }
}

/// The process that serves a request may get into trouble over it.
async fn troubled(
    State((gateway, process)): State<(Arc<Gateway>, Process)>,
    request: Request,
    next: Next,
) -> Response {
    let line = format!("{} {}", request.method(), request.uri());
    let trouble = gateway
        .awaited
        .lock()
        .unwrap()
        .take_if(|(moment, _)| line.contains(moment.request));
    let Some((moment, trouble)) = trouble else {
        if gateway.puts_off.load(Ordering::SeqCst) {
            return put_off(&line);
        }
        return next.run(request).await;
    };
    if moment.served {
        next.run(request).await;
    }
    match trouble {
        Trouble::Freezes => process.freeze(),
        Trouble::Dies => gateway.kill(),
        Trouble::PutsOff => {
            gateway.puts_off.store(true, Ordering::SeqCst);
            return put_off(&line);
        }
    }
    std::future::pending().await
}

/// As the real gateway says it, in the language of whoever asks.
fn put_off(line: &str) -> Response {
    if line.contains(" /model/") {
        let error = r#"{"type":"error","error":{"type":"api_error","message":"fabrica: not now"}}"#;
        let headers = [("content-type", "application/json"), ("x-should-retry", "true")];
        return (StatusCode::SERVICE_UNAVAILABLE, headers, error).into_response();
    }
    let headers = [("x-fabrica-code", "gateway.lease_unknown"), ("retry-after", "1")];
    (StatusCode::SERVICE_UNAVAILABLE, headers, "fabrica: not now").into_response()
}

fn authorised(headers: &HeaderMap, token: &str) -> bool {
    headers
        .get(header::AUTHORIZATION)
        .is_some_and(|value| value == format!("Bearer {token}").as_str())
}

async fn job(State(gateway): State<Arc<Gateway>>, headers: HeaderMap) -> Response {
    if !authorised(&headers, RUNNER_TOKEN) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    match gateway.state.lock().unwrap().job.clone() {
        Some(job) => axum::Json(job).into_response(),
        None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

async fn events(State(gateway): State<Arc<Gateway>>, headers: HeaderMap, body: Bytes) -> Response {
    if !authorised(&headers, RUNNER_TOKEN) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let delivery = gateway.deliveries.fetch_add(1, Ordering::SeqCst);
    let delay = *gateway.delay.lock().unwrap();
    tokio::time::sleep(delay).await;
    if let Some(Fault::FencedAfter(count)) = gateway.fault()
        && gateway.events().len() >= count
    {
        return StatusCode::CONFLICT.into_response();
    }
    let acknowledged = match gateway.store(&body) {
        Ok(acknowledged) => acknowledged,
        Err(refusal) => return refusal.into_response(),
    };
    if let Some(Fault::AnswersLost(count)) = gateway.fault()
        && delivery < count
    {
        return StatusCode::BAD_GATEWAY.into_response();
    }
    let cancel = gateway.state.lock().unwrap().cancel;
    let instructions = if cancel { vec![Instruction::Cancel] } else { vec![] };
    axum::Json(Acknowledgement {
        acknowledged,
        instructions,
    })
    .into_response()
}

async fn artifact(
    State(gateway): State<Arc<Gateway>>,
    UrlPath(name): UrlPath<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if !authorised(&headers, RUNNER_TOKEN) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    gateway.state.lock().unwrap().artifacts.push((name, body));
    StatusCode::NO_CONTENT.into_response()
}

async fn stored(
    State(gateway): State<Arc<Gateway>>,
    UrlPath(name): UrlPath<String>,
    headers: HeaderMap,
) -> Response {
    if !authorised(&headers, RUNNER_TOKEN) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    match gateway.artifact(&name) {
        Some(content) => content.into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn signature(State(gateway): State<Arc<Gateway>>, headers: HeaderMap, body: Bytes) -> Response {
    if !authorised(&headers, AGENT_TOKEN) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    if let Some(Fault::Unsigned(code, words)) = gateway.fault() {
        return (StatusCode::FORBIDDEN, [("x-fabrica-code", code)], words).into_response();
    }
    let key = gateway.state.lock().unwrap().signing_key.clone().unwrap();
    signer::sign(&key, &body).into_response()
}

async fn repository(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let path = request.uri().path().trim_start_matches("/git").to_owned();
    let push = query.contains("git-receive-pack") || path.ends_with("git-receive-pack");
    let headers = request.headers();
    let may_fetch = authorised(headers, AGENT_TOKEN) || authorised(headers, RUNNER_TOKEN);
    if !(if push {
        authorised(headers, RUNNER_TOKEN)
    } else {
        may_fetch
    }) {
        gateway.state.lock().unwrap().refused_git.push(path);
        return StatusCode::UNAUTHORIZED.into_response();
    }
    if path.contains("/info/lfs/objects/") {
        let may_upload = authorised(headers, RUNNER_TOKEN);
        return gateway.large_files.serve(request, may_upload).await;
    }
    if let Some(Fault::Repository(status, code, words)) = gateway.fault() {
        let status = StatusCode::from_u16(status).unwrap();
        return (status, [("x-fabrica-code", code)], words).into_response();
    }
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let twice = path.ends_with("git-receive-pack") && gateway.fault() == Some(Fault::PushedTwice);
    if twice {
        http_backend(&gateway.repositories, &path, &query, &parts, body.clone()).await;
    }
    http_backend(&gateway.repositories, &path, &query, &parts, body).await
}

async fn model(headers: HeaderMap, State(gateway): State<Arc<Gateway>>, body: Bytes) -> Response {
    if !authorised(&headers, AGENT_TOKEN) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let (script, refusal) = {
        let state = &mut *gateway.state.lock().unwrap();
        let refusal = state.refusals.remove(&state.prompts.len());
        state.prompts.push(String::from_utf8_lossy(&body).into_owned());
        (state.script.clone(), refusal)
    };
    if let Some((status, words)) = refusal {
        let status = StatusCode::from_u16(status).unwrap();
        let error = json!({"type": "error", "error": {"type": "api_error", "message": words}});
        return (status, [("x-should-retry", "false")], error.to_string()).into_response();
    }
    model::answer(&script, &body)
}

async fn http_backend(
    repositories: &Path,
    path: &str,
    query: &str,
    parts: &axum::http::request::Parts,
    body: Bytes,
) -> Response {
    let text = |name: &str| {
        parts
            .headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned()
    };
    let mut command = Command::new("git");
    command
        .args(["-c", "safe.directory=*", "http-backend"])
        .env("GIT_PROJECT_ROOT", repositories)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query)
        .env("REQUEST_METHOD", parts.method.as_str())
        .env("REMOTE_USER", "test")
        .env("CONTENT_TYPE", text("content-type"))
        .env("HTTP_CONTENT_ENCODING", text("content-encoding"))
        .env("HTTP_GIT_PROTOCOL", text("git-protocol"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = command
        .env("CONTENT_LENGTH", body.len().to_string())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    tokio::spawn(async move { stdin.write_all(&body).await });
    let answer = child.wait_with_output().await.unwrap().stdout;
    let end = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .unwrap_or(answer.len());
    let mut response = Response::builder();
    for line in String::from_utf8_lossy(&answer[..end]).lines() {
        let Some((name, value)) = line.split_once(": ") else {
            continue;
        };
        response = match name {
            "Status" => response.status(value.split(' ').next().unwrap().parse::<u16>().unwrap()),
            _ => response.header(name, value),
        };
    }
    response
        .body(Body::from(answer.get(end + 4..).unwrap_or_default().to_vec()))
        .unwrap()
}
