//! `/git/…` in front of a code host, with the real git client.

use std::io::Write as _;

use fabrica_core::ports::Gateway as _;

use crate::support::code_host::CodeHost;
use crate::support::git::{Forwarder, Sandbox, git, refs};
use crate::support::upstream::{answer, recording};
use crate::support::{
    AGENT, BRANCH, GIT_SECRET, RUNNER, Rig, RigOptions, SESSION, code, fence, header, http_repository,
};

async fn rig_for(url: &str) -> Rig {
    Rig::with(RigOptions {
        repository: http_repository(url),
        ..RigOptions::default()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_clones_and_fetches_with_our_credential_only() {
    let host = CodeHost::start().await;
    let rig = rig_for(&host.repository()).await;
    let forwarder = Forwarder::start(&rig).await;
    let home = tempfile::tempdir().unwrap();
    for version in ["version=2", "version=0"] {
        let option = format!("protocol.{version}");
        let url = forwarder.url(AGENT);
        git(
            home.path(),
            &["-c", &option, "clone", "-q", "--bare", &url, version],
        )
        .await
        .good();
        let cloned = refs(&home.path().join(version)).await;
        assert!(
            cloned.contains("refs/heads/main") && cloned.contains("refs/tags/v1"),
            "{cloned}"
        );
    }
    let url = forwarder.url(AGENT);
    git(home.path(), &["clone", "-q", "--depth=1", &url, "shallow"])
        .await
        .good();
    git(&home.path().join("shallow"), &["fetch", "-q", "--unshallow"])
        .await
        .good();
    let header = format!("http.extraHeader=Authorization: Bearer {AGENT}");
    let plain = format!("http://{}/git/repository.git", forwarder.address);
    git(home.path(), &["-c", &header, "ls-remote", &plain])
        .await
        .good();
    let seen = host.seen.lock().unwrap().clone();
    assert!(
        seen.iter()
            .any(|request| request.header("git-protocol") == Some("version=2"))
    );
    for request in &seen {
        let everything = request.everything();
        assert!(!everything.contains(AGENT), "{everything}");
        assert_eq!(
            request.headers.get_all("authorization").iter().count(),
            1,
            "{everything}"
        );
        assert_eq!(request.header("cookie"), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_runner_pushes_the_sessions_branch_and_checkpoints() {
    let host = CodeHost::start().await;
    let rig = rig_for(&host.repository()).await;
    let sandbox = Sandbox::new(&rig).await;
    sandbox.push(&["origin", "HEAD"]).await.good();
    let checkpoint = format!("HEAD:refs/fabrica/{SESSION}/checkpoint");
    sandbox.push(&["origin", &checkpoint]).await.good();
    // Larger than what git sends in one piece: it first asks with an empty push, then sends without a length.
    let noise: Vec<u8> = (0_u32..3 << 20)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0])
        .collect();
    std::fs::write(sandbox.clone.join("large"), noise).unwrap();
    sandbox.git(&["add", "."]).await.good();
    sandbox.git(&["commit", "-q", "-m", "large"]).await.good();
    sandbox.push(&["origin", "HEAD"]).await.good();
    let head = sandbox.git(&["rev-parse", "HEAD"]).await.good();
    let there = refs(&host.bare).await;
    assert!(
        there.contains(&format!("refs/heads/{BRANCH} {}", head.trim())),
        "{there}"
    );
    assert!(
        there.contains(&format!("refs/fabrica/{SESSION}/checkpoint")),
        "{there}"
    );
    assert!(
        host.seen
            .lock()
            .unwrap()
            .iter()
            .all(|request| !request.everything().contains(RUNNER))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn forbidden_pushes_never_reach_the_code_host_and_git_says_why() {
    let host = CodeHost::start().await;
    let rig = rig_for(&host.repository()).await;
    let sandbox = Sandbox::new(&rig).await;
    let before = refs(&host.bare).await;
    sandbox.push_what_is_forbidden().await;
    let text = sandbox.push(&["origin", "HEAD:refs/heads/main"]).await.bad();
    assert!(
        text.contains("[remote rejected]") && text.contains("push.ref_refused"),
        "{text}"
    );
    // The client knows that options are understood: it is the gateway that refuses them.
    let own = format!("HEAD:refs/heads/{BRANCH}");
    let text = sandbox.push(&["-o", "ci.skip", "origin", &own]).await.bad();
    assert!(text.contains("push.option_refused"), "{text}");
    assert_eq!(refs(&host.bare).await, before);
    assert_eq!(host.pushes(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_cannot_push_even_the_sessions_branch() {
    let host = CodeHost::start().await;
    let rig = rig_for(&host.repository()).await;
    let sandbox = Sandbox::new(&rig).await;
    let url = sandbox.forwarder.url(AGENT);
    let text = sandbox.push(&[&url, "HEAD"]).await.bad();
    assert!(text.contains("this token does not open this part"), "{text}");
    let direct = rig
        .post("/git/repository.git/git-receive-pack", AGENT, "0000")
        .await;
    assert_eq!(
        (direct.status().as_u16(), code(&direct)),
        (403, "gateway.token_not_allowed")
    );
    assert_eq!(host.pushes(), 0);
    assert!(
        host.seen
            .lock()
            .unwrap()
            .iter()
            .all(|request| !request.path.contains("receive-pack"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_pushes_are_checked_as_well() {
    let host = CodeHost::start().await;
    let rig = rig_for(&host.repository()).await;
    let compress = |name: &str| {
        let line = format!("{} {} {name}\0 report-status", "0".repeat(40), "2".repeat(40));
        let body = format!("{:04x}{line}0000", line.len() + 4);
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(body.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    let post = async |body: Vec<u8>, encoding: &str| {
        let request = rig
            .client()
            .post("http://gateway/git/repository.git/git-receive-pack");
        request
            .bearer_auth(RUNNER)
            .header("content-encoding", encoding)
            .header("content-type", "application/x-git-receive-pack-request")
            .body(body)
            .send()
            .await
            .unwrap()
    };
    let refused = post(compress("refs/heads/main"), "gzip").await;
    assert_eq!(code(&refused), "push.ref_refused");
    assert!(refused.text().await.unwrap().contains("ng refs/heads/main"));
    for (body, encoding) in [
        (compress("refs/heads/main"), "br"),
        (b"not gzip".to_vec(), "gzip"),
    ] {
        let refused = post(body, encoding).await;
        assert_eq!(
            (refused.status().as_u16(), code(&refused)),
            (400, "push.malformed")
        );
    }
    assert_eq!(host.pushes(), 0);
    post(compress(&format!("refs/heads/{BRANCH}")), "gzip").await;
    let seen = host.seen.lock().unwrap().last().unwrap().clone();
    assert_eq!(seen.header("content-encoding"), None);
    assert!(
        seen.body.starts_with(b"00"),
        "it went on uncompressed: {:?}",
        seen.body
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_plans_repository_is_there() {
    let host = CodeHost::start().await;
    let rig = rig_for(&host.repository()).await;
    for path in [
        "/git/other.git/info/refs?service=git-upload-pack",
        "/git/repository.git/HEAD",
        "/git/repository.git/info/refs",
        "/git/repository.git/info/refs?service=git-upload-archive",
        "/git/repository.git/info/refs?service=git-upload-pack&x=1",
        "/git/repository.git/%2e%2e/name2.git/info/refs?service=git-upload-pack",
        "/git/repository.git/objects/info/packs",
    ] {
        let refused = rig.get(path, RUNNER).await;
        assert_eq!(
            (refused.status().as_u16(), code(&refused)),
            (403, "git.path_refused"),
            "{path}"
        );
    }
    assert!(host.seen.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn git_shows_what_the_code_host_answers() {
    for (status, expected, said) in [
        (404, "repository.not_found", "is not there, or is hidden"),
        (401, "repository.denied", "refuses Fabrica's credential"),
        (403, "repository.denied", "Write access not granted"),
        (500, "repository.unreachable", "status 500"),
    ] {
        let text = format!("Write access not granted to {GIT_SECRET}\n");
        let (server, _seen) =
            recording(move |_| answer(status, &[("content-type", "text/plain")], text.clone())).await;
        let rig = rig_for(&format!("{}/owner/name.git", server.url)).await;
        let refused = rig
            .get("/git/repository.git/info/refs?service=git-upload-pack", AGENT)
            .await;
        assert_eq!(code(&refused), expected);
        assert_eq!(header(&refused, "www-authenticate"), None);
        let forwarder = Forwarder::start(&rig).await;
        let printed = git(rig.parent.path(), &["ls-remote", &forwarder.url(AGENT)])
            .await
            .bad();
        assert!(
            printed.contains(said) && !printed.contains(GIT_SECRET),
            "{printed}"
        );
    }
    let rig = rig_for("http://127.0.0.1:9/owner/name.git").await;
    let refused = rig
        .get("/git/repository.git/info/refs?service=git-upload-pack", AGENT)
        .await;
    assert_eq!(
        (refused.status().as_u16(), code(&refused)),
        (502, "repository.unreachable")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_repository_is_followed_on_its_host_and_never_to_another() {
    let host = CodeHost::start().await;
    let rig = rig_for(&format!("{}/owner/renamed.git", host.server.url)).await;
    let sandbox = Sandbox::new(&rig).await;
    sandbox.push(&["origin", "HEAD"]).await.good();
    let (elsewhere, reached) = recording(|_| answer(200, &[], "")).await;
    let target = format!("{}/owner/name.git/info/refs", elsewhere.url);
    let (server, _seen) = recording(move |_| answer(302, &[("location", &target)], "")).await;
    let rig = rig_for(&format!("{}/owner/name.git", server.url)).await;
    let refused = rig
        .get("/git/repository.git/info/refs?service=git-upload-pack", AGENT)
        .await;
    assert_eq!(
        (refused.status().as_u16(), code(&refused)),
        (404, "repository.moved")
    );
    assert_eq!(header(&refused, "location"), None);
    assert!(reached.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn git_is_let_in_no_more_after_the_end() {
    let host = CodeHost::start().await;
    let rig = rig_for(&host.repository()).await;
    let sandbox = Sandbox::new(&rig).await;
    rig.gateway.open(rig.access(2)).await.unwrap();
    sandbox.push(&["origin", "HEAD"]).await.bad();
    rig.gateway.close(fence(2)).await.unwrap();
    sandbox.git(&["fetch"]).await.bad();
    assert_eq!(host.pushes(), 0);
    drop(sandbox.home);
}
