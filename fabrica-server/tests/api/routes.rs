//! The exact JSON of the routes.

use fabrica_core::orchestrator::Shutdown;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{PLAN, Rig, problem};

/// Replaces what differs from run to run by its form.
fn masked(mut value: Value) -> Value {
    fn mask(value: &mut Value) {
        match value {
            Value::String(text) if uuid::Uuid::try_parse(text).is_ok() => *text = "<uuid>".into(),
            Value::String(text) if is_time(text) => *text = "<time>".into(),
            Value::Array(items) => items.iter_mut().for_each(mask),
            Value::Object(members) => members.values_mut().for_each(mask),
            _ => {}
        }
    }
    mask(&mut value);
    value
}

/// Whether the text has the form `2026-11-22T20:10:08.123Z`.
fn is_time(text: &str) -> bool {
    let form: String = text
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    form == "0000-00-00T00:00:00.000Z"
}

#[tokio::test]
async fn health_needs_no_token() {
    let rig = Rig::start().await;
    let answer = rig.anonymous(Method::GET, "/health").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let health: Value = answer.json().await.unwrap();
    assert_eq!(
        health,
        json!({"status": "ok", "version": env!("CARGO_PKG_VERSION")})
    );
}

#[tokio::test]
async fn a_plan_becomes_a_session_and_is_found_again() {
    let rig = Rig::start().await;
    let answer = rig.post_plan(PLAN).send().await.unwrap();
    assert_eq!(answer.status(), 202);
    let location = answer.headers()["location"].to_str().unwrap().to_owned();
    let accepted: Value = answer.json().await.unwrap();
    assert_eq!(
        location,
        format!("/sessions/{}", accepted["sessionId"].as_str().unwrap())
    );
    assert_eq!(
        masked(accepted),
        json!({"sessionId": "<uuid>", "message": "The session is queued."})
    );

    let session: Value = rig.get(&location).await.json().await.unwrap();
    assert_eq!(
        masked(session),
        json!({
            "id": "<uuid>",
            "repoUrl": "https://example.com/acme/app.git",
            "branchName": null,
            "prUrl": null,
            "status": "pending",
            "createdAt": "<time>",
            "completedAt": null,
            "title": "Say hello",
            "attempt": 0,
            "cancelRequested": false,
            "submitter": "api",
            "usage": {
                "inputTokens": 0,
                "outputTokens": 0,
                "cacheReadTokens": 0,
                "cacheWriteTokens": 0,
                "costUsd": 0.0,
                "turns": 0,
            },
        })
    );
}

#[tokio::test]
async fn every_text_type_and_none_is_a_plan() {
    let rig = Rig::start().await;
    for media_type in ["text/markdown; charset=utf-8", "text/plain"] {
        let request = rig
            .request(Method::POST, "/run")
            .header("content-type", media_type);
        assert_eq!(
            request.body(PLAN).send().await.unwrap().status(),
            202,
            "{media_type}"
        );
    }
    let bare = rig.request(Method::POST, "/run").body(PLAN).build().unwrap();
    assert!(!bare.headers().contains_key("content-type"));
    assert_eq!(
        crate::support::client().execute(bare).await.unwrap().status(),
        202
    );
}

#[tokio::test]
async fn messages_are_listed_in_order_and_read_on_from_a_cursor() {
    let rig = Rig::start().await;
    let id = rig.submit().await;
    let messages: Value = rig
        .get(&format!("/sessions/{id}/messages"))
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(
        masked(messages),
        json!([{
            "id": "<uuid>",
            "sessionId": "<uuid>",
            "type": "progress",
            "content": {
                "message": "Queued: Say hello",
                "metadata": {
                    "step": "queued",
                    "title": "Say hello",
                    "repoUrl": "https://example.com/acme/app.git",
                },
            },
            "createdAt": "<time>",
            "readAt": null,
            "sequence": 1,
        }])
    );

    rig.orchestrator
        .run_session(id.parse().unwrap(), Shutdown::default())
        .await
        .unwrap();
    let all: Value = rig
        .get(&format!("/sessions/{id}/messages"))
        .await
        .json()
        .await
        .unwrap();
    let all = all.as_array().unwrap();
    assert!(all.len() >= 2, "{all:?}");
    let sequences: Vec<u64> = all
        .iter()
        .map(|message| message["sequence"].as_u64().unwrap())
        .collect();
    assert_eq!(sequences, (1..=all.len() as u64).collect::<Vec<_>>());
    let page = rig.get(&format!("/sessions/{id}/messages?after=1&limit=1")).await;
    let next = page.headers()["link"].to_str().unwrap().to_owned();
    assert_eq!(
        next,
        format!("</sessions/{id}/messages?after=2&limit=1>; rel=\"next\"")
    );
    let page: Value = page.json().await.unwrap();
    assert_eq!(page.as_array().unwrap(), &all[1..2]);
    let after: Value = rig
        .get(&format!("/sessions/{id}/messages?after=4000000000"))
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(after, json!([]));
}

#[tokio::test]
async fn a_completed_session_shows_when_and_where() {
    let rig = Rig::start().await;
    let id = rig.submit().await;
    rig.orchestrator
        .run_session(id.parse().unwrap(), Shutdown::default())
        .await
        .unwrap();
    let session: Value = rig.get(&format!("/sessions/{id}")).await.json().await.unwrap();
    assert_eq!(session["status"], "completed");
    assert_eq!(session["attempt"], 1);
    assert_eq!(session["branchName"], format!("fabrica/{}", &id[..8]));
    assert!(is_time(session["completedAt"].as_str().unwrap()), "{session}");
}

#[tokio::test]
async fn sessions_are_listed_newest_first_by_status_and_page() {
    let rig = Rig::start().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(rig.submit().await);
    }
    rig.orchestrator.cancel(ids[0].parse().unwrap()).await.unwrap();
    let listed = async |query: &str| -> Vec<String> {
        let sessions: Value = rig.get(&format!("/sessions{query}")).await.json().await.unwrap();
        sessions
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it["id"].as_str().unwrap().to_owned())
            .collect()
    };
    let all = listed("").await;
    assert_eq!(all.len(), 3);
    assert_eq!(listed("?status=cancelled").await, [ids[0].clone()]);
    assert_eq!(listed("?status=pending,running").await.len(), 2);
    assert_eq!(listed("?limit=2").await, all[..2]);
    assert_eq!(listed(&format!("?limit=2&before={}", all[1])).await, all[2..]);
    let page = rig.get("/sessions?limit=1&status=pending").await;
    let next = page.headers()["link"].to_str().unwrap();
    assert!(next.ends_with("&limit=1&status=pending>; rel=\"next\""), "{next}");
}

#[tokio::test]
async fn a_waiting_session_is_cancelled_once() {
    let rig = Rig::start().await;
    let id = rig.submit().await;
    let path = format!("/sessions/{id}/cancel");
    let answer = rig.request(Method::POST, &path).send().await.unwrap();
    assert_eq!(answer.status(), 202);
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(
        answer,
        json!({"sessionId": id, "message": "The session is cancelled."})
    );
    let again = rig.request(Method::POST, &path).send().await.unwrap();
    let again = problem(again, 409, "session.already_ended").await;
    assert_eq!(again["sessionStatus"], "cancelled");
}

#[tokio::test]
async fn a_key_makes_one_session_of_many_requests() {
    let rig = Rig::start().await;
    let requests = (0..50).map(|_| rig.post_plan(PLAN).header("idempotency-key", "one").send());
    let mut ids = std::collections::BTreeSet::new();
    for answer in futures::future::join_all(requests).await {
        let answer = answer.unwrap();
        assert_eq!(answer.status(), 202);
        let answer: Value = answer.json().await.unwrap();
        ids.insert(answer["sessionId"].as_str().unwrap().to_owned());
    }
    assert_eq!(ids.len(), 1);
    let sessions: Value = rig.get("/sessions").await.json().await.unwrap();
    assert_eq!(sessions.as_array().unwrap().len(), 1);

    let other = PLAN.replace("hello", "goodbye");
    let answer = rig
        .post_plan(other)
        .header("idempotency-key", "one")
        .send()
        .await
        .unwrap();
    problem(answer, 409, "session.idempotency_conflict").await;
}
