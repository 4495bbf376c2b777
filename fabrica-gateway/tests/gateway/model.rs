//! `/model/…`: what reaches the model API, and what comes back.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::routing::post;
use bytes::Bytes;
use fabrica_core::clock::{Clock as _, SystemClock};
use fabrica_gateway::ModelCredential;
use futures::StreamExt as _;
use secrecy::SecretString;
use serde_json::Value;
use tokio::time::timeout;

use crate::support::upstream::{Server, answer, answering_by_hand, by_hand, recording};
use crate::support::{AGENT, MODEL_KEY, RUNNER, Rig, RigOptions, code, header};

const SOON: Duration = Duration::from_secs(10);

async fn rig_for(server: &Server, credential: ModelCredential) -> Rig {
    Rig::with(RigOptions {
        model: format!("{}/base", server.url),
        credential,
        ..RigOptions::default()
    })
    .await
}

fn api_key() -> ModelCredential {
    ModelCredential::ApiKey(SecretString::from(MODEL_KEY))
}

#[tokio::test]
async fn the_upstream_sees_our_credential_and_none_of_the_sandboxs() {
    let (server, ledger) = recording(|_| answer(200, &[], "{}")).await;
    let rig = rig_for(&server, api_key()).await;
    let foreign = "canary-foreign";
    let sent = rig
        .client()
        .post("http://gateway/model/v1/messages?beta=true")
        .bearer_auth(AGENT)
        .header("x-api-key", foreign)
        .header("proxy-authorization", format!("Basic {foreign}"))
        .header("cookie", format!("session={foreign}"))
        .header("forwarded", format!("for={foreign}"))
        .header("x-forwarded-for", foreign)
        .header("x-amz-security-token", foreign)
        .header("anthropic-version", "2023-06-01")
        .header("anthropic-beta", "some-beta")
        .header("x-claude-code-session-id", "id")
        .header("content-type", "application/json")
        .header("user-agent", "claude-cli/2")
        .body(r#"{"stream":true}"#)
        .send()
        .await
        .unwrap();
    assert_eq!(sent.status(), 200);
    let seen = ledger.lock().unwrap().clone();
    let [seen] = seen.as_slice() else {
        panic!("one request: {seen:?}")
    };
    assert_eq!(seen.path, "/base/v1/messages?beta=true");
    assert_eq!(seen.header("x-api-key"), Some(MODEL_KEY));
    assert_eq!(seen.header("authorization"), None);
    for (name, value) in [
        ("anthropic-version", "2023-06-01"),
        ("anthropic-beta", "some-beta"),
        ("x-claude-code-session-id", "id"),
        ("content-type", "application/json"),
        ("user-agent", "claude-cli/2"),
        ("content-length", "15"),
    ] {
        assert_eq!(seen.header(name), Some(value), "{name}");
    }
    assert_eq!(seen.header("transfer-encoding"), None);
    assert_eq!(seen.body, br#"{"stream":true}"#);
    let everything = seen.everything();
    assert!(
        !everything.contains(foreign) && !everything.contains(AGENT),
        "{everything}"
    );
}

#[tokio::test]
async fn a_bearer_credential_replaces_the_sandboxs_bearer() {
    let (server, ledger) = recording(|_| answer(200, &[], "{}")).await;
    let rig = rig_for(&server, ModelCredential::Bearer(SecretString::from(MODEL_KEY))).await;
    assert_eq!(
        rig.post("/model/v1/messages/count_tokens", AGENT, "{}")
            .await
            .status(),
        200
    );
    let seen = ledger.lock().unwrap()[0].clone();
    assert_eq!(seen.path, "/base/v1/messages/count_tokens");
    let authorizations: Vec<_> = seen.headers.get_all("authorization").iter().collect();
    assert_eq!(authorizations, [&format!("Bearer {MODEL_KEY}")]);
    assert_eq!(seen.header("x-api-key"), None);
}

#[tokio::test]
async fn only_the_messages_endpoints_are_served() {
    let (server, ledger) = recording(|_| answer(200, &[], "{}")).await;
    let rig = rig_for(&server, api_key()).await;
    let paths = [
        "/model/v1/files",
        "/model/v1/messages/batches",
        "/model/v1/messages/",
        "/model//v1/messages",
        "/model/v1/models",
        "/model/v1/complete",
        "/model/v1/%6dessages",
        "/model/v1/messages%2fbatches",
        "/model",
        "/model/",
    ];
    for path in paths {
        let refused = rig.post(path, AGENT, "{}").await;
        assert_eq!(refused.status(), 403, "{path}");
        assert_eq!(code(&refused), "model.path_refused", "{path}");
        assert_eq!(header(&refused, "x-should-retry"), Some("false"));
    }
    assert_eq!(rig.get("/model/v1/messages", AGENT).await.status(), 403);
    assert_eq!(rig.post("/model/v1/messages", RUNNER, "{}").await.status(), 403);
    assert!(ledger.lock().unwrap().is_empty());
}

#[tokio::test]
async fn status_and_useful_headers_come_back_and_cookies_do_not() {
    let headers = [
        ("retry-after", "7"),
        ("x-should-retry", "true"),
        ("request-id", "req_1"),
        ("content-type", "application/json"),
        ("anthropic-ratelimit-requests-remaining", "3"),
        ("set-cookie", "canary"),
        ("anthropic-organization-id", "canary"),
    ];
    let (server, _ledger) = recording(move |_| answer(429, &headers, "{\"type\":\"error\"}")).await;
    let rig = rig_for(&server, api_key()).await;
    let limited = rig.post("/model/v1/messages", AGENT, "{}").await;
    assert_eq!(limited.status(), 429);
    for (name, value) in &headers[..5] {
        assert_eq!(header(&limited, name), Some(*value), "{name}");
    }
    assert!(!format!("{:?}", limited.headers()).contains("canary"));
    assert_eq!(limited.text().await.unwrap(), "{\"type\":\"error\"}");
}

#[tokio::test]
async fn a_limit_that_lasts_is_told_with_its_end_and_not_tried_again() {
    let words = "{\"type\":\"error\",\"error\":{\"type\":\"rate_limit_error\",\"message\":\"Weekly limit\"}}";
    let headers = [("retry-after", "7200"), ("x-should-retry", "true")];
    let (server, _ledger) = recording(move |_| answer(429, &headers, words)).await;
    let rig = rig_for(&server, api_key()).await;
    let before = SystemClock.now();
    let limited = rig.post("/model/v1/messages", AGENT, "{}").await;
    assert_eq!(limited.status(), 429);
    assert_eq!(header(&limited, "x-should-retry"), Some("false"));
    assert_eq!(header(&limited, "retry-after"), None);
    let body: serde_json::Value = limited.json().await.unwrap();
    assert_eq!(body["error"]["type"], "rate_limit_error");
    let told = body["error"]["message"].as_str().unwrap();
    let (until, words) = told
        .strip_prefix("fabrica: the model's usage limit is reached until ")
        .and_then(|told| told.split_once(": "))
        .unwrap();
    assert_eq!(words, "Weekly limit (model.usage_limit)");
    let until = chrono::DateTime::parse_from_rfc3339(until).unwrap().to_utc();
    let wait = until - before;
    assert!((7_199..7_260).contains(&wait.num_seconds()), "{wait}");
}

#[tokio::test]
async fn a_refused_key_is_not_tried_again() {
    let (server, _ledger) = recording(move |_| answer(401, &[], "{\"type\":\"error\"}")).await;
    let rig = rig_for(&server, api_key()).await;
    let refused = rig.post("/model/v1/messages", AGENT, "{}").await;
    assert_eq!(refused.status(), 401);
    assert_eq!(header(&refused, "x-should-retry"), Some("false"));
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let (elsewhere, reached) = recording(|_| answer(200, &[], "{}")).await;
    let target = elsewhere.url.clone();
    let (server, _ledger) = recording(move |_| answer(307, &[("location", &target)], "")).await;
    let rig = rig_for(&server, api_key()).await;
    let sent = rig.post("/model/v1/messages", AGENT, "{}").await;
    assert_eq!(sent.status(), 307);
    assert_eq!(header(&sent, "location"), None);
    assert!(reached.lock().unwrap().is_empty());
}

#[tokio::test]
async fn the_answer_streams_piece_by_piece() {
    let (server, sender) = answering_by_hand().await;
    let rig = rig_for(&server, api_key()).await;
    let mut response = rig.post("/model/v1/messages", AGENT, "{}").await;
    for n in 0..3 {
        let piece = format!("event: {n}\n\n");
        sender.send(Ok(Bytes::from(piece.clone()))).unwrap();
        let chunk = timeout(SOON, response.chunk()).await.unwrap().unwrap();
        assert_eq!(chunk, Some(Bytes::from(piece)));
    }
    drop(sender);
    assert_eq!(timeout(SOON, response.chunk()).await.unwrap().unwrap(), None);
}

#[tokio::test]
async fn the_request_streams_piece_by_piece() {
    let (arrived, mut arrivals) = tokio::sync::mpsc::unbounded_channel();
    let router = Router::new().route(
        "/base/v1/messages",
        post(move |request: Request| async move {
            let mut pieces = request.into_body().into_data_stream();
            while let Some(Ok(piece)) = pieces.next().await {
                arrived.send(piece).unwrap();
            }
            "done"
        }),
    );
    let server = Server::start(router).await;
    let rig = rig_for(&server, api_key()).await;
    let (sender, body) = by_hand();
    let body: Body = body;
    let request = rig
        .client()
        .post("http://gateway/model/v1/messages")
        .bearer_auth(AGENT)
        .body(reqwest::Body::wrap_stream(body.into_data_stream()));
    let sending = tokio::spawn(request.send());
    for n in 0..3 {
        let piece = Bytes::from(format!("{{\"model\":\"claude-{n}\","));
        sender.send(Ok(piece.clone())).unwrap();
        assert_eq!(timeout(SOON, arrivals.recv()).await.unwrap(), Some(piece));
    }
    drop(sender);
    assert_eq!(sending.await.unwrap().unwrap().text().await.unwrap(), "done");
}

#[tokio::test]
async fn an_answer_that_breaks_off_does_not_look_complete() {
    let (server, sender) = answering_by_hand().await;
    let rig = rig_for(&server, api_key()).await;
    let mut response = rig.post("/model/v1/messages", AGENT, "{}").await;
    sender.send(Ok(Bytes::from_static(b"half"))).unwrap();
    assert!(response.chunk().await.unwrap().is_some());
    sender.send(Err(std::io::Error::other("gone"))).unwrap();
    assert!(timeout(SOON, response.chunk()).await.unwrap().is_err());
}

#[tokio::test]
async fn an_upstream_that_is_not_there_is_an_error_that_the_cli_shows() {
    let rig = Rig::new().await;
    let failed = rig.post("/model/v1/messages", AGENT, "{}").await;
    assert_eq!(
        (failed.status().as_u16(), code(&failed)),
        (502, "model.unreachable")
    );
    assert_eq!(header(&failed, "x-should-retry"), None);
    let body: Value = failed.json().await.unwrap();
    assert_eq!(
        (body["type"].as_str(), body["error"]["type"].as_str()),
        (Some("error"), Some("api_error"))
    );
    let message = body["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("127.0.0.1") && message.contains("refused"),
        "{message}"
    );
}

#[tokio::test]
async fn without_a_credential_nothing_is_sent() {
    let (server, ledger) = recording(|_| answer(200, &[], "{}")).await;
    let rig = rig_for(&server, ModelCredential::None).await;
    let refused = rig.post("/model/v1/messages", AGENT, "{}").await;
    assert_eq!(
        (refused.status().as_u16(), code(&refused)),
        (401, "model.no_credential")
    );
    assert_eq!(header(&refused, "x-should-retry"), Some("false"));
    let body: Value = refused.json().await.unwrap();
    assert_eq!(body["error"]["type"], "authentication_error");
    assert!(ledger.lock().unwrap().is_empty());
}
