//! `/git/submodules/…`: what the plan lists beside its repository, with the real git client.

use fabrica_core::ports::GatewayAccess;

use crate::support::code_host::CodeHost;
use crate::support::git::{Forwarder, Sandbox, git, refs};
use crate::support::{AGENT, GIT_SECRET, RUNNER, Rig, RigOptions, code, http_repository};

/// A rig whose second attempt may fetch `owner/submodule.git` too.
async fn rig(host: &CodeHost) -> Rig {
    let mut rig = Rig::with(RigOptions {
        repository: http_repository(&host.repository()),
        ..RigOptions::default()
    })
    .await;
    let listed = ["renamed", "name", "gone"].map(|name| {
        let url = host.repository().replace("/name.git", &format!("/{name}.git"));
        http_repository(&url)
    });
    let access = GatewayAccess {
        submodules: listed.into(),
        ..rig.access(2)
    };
    rig.reopen(access).await;
    rig
}

fn second(base: &str) -> String {
    crate::support::token(base, 2)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listed_one_is_fetched_with_our_credential() {
    let host = CodeHost::start().await;
    let rig = rig(&host).await;
    let forwarder = Forwarder::start(&rig).await;
    let home = tempfile::tempdir().unwrap();
    for (name, options) in [("1", &[][..]), ("2", &["--depth=1"])] {
        let url = forwarder
            .url(&second(AGENT))
            .replace("repository.git", &format!("submodules/{name}.git"));
        let arguments = [&["clone", "-q", "--bare"], options, &[&url, name]].concat();
        git(home.path(), &arguments).await.good();
        assert!(refs(&home.path().join(name)).await.contains("refs/heads/main"));
    }
    let seen = host.seen.lock().unwrap().clone();
    assert!(
        seen.iter()
            .any(|request| request.path.starts_with("/owner/renamed.git/"))
    );
    for request in &seen {
        assert!(
            request
                .header("authorization")
                .is_some_and(|value| value.starts_with("Basic "))
        );
        assert!(!request.everything().contains(AGENT));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_pushes_to_one_and_git_says_why() {
    let host = CodeHost::start().await;
    let rig = rig(&host).await;
    let before = refs(&host.bare).await;
    let forwarder = Forwarder::start(&rig).await;
    let home = tempfile::tempdir().unwrap();
    let of = |token: &str, name: &str| {
        forwarder
            .url(&second(token))
            .replace("repository.git", &format!("submodules/{name}.git"))
    };
    git(home.path(), &["clone", "-q", &of(AGENT, "2"), "clone"])
        .await
        .good();
    let clone = home.path().join("clone");
    git(&clone, &["commit", "-q", "--allow-empty", "-m", "work"])
        .await
        .good();
    for token in [RUNNER, AGENT] {
        for reference in ["main", "fabrica/018f4e1c", "refs/tags/x"] {
            let text = git(&clone, &["push", &of(token, "2"), &format!("HEAD:{reference}")])
                .await
                .bad();
            assert!(text.contains("nothing is pushed to them"), "{text}");
        }
        let direct = rig
            .post("/git/submodules/2.git/git-receive-pack", &second(token), "0000")
            .await;
        assert_eq!(
            (direct.status().as_u16(), code(&direct)),
            (403, "push.submodule_refused")
        );
    }
    assert_eq!(refs(&host.bare).await, before);
    assert_eq!(host.pushes(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_listed_or_is_no_fetch_never_reaches_the_code_host() {
    let host = CodeHost::start().await;
    let rig = rig(&host).await;
    for name in [
        "0.git",
        "4.git",
        "-1.git",
        "+1.git",
        "1",
        "x.git",
        "..%2frepository.git",
        "18446744073709551616.git",
    ] {
        let path = format!("/git/submodules/{name}/info/refs?service=git-upload-pack");
        let answer = rig.get(&path, &second(AGENT)).await;
        assert_eq!(
            (answer.status().as_u16(), code(&answer)),
            (404, "repository.not_listed"),
            "{name}"
        );
    }
    for path in [
        "info/refs",
        "HEAD",
        "objects/info/packs",
        "info/refs?service=git-upload-archive",
        "x/info/refs",
    ] {
        let answer = rig
            .get(&format!("/git/submodules/1.git/{path}"), &second(AGENT))
            .await;
        assert_eq!(
            (answer.status().as_u16(), code(&answer)),
            (403, "git.path_refused"),
            "{path}"
        );
    }
    let stranger = rig
        .get("/git/submodules/1.git/info/refs?service=git-upload-pack", "other")
        .await;
    assert_eq!(stranger.status().as_u16(), 401);
    assert!(host.seen.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_the_host_does_not_have_is_said_to_be_missing_without_the_secret() {
    let host = CodeHost::start().await;
    let rig = rig(&host).await;
    let answer = rig
        .get(
            "/git/submodules/3.git/info/refs?service=git-upload-pack",
            &second(AGENT),
        )
        .await;
    assert_eq!(
        (answer.status().as_u16(), code(&answer)),
        (404, "repository.not_found")
    );
    let text = answer.text().await.unwrap();
    assert!(
        text.contains("/owner/gone.git") && !text.contains(GIT_SECRET),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_list_there_is_none() {
    let host = CodeHost::start().await;
    let rig = Rig::with(RigOptions {
        repository: http_repository(&host.repository()),
        ..RigOptions::default()
    })
    .await;
    let sandbox = Sandbox::new(&rig).await;
    let url = sandbox
        .forwarder
        .url(AGENT)
        .replace("repository.git", "submodules/1.git");
    let text = sandbox.git(&["ls-remote", &url]).await.bad();
    assert!(text.contains("add its address to `submodules`"), "{text}");
}
