//! `…/info/lfs/…` with the real git-lfs client, in front of a code host that keeps content elsewhere, and of a repository
//! on this machine.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fabrica_core::plan::Repository;
use fabrica_core::ports::{GatewayAccess, SinkError};
use serde_json::{Value, json};

use crate::support::code_host::CodeHost;
use crate::support::git::{Sandbox, bare_repository, git};
use crate::support::large_files::SIGNATURE;
use crate::support::upstream::{answer, by_hand, recording};
use crate::support::{AGENT, BRANCH, GIT_SECRET, RUNNER, Rig, RigOptions, code, http_repository, token};

/// The SHA-256 of `hello`.
const HELLO: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
const OBJECTS: &str = "/git/repository.git/info/lfs/objects";

async fn rig(host: &CodeHost, allowed: &[&str]) -> Rig {
    Rig::with(RigOptions {
        repository: http_repository(&host.repository()),
        large_file_hosts: allowed.iter().map(|&name| name.to_owned()).collect(),
        ..RigOptions::default()
    })
    .await
}

fn question(operation: &str, size: u64) -> String {
    json!({"operation": operation, "transfers": ["basic"], "objects": [{"oid": HELLO, "size": size}]})
        .to_string()
}

async fn batch(rig: &Rig, token: &str, operation: &str) -> Value {
    let answer = rig
        .post(&format!("{OBJECTS}/batch"), token, question(operation, 5))
        .await;
    assert_eq!(answer.status().as_u16(), 200);
    answer.json().await.unwrap()
}

async fn put(rig: &Rig, token: &str, content: &'static str) -> reqwest::Response {
    rig.client()
        .put(format!("http://gateway{OBJECTS}/{HELLO}?size=5"))
        .bearer_auth(token)
        .body(content)
        .send()
        .await
        .unwrap()
}

/// Commits a file in Git LFS on the session's branch.
async fn commit_large_file(clone: &Path, content: &str) {
    git(clone, &["lfs", "install", "--local"]).await.good();
    git(clone, &["lfs", "track", "*.bin"]).await.good();
    std::fs::write(clone.join("data.bin"), content).unwrap();
    git(clone, &["add", "."]).await.good();
    git(clone, &["commit", "-q", "-m", "a large file"]).await.good();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_client_uploads_and_fetches_through_us_and_sees_no_credential() {
    let host = CodeHost::start().await;
    let rig = rig(&host, &["127.0.0.1"]).await;
    let sandbox = Sandbox::new(&rig).await;
    commit_large_file(&sandbox.clone, "hello").await;
    sandbox.push(&["origin", "HEAD"]).await.good();
    assert_eq!(host.storage.objects.lock().unwrap().get(HELLO).unwrap(), b"hello");
    let verified = host
        .seen
        .lock()
        .unwrap()
        .iter()
        .any(|seen| seen.path.ends_with("/info/lfs/verify"));
    assert!(verified, "the host was not told to look at what was uploaded");

    let url = sandbox.forwarder.url(AGENT);
    let home = sandbox.home.path();
    git(home, &["clone", "-q", "-b", BRANCH, &url, "second"])
        .await
        .good();
    let second = home.join("second");
    git(&second, &["lfs", "install", "--local"]).await.good();
    git(&second, &["lfs", "pull"]).await.good();
    assert_eq!(std::fs::read_to_string(second.join("data.bin")).unwrap(), "hello");

    let answer = batch(&rig, AGENT, "download").await.to_string();
    assert!(
        !answer.contains(SIGNATURE) && !answer.contains(&host.storage.server.url),
        "{answer}"
    );
    for seen in host.storage.seen.lock().unwrap().iter() {
        assert!(!seen.everything().contains(GIT_SECRET) && !seen.everything().contains(AGENT));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_forgotten_is_asked_for_again() {
    let host = CodeHost::start().await;
    let rig = rig(&host, &["127.0.0.1"]).await;
    host.storage.keep(HELLO, "hello");
    // Nobody asked where it is, as after a restart of ours.
    let path = format!("{OBJECTS}/{HELLO}?size=5");
    for _ in 0..2 {
        let answer = rig.get(&path, AGENT).await;
        assert_eq!(
            (answer.status().as_u16(), answer.text().await.unwrap().as_str()),
            (200, "hello")
        );
    }
    host.storage.objects.lock().unwrap().clear();
    let gone = rig.get(&path, AGENT).await;
    assert_eq!(
        (gone.status().as_u16(), code(&gone)),
        (404, "large_files.refused")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_that_sends_us_on_gives_nobody_what_was_meant_for_it() {
    let host = CodeHost::start().await;
    let rig = rig(&host, &["127.0.0.1"]).await;
    host.storage.keep(HELLO, "hello");
    let (mirror, seen) = recording(|_| answer(200, &[], "hello")).await;
    host.storage.elsewhere.lock().unwrap().clone_from(&mirror.url);
    let path = format!("{OBJECTS}/{HELLO}?size=5");
    assert_eq!(rig.get(&path, AGENT).await.text().await.unwrap(), "hello");
    let seen = seen.lock().unwrap().clone();
    assert_eq!(seen.len(), 1);
    let everything = seen[0].everything();
    for secret in [SIGNATURE, GIT_SECRET, AGENT, "authorization"] {
        assert!(!everything.contains(secret), "{secret}: {everything}");
    }

    // Nobody listens there, and the address is as good as a password.
    *host.storage.elsewhere.lock().unwrap() = "http://127.0.0.1:1/canary".into();
    let unreachable = rig.get(&path, AGENT).await;
    assert_eq!(
        (unreachable.status().as_u16(), code(&unreachable)),
        (502, "large_files.unreachable")
    );
    let said = unreachable.text().await.unwrap();
    assert!(
        said.contains("127.0.0.1, which has") && !said.contains("canary"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_cannot_send_us_into_a_private_network() {
    let host = CodeHost::start().await;
    let rig = rig(&host, &[]).await;
    host.storage.keep(HELLO, "hello");
    let answer = rig.get(&format!("{OBJECTS}/{HELLO}?size=5"), AGENT).await;
    assert_eq!(
        (answer.status().as_u16(), code(&answer)),
        (403, "large_files.private_network")
    );
    assert!(answer.text().await.unwrap().contains("--lfs-host 127.0.0.1"));
    assert!(host.storage.seen.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_leads_into_a_private_network_is_no_way_there_either() {
    let host = CodeHost::start().await;
    let rig = rig(&host, &["127.0.0.1"]).await;
    host.storage.keep(HELLO, "hello");
    let (inner, seen) = recording(|_| answer(200, &[], "hello")).await;
    *host.storage.elsewhere.lock().unwrap() = inner.url.replace("127.0.0.1", "localhost");
    let answer = rig.get(&format!("{OBJECTS}/{HELLO}?size=5"), AGENT).await;
    assert_eq!(
        (answer.status().as_u16(), code(&answer)),
        (403, "large_files.private_network")
    );
    assert!(answer.text().await.unwrap().contains("--lfs-host localhost"));
    assert!(seen.lock().unwrap().is_empty());
}

/// An upload by hand, which pauses before its last piece, as one does whose gateway is frozen meanwhile.
async fn slow_put(rig: &Rig) -> reqwest::Result<reqwest::Response> {
    let (sender, body) = by_hand();
    sender.send(Ok("hel".into())).unwrap();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        // Nobody reads on when the upload was refused.
        let _ = sender.send(Ok("lo".into()));
    });
    rig.client()
        .put(format!("http://gateway{OBJECTS}/{HELLO}?size=5"))
        .bearer_auth(RUNNER)
        .header("content-length", 5)
        .body(reqwest::Body::wrap_stream(body.into_data_stream()))
        .send()
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_overtaken_on_its_way_is_not_completed() {
    let host = CodeHost::start().await;
    let rig = rig(&host, &["127.0.0.1"]).await;
    let answers = [Ok(()), Err(SinkError::Fenced)];
    rig.sink.authorizations.lock().unwrap().extend(answers);
    let overtaken = slow_put(&rig).await;
    assert!(overtaken.is_err() || !overtaken.unwrap().status().is_success());
    assert!(!host.storage.has(HELLO));
    assert_eq!(rig.sink.asked.load(Ordering::SeqCst), 2);
    assert_eq!(slow_put(&rig).await.unwrap().status().as_u16(), 200);
    assert!(host.storage.has(HELLO));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_never_stops_talking_is_not_listened_to() {
    let endless = format!(r#"{{"objects": [], "words": "{}"}}"#, "x".repeat(9 * 1024 * 1024));
    let (server, seen) = recording(move |_| answer(200, &[], endless.clone())).await;
    let rig = Rig::with(RigOptions {
        repository: http_repository(&format!("{}/owner/name.git", server.url)),
        ..RigOptions::default()
    })
    .await;
    let refused = rig
        .post(&format!("{OBJECTS}/batch"), AGENT, question("download", 5))
        .await;
    assert_eq!(
        (refused.status().as_u16(), code(&refused)),
        (502, "large_files.not_understood")
    );
    assert_eq!(seen.lock().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_runner_uploads_while_its_attempt_is_current_and_only_what_the_name_says() {
    let host = CodeHost::start().await;
    let rig = rig(&host, &["127.0.0.1"]).await;
    let refused = rig
        .post(&format!("{OBJECTS}/batch"), AGENT, question("upload", 5))
        .await;
    assert_eq!(
        (refused.status().as_u16(), code(&refused)),
        (403, "gateway.token_not_allowed")
    );
    let refused = put(&rig, AGENT, "hello").await;
    assert_eq!(
        (refused.status().as_u16(), code(&refused)),
        (403, "gateway.token_not_allowed")
    );
    let wrong = put(&rig, RUNNER, "help!").await;
    assert_eq!(
        (wrong.status().as_u16(), code(&wrong)),
        (422, "large_files.malformed")
    );
    let wrong = put(&rig, RUNNER, "hell").await;
    assert_eq!(
        (wrong.status().as_u16(), code(&wrong)),
        (422, "large_files.malformed")
    );
    rig.sink
        .authorizations
        .lock()
        .unwrap()
        .push_back(Err(SinkError::Fenced));
    let stale = put(&rig, RUNNER, "hello").await;
    assert_eq!((stale.status().as_u16(), code(&stale)), (409, "session.fenced"));
    assert!(!host.storage.has(HELLO));
    assert_eq!(put(&rig, RUNNER, "hello").await.status().as_u16(), 200);
    assert!(host.storage.has(HELLO));
    let answer = batch(&rig, RUNNER, "upload").await;
    assert!(
        answer["objects"][0].get("actions").is_none(),
        "it is there already: {answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_on_this_machine_keeps_them_where_git_lfs_does() {
    let root = tempfile::tempdir().unwrap();
    let bare = bare_repository(root.path()).await;
    let rig = Rig::with(RigOptions {
        repository: Repository::Local(bare.clone()),
        large_file_hosts: BTreeSet::new(),
        ..RigOptions::default()
    })
    .await;
    let sandbox = Sandbox::new(&rig).await;
    commit_large_file(&sandbox.clone, "hello").await;
    sandbox.push(&["origin", "HEAD"]).await.good();
    let kept = bare.join("lfs/objects/2c/f2").join(HELLO);
    assert_eq!(std::fs::read_to_string(&kept).unwrap(), "hello");
    let left: Vec<_> = std::fs::read_dir(bare.join("lfs/tmp")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");

    let home = sandbox.home.path();
    git(
        home,
        &[
            "clone",
            "-q",
            "-b",
            BRANCH,
            &sandbox.forwarder.url(AGENT),
            "second",
        ],
    )
    .await
    .good();
    let second = home.join("second");
    git(&second, &["lfs", "install", "--local"]).await.good();
    git(&second, &["lfs", "pull"]).await.good();
    assert_eq!(std::fs::read_to_string(second.join("data.bin")).unwrap(), "hello");

    std::fs::remove_file(&kept).unwrap();
    let answer = batch(&rig, AGENT, "download").await;
    assert_eq!(answer["objects"][0]["error"]["code"], 404);
    let wrong = put(&rig, RUNNER, "help!").await;
    assert_eq!(
        (wrong.status().as_u16(), code(&wrong)),
        (422, "large_files.malformed")
    );
    assert!(!kept.exists() && std::fs::read_dir(bare.join("lfs/tmp")).unwrap().next().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn those_of_submodules_are_fetched_and_never_uploaded() {
    let host = CodeHost::start().await;
    let mut rig = rig(&host, &["127.0.0.1"]).await;
    host.storage.keep(HELLO, "hello");
    let access = GatewayAccess {
        submodules: vec![http_repository(&host.repository())],
        ..rig.access(2)
    };
    rig.reopen(access).await;
    let objects = "/git/submodules/1.git/info/lfs/objects";
    let (agent, runner) = (token(AGENT, 2), token(RUNNER, 2));
    let answer = rig
        .post(&format!("{objects}/batch"), &agent, question("download", 5))
        .await;
    let answer: Value = answer.json().await.unwrap();
    let href = answer["objects"][0]["actions"]["download"]["href"]
        .as_str()
        .unwrap();
    assert_eq!(href, format!("http://gateway{objects}/{HELLO}?size=5"));
    let content = rig.get(&format!("{objects}/{HELLO}?size=5"), &agent).await;
    assert_eq!(content.text().await.unwrap(), "hello");
    let refused = rig
        .post(&format!("{objects}/batch"), &runner, question("upload", 5))
        .await;
    assert_eq!(refused.status().as_u16(), 403);
    let refused = rig
        .client()
        .put(format!("http://gateway{objects}/{HELLO}?size=5"))
        .bearer_auth(&runner);
    assert_eq!(refused.body("hello").send().await.unwrap().status().as_u16(), 403);
    let unlisted = rig
        .post(
            "/git/submodules/2.git/info/lfs/objects/batch",
            &agent,
            question("download", 5),
        )
        .await;
    assert_eq!(code(&unlisted), "repository.not_listed");
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_refused_before_the_host_is_asked() {
    let host = CodeHost::start().await;
    let rig = rig(&host, &["127.0.0.1"]).await;
    let other_hash = json!({"operation": "download", "objects": [], "hash_algo": "sha512"}).to_string();
    let object = json!({"oid": HELLO, "size": 5});
    let many = json!({"operation": "download", "objects": vec![object; 1001]}).to_string();
    let odd_name = question("download", 5).replace(HELLO, "../../etc/passwd");
    for body in ["", "{}", &other_hash, &many, &odd_name, &question("delete", 5)] {
        let answer = rig
            .post(&format!("{OBJECTS}/batch"), RUNNER, body.to_owned())
            .await;
        assert_eq!(
            (answer.status().as_u16(), code(&answer)),
            (422, "large_files.malformed"),
            "{body}"
        );
    }
    for path in [
        format!("{OBJECTS}/{HELLO}"),
        format!("{OBJECTS}/..%2f{HELLO}?size=5"),
        format!("{OBJECTS}/x?size=5"),
    ] {
        let answer = rig.get(&path, AGENT).await;
        assert_eq!(
            (answer.status().as_u16(), code(&answer)),
            (422, "large_files.malformed"),
            "{path}"
        );
    }
    let locks = rig
        .post("/git/repository.git/info/lfs/locks/verify", RUNNER, "{}")
        .await;
    assert_eq!(
        (locks.status().as_u16(), code(&locks)),
        (404, "large_files.no_locks")
    );
    assert!(host.seen.lock().unwrap().is_empty());
}
