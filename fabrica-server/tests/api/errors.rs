//! Every error is a problem document with a code.

use std::sync::Arc;

use fabrica_core::ports::store::StoreError;
use fabrica_core::testing::MockStore;
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{PLAN, Rig, TOKEN, problem};

#[tokio::test]
async fn a_wrong_plan_is_told_where_it_is_wrong() {
    let rig = Rig::start().await;
    let answer = rig
        .post_plan(PLAN.replace("---\n#", "modle: x\n---\n#"))
        .send()
        .await
        .unwrap();
    let wrong = problem(answer, 422, "plan.unknown_key").await;
    assert_eq!(
        (&wrong["line"], &wrong["column"], &wrong["key"], &wrong["nearest"]),
        (&json!(3), &json!(1), &json!("modle"), &json!("model"))
    );

    let plans = [
        ("", "plan.no_frontmatter"),
        ("# No frontmatter", "plan.no_frontmatter"),
        ("---\ntitle: x\n---\nbody", "plan.missing_repository"),
        ("---\nrepo: https://example.com/a/b\n---\n", "plan.empty_task"),
        ("---\nrepo: \"x\n---\nbody", "plan.syntax"),
        ("---\nrepo: ext::sh -c true\n---\nbody", "repository.unsupported"),
        ("---\nrepo: file:///etc\n---\nbody", "repository.unsupported"),
        ("---\nrepo: /etc\n---\nbody", "repository.unsupported"),
    ];
    for (plan, code) in plans {
        problem(rig.post_plan(plan).send().await.unwrap(), 422, code).await;
    }
    let network = PLAN.replace("---\n#", "network: { allow: [\"a.example.com\"] }\n---\n#");
    problem(
        rig.post_plan(network).send().await.unwrap(),
        422,
        "network.not_permitted",
    )
    .await;
}

#[tokio::test]
async fn what_is_not_text_is_refused() {
    let rig = Rig::start().await;
    let answer = rig.post_plan(&b"---\nrepo: \xff\xfe"[..]).send().await.unwrap();
    assert_eq!(problem(answer, 400, "plan.not_utf8").await["offset"], 10);
    for media_type in [
        "application/json",
        "application/x-www-form-urlencoded",
        "text/markdown; charset=utf-16",
    ] {
        let request = rig
            .request(Method::POST, "/run")
            .header("content-type", media_type);
        problem(
            request.body(PLAN).send().await.unwrap(),
            415,
            "request.unsupported_media_type",
        )
        .await;
    }
    let packed = rig
        .post_plan(PLAN)
        .header("content-encoding", "gzip")
        .send()
        .await
        .unwrap();
    problem(packed, 415, "request.unsupported_media_type").await;
}

#[tokio::test]
async fn keys_are_visible_ascii_of_bounded_length() {
    let rig = Rig::start().await;
    let long = "k".repeat(256);
    for key in ["", "a b", "k\u{e9}y", &long] {
        let answer = rig
            .post_plan(PLAN)
            .header("idempotency-key", key.as_bytes())
            .send()
            .await
            .unwrap();
        problem(answer, 400, "request.invalid_idempotency_key").await;
    }
    let twice = rig
        .post_plan(PLAN)
        .header("idempotency-key", "a")
        .header("idempotency-key", "a");
    problem(
        twice.send().await.unwrap(),
        400,
        "request.invalid_idempotency_key",
    )
    .await;
    let longest = rig
        .post_plan(PLAN)
        .header("idempotency-key", &long[1..])
        .send()
        .await
        .unwrap();
    assert_eq!(longest.status(), 202);
}

#[tokio::test]
async fn ten_megabytes_are_refused_with_an_answer() {
    let rig = Rig::start().await;
    let answer = rig.post_plan("x".repeat(10_000_000)).send().await.unwrap();
    assert_eq!(problem(answer, 413, "plan.too_large").await["limit"], 256 * 1024);
    let chunks = futures::stream::iter((0..640).map(|_| Ok::<_, std::io::Error>(vec![b'x'; 16 * 1024])));
    let answer = rig
        .post_plan(reqwest::Body::wrap_stream(chunks))
        .send()
        .await
        .unwrap();
    problem(answer, 413, "plan.too_large").await;
}

#[tokio::test]
async fn an_announced_length_is_refused_before_a_byte_of_it_is_sent() {
    let rig = Rig::start().await;
    let mut client = TcpStream::connect(rig.address).await.unwrap();
    let head = format!(
        "POST /run HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 10000000\r\n\r\n",
        rig.address
    );
    client.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn ids_that_are_none_open_nothing() {
    let rig = Rig::start().await;
    let long = "f".repeat(5_000);
    for id in [
        "x",
        "..%2f..%2fetc%2fpasswd",
        "%00",
        "%ff",
        "1",
        &long,
        "018f4e1c-7a52-7cc3-9d51-0a6f3ad1c2b4%00",
    ] {
        for path in [format!("/sessions/{id}"), format!("/sessions/{id}/messages")] {
            problem(rig.get(&path).await, 400, "id.invalid").await;
        }
        let cancel = rig
            .request(Method::POST, &format!("/sessions/{id}/cancel"))
            .send()
            .await
            .unwrap();
        problem(cancel, 400, "id.invalid").await;
    }
}

#[tokio::test]
async fn a_session_that_is_not_there_is_not_found() {
    let rig = Rig::start().await;
    let path = "/sessions/018f4e1c-7a52-7cc3-9d51-0a6f3ad1c2b4";
    problem(rig.get(path).await, 404, "session.not_found").await;
    problem(
        rig.get(&format!("{path}/messages")).await,
        404,
        "session.not_found",
    )
    .await;
    let cancel = rig
        .request(Method::POST, &format!("{path}/cancel"))
        .send()
        .await
        .unwrap();
    problem(cancel, 404, "session.not_found").await;
}

#[tokio::test]
async fn queries_are_checked() {
    let rig = Rig::start().await;
    let id = rig.submit().await;
    let messages = [
        "after=-1",
        "after=x",
        "limit=0",
        "limit=1001",
        "limit=1&limit=2",
        "aftre=1",
        "after=%00",
    ];
    for query in messages {
        let answer = rig.get(&format!("/sessions/{id}/messages?{query}")).await;
        problem(answer, 400, "request.invalid_query").await;
    }
    for query in ["status=done", "status=", "limit=201", "limit=x", "page=2"] {
        problem(
            rig.get(&format!("/sessions?{query}")).await,
            400,
            "request.invalid_query",
        )
        .await;
    }
    problem(rig.get("/sessions?before=x").await, 400, "id.invalid").await;
}

#[tokio::test]
async fn other_paths_and_methods_are_problems_too() {
    let rig = Rig::start().await;
    for path in ["/", "/run/", "/sessions/a/b", "/Health"] {
        problem(rig.get(path).await, 404, "request.route_not_found").await;
    }
    let answer = rig.get("/run").await;
    assert_eq!(answer.headers()["allow"], "POST");
    problem(answer, 405, "request.method_not_allowed").await;
    let answer = rig.request(Method::DELETE, "/health").send().await.unwrap();
    problem(answer, 405, "request.method_not_allowed").await;
}

#[tokio::test]
async fn a_database_that_is_down_is_said_without_its_secrets() {
    let down = || StoreError::Unavailable {
        message: "canary-host refused".into(),
        source: None,
    };
    let mut store = MockStore::new();
    store.expect_token().returning(move |_| Err(down()));
    store.expect_create_session().returning(move |_| Err(down()));
    store.expect_session().returning(move |_| Err(down()));
    store.expect_sessions().returning(move |_, _| Err(down()));
    store.expect_messages().returning(move |_, _, _| Err(down()));
    store.expect_request_cancel().returning(move |_, _| Err(down()));
    let rig = Rig::with_store(Arc::new(store)).await;
    let id = "018f4e1c-7a52-7cc3-9d51-0a6f3ad1c2b4";
    let (session, messages) = (format!("/sessions/{id}"), format!("/sessions/{id}/messages"));
    let requests = [
        rig.anonymous(Method::GET, "/health"),
        rig.post_plan(PLAN),
        rig.request(Method::GET, "/sessions"),
        rig.request(Method::GET, &session),
        rig.request(Method::GET, &messages),
        rig.request(Method::POST, &format!("{session}/cancel")),
    ];
    for request in requests {
        let answer = request.send().await.unwrap();
        assert_eq!(answer.headers()["retry-after"], "5");
        let told = problem(answer, 503, "database.unavailable").await;
        assert!(!told.to_string().contains("canary"), "{told}");
    }
}

#[tokio::test]
async fn a_broken_row_is_the_servers_failure() {
    let mut store = MockStore::new();
    store.expect_session().returning(|_| {
        Err(StoreError::BrokenRow {
            table: "sessions",
            id: "canary".into(),
            reason: "status".into(),
        })
    });
    let rig = Rig::with_store(Arc::new(store)).await;
    let answer = rig.get("/sessions/018f4e1c-7a52-7cc3-9d51-0a6f3ad1c2b4").await;
    assert!(
        !problem(answer, 500, "database.broken_row")
            .await
            .to_string()
            .contains("canary")
    );
}
