//! Who is let in.

use reqwest::Method;
use serde_json::Value;

use crate::support::{PLAN, Rig, TOKEN, problem};

/// Every route but the open one, and what is no route.
const CLOSED: [(Method, &str); 9] = [
    (Method::POST, "/run"),
    (Method::GET, "/sessions"),
    (Method::GET, "/sessions/018f4e1c-7a52-7cc3-9d51-0a6f3ad1c2b4"),
    (
        Method::GET,
        "/sessions/018f4e1c-7a52-7cc3-9d51-0a6f3ad1c2b4/messages",
    ),
    (
        Method::POST,
        "/sessions/018f4e1c-7a52-7cc3-9d51-0a6f3ad1c2b4/cancel",
    ),
    (Method::GET, "/sessions/x"),
    (Method::DELETE, "/run"),
    (Method::GET, "/health/"),
    (Method::GET, "/nowhere"),
];

#[tokio::test]
async fn every_route_refuses_every_bad_identity() {
    let rig = Rig::start().await;
    let shortened = format!("Bearer {}", &TOKEN[1..]);
    let junk = format!("Bearer {TOKEN} x");
    let comma = format!("Bearer {TOKEN},");
    let basic = format!("Basic {TOKEN}");
    let upper = format!("Bearer {}", TOKEN.to_uppercase());
    let identities: [(Option<&str>, &str); 10] = [
        (None, "auth.required"),
        (Some(""), "auth.required"),
        (Some("Bearer"), "auth.required"),
        (Some(TOKEN), "auth.required"),
        (Some(&basic), "auth.required"),
        (Some("Bearer wrong"), "auth.invalid"),
        (Some(&shortened), "auth.invalid"),
        (Some(&junk), "auth.invalid"),
        (Some(&comma), "auth.invalid"),
        (Some(&upper), "auth.invalid"),
    ];
    for (method, path) in CLOSED {
        for (identity, code) in identities {
            let mut request = rig.anonymous(method.clone(), path).body(PLAN);
            if let Some(identity) = identity {
                request = request.header("authorization", identity);
            }
            let answer = request.send().await.unwrap();
            let challenge = answer.headers()["www-authenticate"].to_str().unwrap();
            assert!(challenge.starts_with("Bearer "), "{challenge}");
            problem(answer, 401, code).await;
        }
    }
    let sessions: Value = rig.get("/sessions").await.json().await.unwrap();
    assert_eq!(sessions, Value::Array(Vec::new()));
}

#[tokio::test]
async fn the_right_token_is_let_in_whatever_the_schemes_letter_case() {
    let rig = Rig::start().await;
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let request = rig
            .anonymous(Method::GET, "/sessions")
            .header("authorization", format!("{scheme} {TOKEN}"));
        assert_eq!(request.send().await.unwrap().status(), 200, "{scheme}");
    }
}

#[tokio::test]
async fn a_name_that_is_not_ours_is_refused_even_with_the_token() {
    let rig = Rig::start().await;
    let port = rig.address.port();
    for host in [
        "evil.example".to_owned(),
        format!("evil.example:{port}"),
        format!("127.0.0.1.evil.example:{port}"),
    ] {
        for (method, path) in [
            (Method::GET, "/health"),
            (Method::POST, "/run"),
            (Method::GET, "/sessions"),
        ] {
            // A rebound page is its own origin: host and origin agree.
            let request = rig
                .request(method, path)
                .header("host", &host)
                .header("origin", format!("http://{host}"));
            problem(
                request.body(PLAN).send().await.unwrap(),
                421,
                "request.misdirected",
            )
            .await;
        }
    }
    for host in [
        format!("localhost:{port}"),
        format!("[::1]:{port}"),
        "fabrica.example.com".to_owned(),
    ] {
        let answer = rig
            .request(Method::GET, "/sessions")
            .header("host", &host)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200, "{host}");
    }
}

#[tokio::test]
async fn pages_of_other_sites_are_refused_even_with_the_token() {
    let rig = Rig::start().await;
    let own = format!("http://{}", rig.address);
    for (name, value) in [
        ("origin", "null"),
        ("origin", "http://evil.example"),
        ("origin", "http://127.0.0.1:1"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
    ] {
        let request = rig.post_plan(PLAN).header(name, value);
        problem(request.send().await.unwrap(), 403, "request.forbidden_origin").await;
        let request = rig.anonymous(Method::GET, "/health").header(name, value);
        problem(request.send().await.unwrap(), 403, "request.forbidden_origin").await;
    }
    let request = rig
        .post_plan(PLAN)
        .header("origin", own)
        .header("sec-fetch-site", "same-origin");
    assert_eq!(request.send().await.unwrap().status(), 202);
}

#[tokio::test]
async fn answers_carry_an_id_and_are_not_cached() {
    let rig = Rig::start().await;
    let given = rig
        .request(Method::GET, "/sessions")
        .header("x-request-id", "trace-1.a_b")
        .send()
        .await
        .unwrap();
    assert_eq!(given.headers()["x-request-id"], "trace-1.a_b");
    assert_eq!(given.headers()["cache-control"], "no-store");
    assert_eq!(given.headers()["x-content-type-options"], "nosniff");
    let forged = rig
        .request(Method::GET, "/sessions")
        .header("x-request-id", "a b=c")
        .send()
        .await
        .unwrap();
    assert_eq!(forged.headers()["x-request-id"].len(), 16);
}
