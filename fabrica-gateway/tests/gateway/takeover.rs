//! Several processes serve one sandbox, one after another: what the sandbox hears of it, and what a stale one can do.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use fabrica_core::ids::{Fence, LeaseNumber};
use fabrica_core::ports::{Gateway as _, GatewayAccess, SinkError};
use fabrica_gateway::{
    GatewayLimits, GatewayOptions, GitCredential, GitCredentials, ModelCredential, ModelUpstream, UnixGateway,
};
use reqwest::StatusCode;
use secrecy::SecretString;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::timeout;
use url::Url;

use crate::support::code_host::CodeHost;
use crate::support::git::{Forwarder, Sandbox, bare_repository, git, refs};
use crate::support::upstream::answering_by_hand;
use crate::support::{
    AGENT, BRANCH, GIT_SECRET, RUNNER, RecordingSink, Rig, RigOptions, access, client, code, fence, header,
    http_repository, token,
};
use fabrica_core::plan::Repository;

const SOON: Duration = Duration::from_secs(10);
/// What makes a runner stop for good.
const FINAL: [u16; 4] = [401, 403, 409, 410];

/// Another process's gateway on the same directory.
fn another(rig: &Rig) -> UnixGateway {
    let mut git = GitCredentials::new();
    if let Some(authority) = rig.repository.authority() {
        git = git.with(authority, GitCredential::token(SecretString::from(GIT_SECRET)));
    }
    UnixGateway::new(GatewayOptions {
        directory: rig.parent.path().to_owned(),
        owner: None,
        model: ModelUpstream {
            base_url: Url::parse("http://127.0.0.1:9").unwrap(),
            credential: ModelCredential::None,
        },
        git,
        large_file_hosts: BTreeSet::new(),
        signing_key: None,
        limits: GatewayLimits::default(),
    })
    .unwrap()
}

fn under(lease: u64) -> Fence {
    Fence {
        lease: LeaseNumber::new(lease),
        ..fence(1)
    }
}

/// The first attempt's access under a later lease, with a sink of its own.
fn taken_over(rig: &Rig, lease: u64) -> (GatewayAccess, Arc<RecordingSink>) {
    let sink = Arc::new(RecordingSink::default());
    let access = GatewayAccess {
        fence: under(lease),
        ..access(1, &rig.repository, &sink)
    };
    (access, sink)
}

fn event(seq: u64) -> String {
    format!(
        r#"{{"v":1,"seq":{seq},"at":"2026-11-22T10:00:00Z","event":"progress","step":"clone","message":"m"}}"#
    )
}

async fn job(socket: &Path) -> reqwest::Result<StatusCode> {
    let request = client(socket).get("http://gateway/session/job");
    Ok(request.bearer_auth(RUNNER).send().await?.status())
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// The socket's device and inode.
fn identity(socket: &Path) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(socket).unwrap();
    (metadata.dev(), metadata.ino())
}

#[tokio::test]
async fn a_second_process_puts_its_socket_in_place_while_clients_of_the_first_are_connected() {
    let rig = Rig::new().await;
    let mut held = UnixStream::connect(rig.socket()).await.unwrap();
    let before = identity(&rig.socket());
    let second = another(&rig);
    let (access, sink) = taken_over(&rig, 2);
    // Somebody connects all the time: there is no moment without a socket that accepts.
    let socket = rig.socket();
    let knocking = tokio::spawn(async move {
        let mut times = 0;
        while identity(&socket) == before || times < 3 {
            UnixStream::connect(&socket).await.unwrap();
            times += 1;
            tokio::task::yield_now().await;
        }
    });
    assert_eq!(second.open(access).await.unwrap().directory, rig.directory);
    timeout(SOON, knocking).await.unwrap().unwrap();
    assert_ne!(identity(&rig.socket()), before, "a watcher sees the change");
    assert_eq!(
        entries(&rig.directory),
        [rig.socket()],
        "nothing half made is left"
    );
    let delivered = rig.post("/session/events", RUNNER, event(1)).await;
    assert_eq!(delivered.status(), 200);
    assert_eq!(sink.events.lock().unwrap().len(), 1, "the second has it");
    assert!(rig.sink.events.lock().unwrap().is_empty());
    // Whoever was connected still speaks to the first, until it lets go.
    rig.sink.lease_unknown.store(true, Ordering::SeqCst);
    let request = format!("GET /session/job HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {RUNNER}\r\n\r\n");
    held.write_all(request.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    held.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 503");
    rig.gateway.release(fence(1)).await;
    assert_eq!(
        job(&rig.socket()).await.unwrap(),
        200,
        "the second's socket is left alone"
    );
    let mut rest = Vec::new();
    timeout(SOON, held.read_to_end(&mut rest)).await.unwrap().ok();
}

#[tokio::test]
async fn a_release_cuts_everything_tells_no_runner_to_stop_and_leaves_the_directory() {
    let (server, sender) = answering_by_hand().await;
    let rig = Rig::with(RigOptions {
        model: server.url.clone(),
        ..RigOptions::default()
    })
    .await;
    let mut stream = rig.post("/model/v1/messages", AGENT, "{}").await;
    sender.send(Ok(Bytes::from_static(b"begun"))).unwrap();
    assert_eq!(stream.chunk().await.unwrap(), Some(Bytes::from_static(b"begun")));
    *rig.sink.delay.lock().unwrap() = Some(Duration::from_hours(1));
    let waiting: Vec<_> = (0..8)
        .map(|_| {
            let request = rig.client().post("http://gateway/session/events");
            tokio::spawn(request.bearer_auth(RUNNER).send())
        })
        .collect();
    let busy = rig.client();
    let asking = tokio::spawn(async move {
        let mut seen = Vec::new();
        loop {
            let request = busy.get("http://gateway/session/job").bearer_auth(RUNNER);
            match request.send().await {
                Ok(answer) if answer.status() == 200 => tokio::task::yield_now().await,
                Ok(answer) => seen.push(answer.status().as_u16()),
                Err(_) => return seen,
            }
        }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    rig.gateway.release(fence(1)).await;
    assert!(
        timeout(SOON, stream.chunk()).await.unwrap().is_err(),
        "the stream is cut"
    );
    for request in waiting {
        if let Ok(answer) = timeout(SOON, request).await.unwrap().unwrap() {
            assert!(!FINAL.contains(&answer.status().as_u16()), "{answer:?}");
        }
    }
    let seen = timeout(SOON, asking).await.unwrap().unwrap();
    assert!(seen.iter().all(|status| !FINAL.contains(status)), "{seen:?}");
    assert!(rig.socket().exists());
    assert!(job(&rig.socket()).await.is_err(), "nobody listens");
    rig.gateway.release(fence(1)).await;
    // The same process may go on with it, and the attempt may be closed as any other.
    rig.gateway.open(taken_over(&rig, 2).0).await.unwrap();
    assert_eq!(job(&rig.socket()).await.unwrap(), 200);
    rig.gateway.close(under(2)).await.unwrap();
    assert!(!rig.directory.exists());
}

#[tokio::test]
async fn dropping_the_gateway_cuts_everything_tells_no_runner_to_stop_and_leaves_the_directory() {
    let rig = Rig::new().await;
    *rig.sink.delay.lock().unwrap() = Some(Duration::from_hours(1));
    let request = rig.client().post("http://gateway/session/events");
    let waiting = tokio::spawn(request.bearer_auth(RUNNER).send());
    let mut held = UnixStream::connect(rig.socket()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let socket = rig.socket();
    let Rig { gateway, parent, .. } = rig;
    drop(gateway);
    if let Ok(answer) = timeout(SOON, waiting).await.unwrap().unwrap() {
        assert!(!FINAL.contains(&answer.status().as_u16()), "{answer:?}");
    }
    let mut rest = Vec::new();
    timeout(SOON, held.read_to_end(&mut rest)).await.unwrap().ok();
    assert!(rest.is_empty() && socket.exists());
    drop(parent);
}

#[tokio::test]
async fn a_release_or_close_of_an_earlier_lease_leaves_a_later_one_alone() {
    let rig = Rig::new().await;
    let (access, sink) = taken_over(&rig, 5);
    rig.gateway.open(access).await.unwrap();
    rig.gateway.release(fence(1)).await;
    rig.gateway.close(fence(1)).await.unwrap();
    assert_eq!(job(&rig.socket()).await.unwrap(), 200);
    assert!(
        rig.gateway.open(rig.access(1)).await.is_err(),
        "the earlier lease does not come back"
    );
    assert_eq!(rig.post("/session/events", RUNNER, event(1)).await.status(), 200);
    assert_eq!(sink.events.lock().unwrap().len(), 1);
    rig.gateway.release(under(5)).await;
    assert!(job(&rig.socket()).await.is_err() && rig.directory.exists());
}

#[tokio::test]
async fn a_release_of_an_earlier_attempt_leaves_a_later_one_alone() {
    let rig = Rig::new().await;
    let second = rig.gateway.open(rig.access(2)).await.unwrap().directory;
    rig.gateway.release(fence(1)).await;
    let request = client(&second.join("gateway.sock")).get("http://gateway/session/job");
    let answer = request.bearer_auth(token(RUNNER, 2)).send().await.unwrap();
    assert_eq!(answer.status(), 200);
}

#[tokio::test]
async fn the_same_process_under_a_later_lease_cuts_the_connections_of_the_earlier() {
    let rig = Rig::new().await;
    let mut held = UnixStream::connect(rig.socket()).await.unwrap();
    rig.gateway.open(taken_over(&rig, 2).0).await.unwrap();
    let mut rest = Vec::new();
    timeout(SOON, held.read_to_end(&mut rest)).await.unwrap().ok();
    assert!(rest.is_empty(), "{rest:?}");
    assert_eq!(job(&rig.socket()).await.unwrap(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_lease_is_unknown_every_request_is_put_off_in_its_own_language() {
    let rig = Rig::new().await;
    rig.sink.lease_unknown.store(true, Ordering::SeqCst);
    for (path, token) in [
        ("/session/job", RUNNER),
        ("/session/events", RUNNER),
        ("/session/job", "a token that is wrong"),
        ("/model/v1/messages", AGENT),
        ("/git/repository.git/info/refs?service=git-upload-pack", AGENT),
        ("/nothing", RUNNER),
    ] {
        let put_off = rig.get(path, token).await;
        let got = (put_off.status().as_u16(), code(&put_off));
        assert_eq!(got, (503, "gateway.lease_unknown"), "{path}");
        assert_ne!(header(&put_off, "x-should-retry"), Some("false"), "{path}");
    }
    let session = rig.post("/session/events", RUNNER, event(1)).await;
    assert_eq!(header(&session, "retry-after"), Some("1"));
    assert_eq!(header(&session, "content-type"), Some("application/problem+json"));
    let model = rig.post("/model/v1/messages", AGENT, "{}").await;
    assert_eq!(
        (header(&model, "x-should-retry"), header(&model, "retry-after")),
        (Some("true"), None),
        "the agent's own growing pauses last longer than one of a second"
    );
    let error: Value = model.json().await.unwrap();
    assert_eq!(
        (&error["type"], &error["error"]["type"]),
        (&"error".into(), &"api_error".into())
    );
    let forwarder = Forwarder::start(&rig).await;
    let printed = git(rig.parent.path(), &["ls-remote", &forwarder.url(AGENT)])
        .await
        .bad();
    assert!(
        printed.contains("still owns this session") && printed.contains("503"),
        "{printed}"
    );
    assert!(rig.sink.events.lock().unwrap().is_empty());
    rig.sink.lease_unknown.store(false, Ordering::SeqCst);
    assert_eq!(rig.post("/session/events", RUNNER, event(1)).await.status(), 200);
}

#[tokio::test]
async fn a_transfer_under_way_is_not_cut_while_the_lease_is_unknown() {
    let (server, sender) = answering_by_hand().await;
    let rig = Rig::with(RigOptions {
        model: server.url.clone(),
        ..RigOptions::default()
    })
    .await;
    let mut response = rig.post("/model/v1/messages", AGENT, "{}").await;
    rig.sink.lease_unknown.store(true, Ordering::SeqCst);
    assert_eq!(rig.get("/session/job", RUNNER).await.status(), 503);
    for piece in ["one", "two"] {
        sender.send(Ok(Bytes::from(piece))).unwrap();
        let chunk = timeout(SOON, response.chunk()).await.unwrap();
        assert_eq!(chunk.unwrap(), Some(Bytes::from(piece)));
    }
    drop(sender);
    assert_eq!(timeout(SOON, response.chunk()).await.unwrap().unwrap(), None);
}

fn answers(rig: &Rig, answers: impl IntoIterator<Item = Result<(), SinkError>>) {
    rig.sink.authorizations.lock().unwrap().extend(answers);
}

fn away() -> Result<(), SinkError> {
    Err(SinkError::Unavailable("canary: the database".into()))
}

/// Two kinds of repositories: what the push of a stale attempt must not reach.
async fn stale_pushes_reach_nothing(rig: &Rig, bare: &Path) {
    let sandbox = Sandbox::new(rig).await;
    let before = refs(bare).await;
    answers(rig, [Err(SinkError::Fenced), away()]);
    let text = sandbox.push(&["origin", "HEAD"]).await.bad();
    assert!(
        text.contains("[remote rejected]") && text.contains("session.fenced"),
        "{text}"
    );
    let text = sandbox.push(&["origin", "HEAD"]).await.bad();
    assert!(text.contains("503") && !text.contains("canary"), "{text}");
    assert_eq!(refs(bare).await, before);
    sandbox.push(&["origin", "HEAD"]).await.good();
    assert!(refs(bare).await.contains(BRANCH));
    assert_eq!(rig.sink.asked.load(Ordering::SeqCst), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_push_of_a_stale_attempt_never_reaches_the_code_host() {
    let host = CodeHost::start().await;
    let rig = Rig::with(RigOptions {
        repository: http_repository(&host.repository()),
        ..RigOptions::default()
    })
    .await;
    stale_pushes_reach_nothing(&rig, &host.bare).await;
    assert_eq!(host.pushes(), 1, "only the one that was let out");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_push_of_a_stale_attempt_never_reaches_a_repository_on_this_machine() {
    let root = tempfile::tempdir().unwrap();
    let bare = bare_repository(root.path()).await;
    let rig = Rig::with(RigOptions {
        repository: Repository::Local(bare.clone()),
        ..RigOptions::default()
    })
    .await;
    stale_pushes_reach_nothing(&rig, &bare).await;
}

/// A push by hand, which pauses before its last piece, as one does whose gateway is frozen meanwhile.
async fn slow_push(rig: &Rig, body: Vec<u8>) -> reqwest::Result<reqwest::Response> {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel::<Result<Bytes, std::io::Error>>();
    let stream = tokio_stream::wrappers::UnboundedReceiverStream::new(receiver);
    let (first, last) = body.split_at(body.len() - 30);
    sender.send(Ok(Bytes::copy_from_slice(first))).unwrap();
    let last = Bytes::copy_from_slice(last);
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        let _ = sender.send(Ok(last));
    });
    let request = rig
        .client()
        .post("http://gateway/git/repository.git/git-receive-pack")
        .bearer_auth(RUNNER)
        .header("content-type", "application/x-git-receive-pack-request")
        .body(reqwest::Body::wrap_stream(stream));
    timeout(SOON, request.send()).await.unwrap()
}

/// What git would send to push the clone's head.
async fn pack(sandbox: &Sandbox) -> Vec<u8> {
    let head = sandbox.git(&["rev-parse", "HEAD"]).await.good();
    let line = format!(
        "{} {} refs/heads/{BRANCH}\0 report-status",
        "0".repeat(40),
        head.trim()
    );
    let mut body = format!("{:04x}{line}0000", line.len() + 4).into_bytes();
    let output = std::process::Command::new("sh")
        .args([
            "-c",
            "git rev-list --objects HEAD | cut -d' ' -f1 | git pack-objects --stdout -q",
        ])
        .current_dir(&sandbox.clone)
        .output()
        .unwrap();
    body.extend(output.stdout);
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_is_overtaken_on_its_way_is_not_completed() {
    let host = CodeHost::start().await;
    let rig = Rig::with(RigOptions {
        repository: http_repository(&host.repository()),
        ..RigOptions::default()
    })
    .await;
    let sandbox = Sandbox::new(&rig).await;
    let before = refs(&host.bare).await;
    let body = pack(&sandbox).await;
    answers(&rig, [Ok(()), Err(SinkError::Fenced)]);
    let answer = slow_push(&rig, body.clone()).await;
    assert!(answer.is_err() || !answer.unwrap().status().is_success());
    assert_eq!(refs(&host.bare).await, before);
    assert_eq!(rig.sink.asked.load(Ordering::SeqCst), 2);
    let answer = slow_push(&rig, body).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(
        refs(&host.bare).await.contains(BRANCH),
        "{:?}",
        answer.text().await
    );
}
