//! Opening and closing: sockets, directories, and tokens that end.

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use fabrica_core::ports::Gateway as _;
use fabrica_gateway::{
    GatewayLimits, GatewayOptions, GitCredentials, ModelCredential, ModelUpstream, UnixGateway,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::timeout;
use url::Url;

use crate::support::upstream::answering_by_hand;
use crate::support::{AGENT, RUNNER, Rig, RigOptions, client, fence, token};

const SOON: Duration = Duration::from_secs(5);

fn options(directory: PathBuf) -> GatewayOptions {
    GatewayOptions {
        directory,
        owner: None,
        model: ModelUpstream {
            base_url: Url::parse("http://127.0.0.1:9").unwrap(),
            credential: ModelCredential::None,
        },
        git: GitCredentials::new(),
        large_file_hosts: BTreeSet::new(),
        signing_key: None,
        limits: GatewayLimits::default(),
    }
}

fn mode(path: &std::path::Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn the_directory_keeps_others_out_and_lets_the_sandbox_connect() {
    let rig = Rig::new().await;
    assert_eq!(mode(rig.parent.path()), 0o700);
    assert_eq!(mode(&rig.directory), 0o711);
    assert_eq!(mode(&rig.socket()), 0o666);
    let entries: Vec<_> = std::fs::read_dir(&rig.directory).unwrap().collect();
    assert_eq!(entries.len(), 1, "{entries:?}");
}

#[tokio::test]
async fn a_missing_parent_is_made_closed_and_an_open_one_is_refused() {
    let rig = Rig::new().await;
    let missing = rig.parent.path().join("a/b");
    let gateway = UnixGateway::new(options(missing.clone())).unwrap();
    gateway.open(rig.access(1)).await.unwrap();
    assert_eq!(mode(&missing), 0o700);
    let open = rig.parent.path().join("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o755)).unwrap();
    let error = UnixGateway::new(options(open.clone()))
        .unwrap()
        .open(rig.access(1))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("mode 755"), "{error}");
    assert_eq!(mode(&open), 0o755, "it may be shared with something else");
}

#[tokio::test]
async fn a_path_that_is_too_long_is_a_clear_error() {
    let rig = Rig::new().await;
    let gateway = UnixGateway::new(options(rig.parent.path().join("x".repeat(90)))).unwrap();
    let error = gateway.open(rig.access(1)).await.unwrap_err();
    assert!(error.to_string().contains("at most 107"), "{error}");
}

#[tokio::test]
async fn closing_refuses_the_tokens_and_removes_the_directory() {
    let rig = Rig::new().await;
    let held = rig.client();
    assert_eq!(
        held.get("http://gateway/session/job")
            .bearer_auth(RUNNER)
            .send()
            .await
            .unwrap()
            .status(),
        200
    );
    rig.gateway.close(fence(1)).await.unwrap();
    assert!(!rig.directory.exists());
    // The connection that the client keeps is cut, too.
    let after = held
        .get("http://gateway/session/job")
        .bearer_auth(RUNNER)
        .send()
        .await;
    assert!(after.is_err(), "{after:?}");
    rig.gateway.close(fence(1)).await.unwrap();
}

#[tokio::test]
async fn closing_cuts_a_stream_under_way_at_once() {
    let (server, sender) = answering_by_hand().await;
    let rig = Rig::with(RigOptions {
        model: server.url.clone(),
        ..RigOptions::default()
    })
    .await;
    let mut response = rig.post("/model/v1/messages", AGENT, "{}").await;
    sender.send(Ok(Bytes::from_static(b"begun"))).unwrap();
    assert_eq!(
        response.chunk().await.unwrap(),
        Some(Bytes::from_static(b"begun"))
    );
    rig.gateway.close(fence(1)).await.unwrap();
    let cut = timeout(Duration::from_secs(1), response.chunk()).await.unwrap();
    assert!(cut.is_err(), "{cut:?}");
    // The upstream's side of it ends, too.
    timeout(SOON, sender.closed()).await.unwrap();
}

#[tokio::test]
async fn closing_cuts_requests_that_wait_and_connections_that_say_nothing() {
    let rig = Rig::new().await;
    *rig.sink.delay.lock().unwrap() = Some(Duration::from_hours(1));
    let url = "http://gateway/session/events";
    let waiting = tokio::spawn(rig.client().post(url).bearer_auth(RUNNER).send());
    let mut silent = UnixStream::connect(rig.socket()).await.unwrap();
    silent
        .write_all(b"GET /session/job HTTP/1.1\r\nhost: x\r\n")
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    rig.gateway.close(fence(1)).await.unwrap();
    let answer = timeout(SOON, waiting).await.unwrap().unwrap();
    assert!(answer.is_err() || answer.unwrap().status() == 401);
    let mut rest = Vec::new();
    let read = timeout(SOON, silent.read_to_end(&mut rest)).await.unwrap();
    assert!(read.is_err() || rest.is_empty(), "{rest:?}");
}

#[tokio::test]
async fn opening_the_same_attempt_again_changes_nothing() {
    let rig = Rig::new().await;
    let held = rig.client();
    let again = rig.gateway.open(rig.access(1)).await.unwrap();
    assert_eq!(again.directory, rig.directory);
    assert_eq!(
        held.get("http://gateway/session/job")
            .bearer_auth(RUNNER)
            .send()
            .await
            .unwrap()
            .status(),
        200
    );
}

#[tokio::test]
async fn a_later_attempt_replaces_an_earlier_one_and_never_the_other_way_round() {
    let rig = Rig::new().await;
    let second = rig.gateway.open(rig.access(2)).await.unwrap().directory;
    assert!(!rig.directory.exists());
    assert_ne!(second, rig.directory);
    let ask = async |token: String| {
        let asked = client(&second.join("gateway.sock"))
            .get("http://gateway/session/job")
            .bearer_auth(token);
        asked.send().await.unwrap().status()
    };
    assert_eq!(ask(token(RUNNER, 2)).await, 200);
    assert_eq!(ask(token(RUNNER, 1)).await, 401);
    assert!(rig.gateway.open(rig.access(1)).await.is_err());
    rig.gateway.close(fence(1)).await.unwrap();
    assert_eq!(ask(token(RUNNER, 2)).await, 200);
    rig.gateway.close(fence(2)).await.unwrap();
    assert!(!second.exists());
}

#[tokio::test]
async fn another_sessions_token_is_refused() {
    let rig = Rig::new().await;
    let mut other = rig.access(7);
    other.fence.session = "018f4e1c-7a52-4cc3-9d51-0a6f3ad1c2b5".parse().unwrap();
    let directory = rig.gateway.open(other).await.unwrap().directory;
    let socket = directory.join("gateway.sock");
    let ask = async |token: &str| {
        client(&socket)
            .get("http://gateway/session/job")
            .bearer_auth(token)
            .send()
            .await
            .unwrap()
            .status()
    };
    assert_eq!(ask(RUNNER).await, 401);
    assert_eq!(ask(&token(RUNNER, 7)).await, 200);
    assert_eq!(rig.get("/session/job", &token(RUNNER, 7)).await.status(), 401);
}

#[tokio::test]
async fn a_restarted_process_puts_its_socket_into_the_directory_that_is_mounted() {
    let Rig {
        gateway,
        directory,
        parent,
        sink,
        repository,
    } = Rig::new().await;
    let mounted = std::fs::File::open(&directory).unwrap();
    drop(gateway);
    let socket = directory.join("gateway.sock");
    assert!(socket.exists(), "a process that ends leaves its socket");
    let gateway = UnixGateway::new(options(parent.path().to_owned())).unwrap();
    let endpoint = gateway
        .open(crate::support::access(1, &repository, &sink))
        .await
        .unwrap();
    assert_eq!(endpoint.directory, directory);
    assert_eq!(
        mounted.metadata().unwrap().ino(),
        std::fs::metadata(&directory).unwrap().ino()
    );
    let answered = client(&socket)
        .get("http://gateway/session/job")
        .bearer_auth(RUNNER)
        .send()
        .await
        .unwrap();
    assert_eq!(answered.status(), 200);
}

#[tokio::test]
async fn what_a_crashed_process_left_is_removed_by_closing() {
    let Rig {
        gateway,
        directory,
        parent,
        ..
    } = Rig::new().await;
    drop(gateway);
    let gateway = UnixGateway::new(options(parent.path().to_owned())).unwrap();
    gateway.close(fence(1)).await.unwrap();
    assert!(!directory.exists());
}
