//! `/session/…`: the job, the reports, the artifacts, and who is let in.

use fabrica_core::ports::SinkError;
use fabrica_core::ports::store::MAX_ARTIFACT_BYTES;
use fabrica_core::protocol::{
    Acknowledgement, Instruction, Job, MAX_BATCH_BYTES, MAX_BATCH_EVENTS, MAX_EVENT_BYTES,
};
use serde_json::Value;

use crate::support::{AGENT, RUNNER, Rig, code, header};

fn event(seq: u64) -> String {
    format!(
        r#"{{"v":1,"seq":{seq},"at":"2026-11-22T10:00:00Z","event":"progress","step":"clone","message":"m"}}"#
    )
}

#[tokio::test]
async fn the_runner_reads_its_job() {
    let rig = Rig::new().await;
    let job: Job = rig.get("/session/job", RUNNER).await.json().await.unwrap();
    assert_eq!(job, rig.access(1).job);
}

#[tokio::test]
async fn tokens_are_taken_as_bearer_as_api_key_and_as_a_password() {
    let rig = Rig::new().await;
    let ask = || rig.client().get("http://gateway/session/job");
    assert_eq!(ask().bearer_auth(RUNNER).send().await.unwrap().status(), 200);
    assert_eq!(
        ask().header("x-api-key", RUNNER).send().await.unwrap().status(),
        200
    );
    assert_eq!(
        ask()
            .basic_auth("anyone", Some(RUNNER))
            .send()
            .await
            .unwrap()
            .status(),
        200
    );
    assert_eq!(
        ask().basic_auth(RUNNER, Some("")).send().await.unwrap().status(),
        401
    );
}

#[tokio::test]
async fn requests_without_the_right_token_are_refused_for_good() {
    let rig = Rig::new().await;
    let absent = rig
        .client()
        .get("http://gateway/session/job")
        .send()
        .await
        .unwrap();
    assert_eq!(
        (absent.status().as_u16(), code(&absent)),
        (401, "gateway.token_missing")
    );
    let almost = format!("{}x", &RUNNER[..RUNNER.len() - 1]);
    for wrong in [
        "",
        "x",
        almost.as_str(),
        &RUNNER[..RUNNER.len() - 1],
        &RUNNER.to_uppercase(),
    ] {
        for path in [
            "/session/job",
            "/model/v1/messages",
            "/git/repository.git/info/refs",
            "/nothing",
        ] {
            let refused = rig.get(path, wrong).await;
            assert_eq!(refused.status(), 401, "{path} {wrong}");
            assert_eq!(header(&refused, "x-should-retry"), Some("false"));
        }
    }
    let refused = rig.get("/session/job", "wrong").await;
    assert_eq!(code(&refused), "gateway.token_refused");
    assert_eq!(header(&refused, "content-type"), Some("application/problem+json"));
    let problem: Value = refused.json().await.unwrap();
    assert_eq!(problem["code"], "gateway.token_refused");
    assert_eq!(problem["status"], 401);
}

#[tokio::test]
async fn the_agent_has_no_part_in_the_session_and_the_runner_none_in_the_model() {
    let rig = Rig::new().await;
    for (path, token) in [("/session/job", AGENT), ("/model/v1/messages", RUNNER)] {
        let refused = rig.get(path, token).await;
        assert_eq!(
            (refused.status().as_u16(), code(&refused)),
            (403, "gateway.token_not_allowed"),
            "{path}"
        );
        assert_eq!(header(&refused, "x-should-retry"), Some("false"));
    }
    let refused = rig.post("/session/events", AGENT, event(1)).await;
    assert_eq!(refused.status(), 403);
    assert!(rig.sink.events.lock().unwrap().is_empty());
}

#[tokio::test]
async fn events_are_delivered_and_acknowledged() {
    let rig = Rig::new().await;
    let batch = format!("{}\r\n\n{}\n", event(1), event(2));
    let answer = rig.post("/session/events", RUNNER, batch).await;
    let answer: Acknowledgement = answer.json().await.unwrap();
    assert_eq!(
        answer,
        Acknowledgement {
            acknowledged: 2,
            instructions: vec![Instruction::Cancel]
        }
    );
    assert_eq!(rig.sink.events.lock().unwrap().len(), 2);
    let empty = rig.post("/session/events", RUNNER, "").await;
    assert_eq!(empty.status(), 200);
}

#[tokio::test]
async fn a_malformed_line_is_named_and_nothing_is_taken() {
    let rig = Rig::new().await;
    let batch = format!("{}\n{{\"v\":1,\"seq\":\"canary\"}}\n", event(1));
    let refused = rig.post("/session/events", RUNNER, batch).await;
    assert_eq!(
        (refused.status().as_u16(), code(&refused)),
        (400, "session.malformed")
    );
    let text = refused.text().await.unwrap();
    assert!(text.contains("line 2") && !text.contains("canary"), "{text}");
    assert!(rig.sink.events.lock().unwrap().is_empty());
}

#[tokio::test]
async fn batches_are_bounded_in_events_and_bytes() {
    let rig = Rig::new().await;
    let events = |count: usize| (1..=count as u64).map(event).collect::<Vec<_>>().join("\n");
    assert_eq!(
        rig.post("/session/events", RUNNER, events(MAX_BATCH_EVENTS))
            .await
            .status(),
        200
    );
    let many = rig
        .post("/session/events", RUNNER, events(MAX_BATCH_EVENTS + 1))
        .await;
    assert_eq!(
        (many.status().as_u16(), code(&many)),
        (413, "session.batch_too_large")
    );
    let long = rig
        .post("/session/events", RUNNER, vec![b' '; MAX_BATCH_BYTES + 1])
        .await;
    assert_eq!(long.status(), 413);
    let line = event(1).replace("\"m\"", &format!("\"{}\"", "m".repeat(MAX_EVENT_BYTES)));
    let wide = rig.post("/session/events", RUNNER, line).await;
    assert_eq!(
        (wide.status().as_u16(), code(&wide)),
        (413, "session.batch_too_large")
    );
}

#[tokio::test]
async fn what_the_sink_says_reaches_the_runner() {
    let rig = Rig::new().await;
    let fail = |error| *rig.sink.failure.lock().unwrap() = Some(error);
    fail(SinkError::Fenced);
    let fenced = rig.post("/session/events", RUNNER, event(1)).await;
    assert_eq!((fenced.status().as_u16(), code(&fenced)), (409, "session.fenced"));
    fail(SinkError::Gap { expected: 7 });
    let gap = rig.post("/session/events", RUNNER, event(9)).await;
    assert_eq!((gap.status().as_u16(), code(&gap)), (409, "session.gap"));
    assert_eq!(gap.json::<Value>().await.unwrap()["expected"], 7);
    fail(SinkError::Unavailable("canary: password of the database".into()));
    let unavailable = rig.post("/session/events", RUNNER, event(1)).await;
    assert_eq!(
        (unavailable.status().as_u16(), code(&unavailable)),
        (503, "session.unavailable")
    );
    assert!(header(&unavailable, "retry-after").is_some());
    assert!(!unavailable.text().await.unwrap().contains("canary"));
}

#[tokio::test]
async fn artifacts_are_stored_under_a_checked_name_and_bounded() {
    let rig = Rig::new().await;
    let put = async |name: &str, content: Vec<u8>| {
        let url = format!("http://gateway/session/artifacts/{name}");
        rig.client()
            .put(url)
            .bearer_auth(RUNNER)
            .body(content)
            .send()
            .await
            .unwrap()
    };
    assert_eq!(put("transcript.jsonl", b"content".to_vec()).await.status(), 204);
    assert_eq!(
        *rig.sink.artifacts.lock().unwrap(),
        [("transcript.jsonl".to_owned(), b"content".to_vec())]
    );
    for name in ["%2e%2e%2fetc", ".hidden", "a%00b", "a%2Fb", "%ff"] {
        assert_eq!(put(name, vec![]).await.status(), 400, "{name}");
    }
    assert_eq!(put("large", vec![0; MAX_ARTIFACT_BYTES]).await.status(), 204);
    let refused = put("larger", vec![0; MAX_ARTIFACT_BYTES + 1]).await;
    assert_eq!(
        (refused.status().as_u16(), code(&refused)),
        (413, "session.artifact_too_large")
    );
    assert_eq!(rig.sink.artifacts.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn an_artifact_is_given_back_to_the_runner_alone() {
    let rig = Rig::new().await;
    let url = |name: &str| format!("http://gateway/session/artifacts/{name}");
    let get = async |name: &str, token: &str| {
        rig.client()
            .get(url(name))
            .bearer_auth(token)
            .send()
            .await
            .unwrap()
    };
    let missing = get("conversation.jsonl", RUNNER).await;
    assert_eq!(
        (missing.status().as_u16(), code(&missing)),
        (404, "session.artifact_not_found")
    );
    let content = [0, 255, b'\n'];
    let put = rig.client().put(url("conversation.jsonl")).bearer_auth(RUNNER);
    assert_eq!(put.body(content.to_vec()).send().await.unwrap().status(), 204);
    let found = get("conversation.jsonl", RUNNER).await;
    assert_eq!(found.status(), 200);
    assert_eq!(found.bytes().await.unwrap().as_ref(), content);
    assert_eq!(get("conversation.jsonl", AGENT).await.status(), 403);
    assert_eq!(get("%2e%2e%2fetc", RUNNER).await.status(), 400);
}

#[tokio::test]
async fn unknown_routes_are_refused_with_a_code() {
    let rig = Rig::new().await;
    for path in ["/session/nothing", "/nothing", "/session/events"] {
        let refused = rig.get(path, RUNNER).await;
        assert_eq!(
            (refused.status().as_u16(), code(&refused)),
            (404, "gateway.unknown_route"),
            "{path}"
        );
    }
}
