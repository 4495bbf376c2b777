//! The rehearsal's stand-ins, met by the real clients: git, HTTP and, where it is there, the real agent.

use std::{
    path::Path,
    process::Output,
    time::{Duration, Instant},
};

use fabrica_cli::rehearsal::{
    ApiOptions, CodeHost, CodeHostOptions, Credential, Fault, ForgeFault, GitOperation, PullRequestState,
    Rehearsal, RehearsalOptions, SampleRepository, Script, ScriptedMessagesApi, Turn, scripts,
};
use reqwest::{Client, Method, Response};
use serde_json::{Value, json};
use tokio::process::Command;

const TOKEN: &str = "canary-forge-token";
const KEY: &str = "canary-model-key";

/// A command without the environment of whoever runs the test.
fn isolated(program: &str, home: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("HOME", home)
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("LANG", "C.UTF-8")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_CONFIG_NOSYSTEM", "1");
    for who in ["AUTHOR", "COMMITTER"] {
        command
            .env(format!("GIT_{who}_NAME"), "Agent")
            .env(format!("GIT_{who}_EMAIL"), "agent@acme.example");
    }
    command
}

async fn git(directory: &Path, arguments: &[&str]) -> Output {
    isolated("git", directory)
        .arg("-C")
        .arg(directory)
        .args(arguments)
        .output()
        .await
        .unwrap()
}

async fn git_succeeds(directory: &Path, arguments: &[&str]) {
    let output = git(directory, arguments).await;
    assert!(
        output.status.success(),
        "git {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn with_password(url: &str, password: &str) -> String {
    url.replacen("http://", &format!("http://anyone:{password}@"), 1)
}

/// A code host with the sample, and a directory to work in.
async fn code_host() -> (tempfile::TempDir, CodeHost, SampleRepository) {
    let directory = tempfile::tempdir().unwrap();
    let host = CodeHost::start(CodeHostOptions::new(directory.path().join("repositories"), TOKEN))
        .await
        .unwrap();
    let sample = SampleRepository::create(host.root()).await.unwrap();
    (directory, host, sample)
}

/// Clones the sample and pushes a branch with one commit.
async fn pushed_branch(directory: &Path, host: &CodeHost, branch: &str) {
    let url = with_password(&host.repository_url("acme/sample"), TOKEN);
    git_succeeds(directory, &["clone", "-q", &url, "clone"]).await;
    let clone = directory.join("clone");
    std::fs::write(clone.join("NEWS"), "something new\n").unwrap();
    git_succeeds(&clone, &["switch", "-q", "-c", branch]).await;
    git_succeeds(&clone, &["add", "-A"]).await;
    git_succeeds(&clone, &["commit", "-q", "-m", "Tell the news"]).await;
    git_succeeds(&clone, &["push", "-q", "origin", branch]).await;
}

#[tokio::test]
async fn a_clone_needs_the_credential() {
    let (directory, host, _sample) = code_host().await;
    let url = host.repository_url("acme/sample");
    assert!(
        !git(directory.path(), &["clone", &url, "none"])
            .await
            .status
            .success()
    );
    assert!(
        !git(
            directory.path(),
            &["clone", &with_password(&url, "wrong"), "wrong"]
        )
        .await
        .status
        .success()
    );
    git_succeeds(
        directory.path(),
        &["clone", "-q", &with_password(&url, TOKEN), "right"],
    )
    .await;
    assert!(directory.path().join("right/bin/stock").is_file());

    let credentials: Vec<_> = host
        .git()
        .requests()
        .iter()
        .map(|request| request.credential)
        .collect();
    assert!(credentials.contains(&Credential::Missing) && credentials.contains(&Credential::Wrong));
    assert_eq!(
        host.git().requests().last().unwrap().operation,
        GitOperation::Fetch
    );
    assert_eq!(host.git().requests().last().unwrap().status, Some(200));
    host.shutdown().await;
}

#[tokio::test]
async fn an_unknown_repository_is_not_found() {
    let (directory, host, _sample) = code_host().await;
    let url = with_password(&host.repository_url("acme/other"), TOKEN);
    let output = git(directory.path(), &["clone", &url, "other"]).await;
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("not found"),
        "{output:?}"
    );
    let client = Client::new();
    for path in [
        "/acme/sample.git/../../etc/passwd",
        "/acme/sample.git/.%2e/HEAD",
        "/x",
        "/",
    ] {
        let url = format!("{}{path}", host.base_url());
        let response = client
            .get(url)
            .basic_auth("git", Some(TOKEN))
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 404, "{path}");
    }
}

#[tokio::test]
async fn a_push_arrives_and_runs_the_hooks() {
    let (directory, host, sample) = code_host().await;
    let ledger = directory.path().join("ledger");
    sample
        .install_hook(
            "post-receive",
            &format!("#!/bin/sh\ncat >>'{}'\n", ledger.display()),
        )
        .unwrap();
    pushed_branch(directory.path(), &host, "fabrica/news").await;

    let head = sample.head("fabrica/news").await.unwrap().unwrap();
    assert_eq!(
        sample.file("fabrica/news", "NEWS").await.unwrap().as_deref(),
        Some("something new\n")
    );
    assert_eq!(sample.log("fabrica/news").await.unwrap(), ["Tell the news"]);
    assert!(
        sample
            .diff("fabrica/news")
            .await
            .unwrap()
            .contains("+something new")
    );
    let line = std::fs::read_to_string(ledger).unwrap();
    assert_eq!(
        line.trim(),
        format!("{} {head} refs/heads/fabrica/news", "0".repeat(40))
    );
    assert!(
        host.git()
            .requests()
            .iter()
            .any(|request| request.operation == GitOperation::Push)
    );

    git_succeeds(
        &directory.path().join("clone"),
        &["remote", "set-url", "origin", &host.repository_url("acme/sample")],
    )
    .await;
    assert!(
        !git(&directory.path().join("clone"), &["push", "origin", "HEAD:other"])
            .await
            .status
            .success()
    );
    assert_eq!(sample.head("other").await.unwrap(), None);
}

#[tokio::test]
async fn large_packs_and_compressed_requests_pass() {
    let (directory, host, sample) = code_host().await;
    let url = with_password(&host.repository_url("acme/sample"), TOKEN);
    git_succeeds(directory.path(), &["clone", "-q", &url, "clone"]).await;
    let clone = directory.path().join("clone");
    // Bytes that do not compress, beyond git's buffer for a push, so that it is sent in chunks.
    let mut state = 1_u32;
    let noise: Vec<u8> = (0..3_000_000)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        })
        .collect();
    std::fs::write(clone.join("noise"), noise).unwrap();
    git_succeeds(&clone, &["add", "-A"]).await;
    git_succeeds(&clone, &["commit", "-q", "-m", "Add noise"]).await;
    for number in 0..40 {
        git_succeeds(&clone, &["commit", "-q", "--allow-empty", "-m", "Go on"]).await;
        git_succeeds(&clone, &["branch", &format!("branch-{number}")]).await;
    }
    git_succeeds(&clone, &["push", "-q", "origin", "--all"]).await;
    // Forty wants are long enough for git to compress its request.
    git_succeeds(directory.path(), &["clone", "-q", &url, "again"]).await;
    assert_eq!(
        std::fs::read(directory.path().join("again/noise")).unwrap().len(),
        3_000_000
    );
    let compressed = |encoding: Option<String>| encoding.as_deref() == Some("gzip");
    assert!(
        host.git()
            .requests()
            .into_iter()
            .any(|request| compressed(request.content_encoding))
    );
    assert_eq!(sample.refs().await.unwrap().len(), 41);
}

async fn call(host_url: &str, method: Method, path: &str, body: &Value) -> Response {
    let request = Client::new()
        .request(method, format!("{host_url}{path}"))
        .bearer_auth(TOKEN);
    let request = if body.is_null() {
        request
    } else {
        request.json(body)
    };
    request.send().await.unwrap()
}

#[tokio::test]
async fn github_opens_a_pull_request_once() {
    let (directory, host, _sample) = code_host().await;
    let api = host.forge_api_url();
    let proposal =
        json!({"title": "News", "head": "fabrica/news", "base": "main", "body": "why", "draft": true});
    let missing = call(&api, Method::POST, "/repos/acme/sample/pulls", &proposal).await;
    assert_eq!(missing.status(), 422);
    let missing: Value = missing.json().await.unwrap();
    assert_eq!(
        missing["errors"][0],
        json!({"resource": "PullRequest", "field": "head", "code": "invalid"})
    );

    pushed_branch(directory.path(), &host, "fabrica/news").await;
    let opened = call(&api, Method::POST, "/repos/acme/sample/pulls", &proposal).await;
    assert_eq!(opened.status(), 201);
    let opened: Value = opened.json().await.unwrap();
    assert_eq!((&opened["number"], &opened["draft"]), (&json!(1), &json!(true)));
    let page = Client::new()
        .get(opened["html_url"].as_str().unwrap())
        .send()
        .await
        .unwrap();
    assert!(page.text().await.unwrap().contains("+something new"));

    let again = call(&api, Method::POST, "/repos/acme/sample/pulls", &proposal).await;
    assert_eq!(again.status(), 422);
    let again: Value = again.json().await.unwrap();
    assert_eq!(
        again["errors"][0]["message"],
        "A pull request already exists for acme:fabrica/news."
    );

    let found = "/repos/acme/sample/pulls?head=acme:fabrica/news&base=main&state=open";
    let found: Value = call(&api, Method::GET, found, &Value::Null)
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(found[0]["number"], 1);
    let other = "/repos/acme/sample/pulls?head=acme:other";
    let other: Value = call(&api, Method::GET, other, &Value::Null)
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(other, json!([]));
}

#[tokio::test]
async fn github_labels_reviews_and_closes() {
    let (directory, host, _sample) = code_host().await;
    let api = host.forge_api_url();
    pushed_branch(directory.path(), &host, "news").await;
    let proposal = json!({"title": "News", "head": "acme:news", "base": "main"});
    assert_eq!(
        call(&api, Method::POST, "/repos/acme/sample/pulls", &proposal)
            .await
            .status(),
        201
    );
    let labels = json!({"labels": ["agent", "brand new"]});
    assert_eq!(
        call(&api, Method::POST, "/repos/acme/sample/issues/1/labels", &labels)
            .await
            .status(),
        200
    );
    let reviewers = json!({"reviewers": ["mona"], "team_reviewers": ["platform"]});
    let path = "/repos/acme/sample/pulls/1/requested_reviewers";
    assert_eq!(call(&api, Method::POST, path, &reviewers).await.status(), 201);
    let closing = json!({"state": "closed", "title": "Old news"});
    assert_eq!(
        call(&api, Method::PATCH, "/repos/acme/sample/pulls/1", &closing)
            .await
            .status(),
        200
    );

    let pulls = host.forge().pull_requests();
    assert_eq!(pulls[0].labels, ["agent", "brand new"]);
    assert_eq!(
        (&pulls[0].reviewers[0], &pulls[0].team_reviewers[0]),
        (&"mona".to_owned(), &"platform".to_owned())
    );
    assert_eq!(
        (pulls[0].state, pulls[0].title.as_str()),
        (PullRequestState::Closed, "Old news")
    );
}

#[tokio::test]
async fn gitea_speaks_its_own_dialect() {
    let (directory, host, _sample) = code_host().await;
    let api = host.gitea_api_url();
    let version: Value = Client::new()
        .get(format!("{api}/version"))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert!(version["version"].is_string());
    pushed_branch(directory.path(), &host, "news").await;
    let proposal = json!({"title": "WIP: News", "head": "news", "base": "main"});
    let opened = call(&api, Method::POST, "/repos/acme/sample/pulls", &proposal).await;
    assert_eq!(opened.status(), 201);
    assert_eq!(opened.json::<Value>().await.unwrap()["draft"], true);
    assert_eq!(
        call(&api, Method::POST, "/repos/acme/sample/pulls", &proposal)
            .await
            .status(),
        409
    );

    let labels = call(&api, Method::GET, "/repos/acme/sample/labels", &Value::Null).await;
    let labels: Value = labels.json().await.unwrap();
    assert_eq!(
        (&labels[1]["id"], &labels[1]["name"]),
        (&json!(2), &json!("agent"))
    );
    let chosen = json!({"labels": [2]});
    assert_eq!(
        call(&api, Method::POST, "/repos/acme/sample/issues/1/labels", &chosen)
            .await
            .status(),
        200
    );
    let reviewers = json!({"reviewers": ["mona"]});
    let path = "/repos/acme/sample/pulls/1/requested_reviewers";
    assert_eq!(call(&api, Method::POST, path, &reviewers).await.status(), 201);
    assert_eq!(host.forge().pull_requests()[0].labels, ["agent"]);
}

#[tokio::test]
async fn the_forge_refuses_other_tokens_and_records_them() {
    let (_directory, host, _sample) = code_host().await;
    let client = Client::new();
    for (api, message) in [
        (host.forge_api_url(), "Bad credentials"),
        (host.gitea_api_url(), "invalid username, password or token"),
    ] {
        let response = client
            .get(format!("{api}/user"))
            .header("authorization", "token other")
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 401);
        assert_eq!(response.json::<Value>().await.unwrap()["message"], message);
        let accepted = client
            .get(format!("{api}/user"))
            .header("authorization", format!("token {TOKEN}"));
        assert_eq!(accepted.send().await.unwrap().status(), 200);
    }
    let requests = host.forge().requests();
    assert_eq!(requests[0].path, "/api/v3/user");
    assert_eq!(requests[0].authorization.as_deref(), Some("token other"));
    assert_eq!(requests[3].status, Some(200));
}

#[tokio::test]
async fn an_outage_can_lose_the_answer_of_a_request_that_took_effect() {
    let (directory, host, _sample) = code_host().await;
    pushed_branch(directory.path(), &host, "news").await;
    host.forge().inject(ForgeFault {
        status: 502,
        headers: Vec::new(),
        takes_effect: true,
    });
    let proposal = json!({"title": "News", "head": "news", "base": "main"});
    let lost = call(
        &host.forge_api_url(),
        Method::POST,
        "/repos/acme/sample/pulls",
        &proposal,
    )
    .await;
    assert_eq!(lost.status(), 502);
    assert_eq!(host.forge().pull_requests().len(), 1);
    let again = call(
        &host.forge_api_url(),
        Method::POST,
        "/repos/acme/sample/pulls",
        &proposal,
    )
    .await;
    assert_eq!(again.status(), 422);
}

async fn model(script: Script) -> ScriptedMessagesApi {
    ScriptedMessagesApi::start(
        script,
        ApiOptions {
            accepted_key: Some(KEY.into()),
        },
    )
    .await
    .unwrap()
}

fn ask(api: &ScriptedMessagesApi, session: &str, stream: bool) -> reqwest::RequestBuilder {
    let body = json!({
        "model": "sonnet",
        "max_tokens": 100,
        "stream": stream,
        "messages": [{"role": "user", "content": "go"}],
    });
    let url = format!("{}/v1/messages?beta=true", api.base_url());
    Client::new()
        .post(url)
        .header("x-api-key", KEY)
        .header("x-claude-code-session-id", session)
        .json(&body)
}

/// The events of a stream, each with the name that was announced for it.
fn events(stream: &str) -> Vec<(String, Value)> {
    let event = |block: &str| {
        let (name, data) = block.split_once('\n').unwrap();
        let data = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        (name.strip_prefix("event: ").unwrap().to_owned(), data)
    };
    stream.split_terminator("\n\n").map(event).collect()
}

#[tokio::test]
async fn the_model_streams_its_turn() {
    let api = model(Script::new([Turn::tool(
        "Bash",
        scripts::bash("true", "Nothing"),
    )]))
    .await;
    let response = ask(&api, "one", true).send().await.unwrap();
    assert_eq!(
        response.headers()["content-type"],
        "text/event-stream; charset=utf-8"
    );
    let events = events(&response.text().await.unwrap());
    assert!(events.iter().all(|(name, data)| *name == data["type"]));
    assert_eq!(events.first().unwrap().0, "message_start");
    assert_eq!(events.last().unwrap().0, "message_stop");
    let delta = &events[events.len() - 2].1;
    assert_eq!(delta["delta"]["stop_reason"], "tool_use");
    assert!(delta["usage"]["output_tokens"].as_u64().unwrap() > 0);

    let whole: Value = ask(&api, "one", false)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(whole["content"][0]["name"], "Bash");
    assert_eq!(api.requests()[0].session(), Some("one"));
    api.shutdown().await;
}

#[tokio::test]
async fn faults_come_first_and_for_each_session() {
    let turn = Turn::text("hello")
        .fault(Fault::rate_limited(Duration::from_secs(7), 1))
        .fault(Fault::cut_after(2));
    let api = model(Script::new([turn])).await;
    for session in ["one", "two"] {
        let limited = ask(&api, session, true).send().await.unwrap();
        assert_eq!(limited.status(), 429);
        assert_eq!(limited.headers()["retry-after"], "7");
        assert_eq!(
            limited.json::<Value>().await.unwrap()["error"]["type"],
            "rate_limit_error"
        );
        let mut cut = ask(&api, session, true).send().await.unwrap();
        let mut received = String::new();
        let failure = loop {
            match cut.chunk().await {
                Ok(Some(chunk)) => received.push_str(std::str::from_utf8(&chunk).unwrap()),
                end => break end,
            }
        };
        assert!(failure.is_err());
        assert_eq!(events(&received).len(), 2);
        let answered = ask(&api, session, true).send().await.unwrap();
        assert!(answered.text().await.unwrap().contains("message_stop"));
    }
}

#[tokio::test]
async fn the_model_refuses_other_keys_and_other_paths() {
    let api = model(Script::default()).await;
    let client = Client::new();
    let foreign = ask(&api, "one", false)
        .header("x-api-key", "foreign")
        .bearer_auth("foreign");
    let foreign = client.execute({
        let mut request = foreign.build().unwrap();
        request
            .headers_mut()
            .insert("x-api-key", "foreign".parse().unwrap());
        request
    });
    let foreign = foreign.await.unwrap();
    assert_eq!(foreign.status(), 401);
    assert_eq!(
        foreign.json::<Value>().await.unwrap()["error"]["type"],
        "authentication_error"
    );
    let files = client
        .get(format!("{}/v1/files", api.base_url()))
        .header("x-api-key", KEY)
        .send()
        .await
        .unwrap();
    assert_eq!(files.status(), 404);
    let counted = client
        .post(format!("{}/v1/messages/count_tokens", api.base_url()))
        .bearer_auth(KEY)
        .json(&json!({"messages": [{"role": "user", "content": "go"}]}));
    let counted: Value = counted.send().await.unwrap().json().await.unwrap();
    assert!(counted["input_tokens"].as_u64().unwrap() > 0);
    let paths: Vec<String> = api.requests().into_iter().map(|request| request.path).collect();
    assert_eq!(
        paths,
        ["/v1/messages?beta=true", "/v1/files", "/v1/messages/count_tokens"]
    );
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_a_slow_model() {
    let api = model(scripts::slow(1, Duration::from_mins(10))).await;
    let waiting = tokio::spawn(ask(&api, "one", true).send());
    api.requests_reach(1).await;
    let begun = Instant::now();
    api.shutdown().await;
    assert!(begun.elapsed() < Duration::from_secs(5));
    let _ = waiting.await.unwrap();
}

/// The real agent, with nothing of this machine's environment and no address but loopback.
fn agent(program: &str, home: &Path, workspace: &Path, model: &str) -> Command {
    let mut command = isolated(program, home);
    command
        .current_dir(workspace)
        .env("ANTHROPIC_BASE_URL", model)
        .env("ANTHROPIC_AUTH_TOKEN", KEY)
        .env("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1")
        .env("DISABLE_AUTOUPDATER", "1")
        .env("IS_SANDBOX", "1")
        .args([
            "-p",
            "--output-format",
            "stream-json",
            "--verbose",
            "--dangerously-skip-permissions",
        ])
        .args(["--setting-sources", "user", "--strict-mcp-config"])
        .args(["--settings", r#"{"attribution":{"commit":"","pr":""}}"#])
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true);
    command
}

#[tokio::test]
async fn the_real_agent_does_the_sample_job() {
    let Some(program) = std::env::var_os("FABRICA_TEST_CLAUDE") else {
        println!("skipped: FABRICA_TEST_CLAUDE names no agent");
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let (home, workspace) = (directory.path().join("home"), directory.path().join("clone"));
    std::fs::create_dir(&home).unwrap();
    let script = scripts::sample_job(workspace.to_str().unwrap());
    let options = RehearsalOptions::new(directory.path().join("repositories"), script);
    let rehearsal = Rehearsal::start(options.model_key(KEY).forge_token(TOKEN))
        .await
        .unwrap();
    let url = with_password(&rehearsal.repository_url(), TOKEN);
    git_succeeds(directory.path(), &["clone", "-q", &url, "clone"]).await;

    let mut command = agent(
        program.to_str().unwrap(),
        &home,
        &workspace,
        &rehearsal.model_base_url(),
    );
    let run = command
        .args(["--", "Add the command that the README wants."])
        .output();
    let output = tokio::time::timeout(Duration::from_mins(2), run)
        .await
        .unwrap()
        .unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let result = lines.iter().find(|line| line["type"] == "result").unwrap();
    assert_eq!(result["is_error"], false, "{result}");
    assert_eq!(result["terminal_reason"], "completed");
    assert!(result["total_cost_usd"].as_f64().unwrap() > 0.0);
    assert_eq!(rehearsal.model_requests().len(), 4);

    git_succeeds(&workspace, &["push", "-q", "origin", "HEAD:fabrica/low"]).await;
    let sample = rehearsal.sample();
    assert_eq!(sample.log("fabrica/low").await.unwrap(), ["Add stock low"]);
    assert!(
        sample
            .file("fabrica/low", "tests/low_test.sh")
            .await
            .unwrap()
            .is_some()
    );
    assert!(
        sample
            .file("fabrica/low", "bin/stock")
            .await
            .unwrap()
            .unwrap()
            .contains("| low N")
    );
    rehearsal.shutdown().await;
}
