//! What an agent said and did, read over the API.

use std::sync::Arc;

use fabrica_core::orchestrator::Shutdown;
use fabrica_core::protocol::{RunnerEvent, TranscriptEntry};
use fabrica_core::testing::{FakeSandbox, FakeStore, Script};
use serde_json::{Value, json};

use crate::support::{Rig, problem};

fn entry(kind: &str, parent: Option<&str>, summary: &str, detail: Value) -> TranscriptEntry {
    TranscriptEntry {
        kind: kind.into(),
        parent: parent.map(str::to_owned),
        summary: summary.into(),
        detail: serde_json::from_value(detail).unwrap(),
    }
}

/// A server on which one session has ended whose agent did this.
async fn ended(entries: Vec<TranscriptEntry>) -> (Rig, String) {
    let sandbox = FakeSandbox::new(move |job| {
        let mut script = Script::completes(job);
        script
            .events
            .splice(1..1, entries.iter().cloned().map(RunnerEvent::Agent));
        script
    });
    let rig = Rig::over(Arc::new(FakeStore::default()), sandbox).await;
    let id = rig.submit().await;
    rig.orchestrator
        .run_session(id.parse().unwrap(), Shutdown::default())
        .await
        .unwrap();
    (rig, id)
}

async fn read(rig: &Rig, path: &str) -> Vec<Value> {
    let answer = rig.get(path).await;
    assert_eq!(answer.status(), 200, "{path}");
    answer.json().await.unwrap()
}

fn said(entries: &[Value]) -> Vec<&str> {
    entries
        .iter()
        .map(|entry| entry["summary"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn a_transcript_has_every_turn_with_its_details() {
    let input = json!({"id": "t2", "name": "Bash", "input": {"command": "ls"}});
    let entries = vec![
        entry("text", None, "I look.", json!({"text": "I look.\nThen I act."})),
        entry("tool_use", Some("t1"), "Bash: ls", input.clone()),
    ];
    let (rig, id) = ended(entries).await;
    let mut all = read(&rig, &format!("/sessions/{id}/transcript")).await;
    let sequences: Vec<u64> = all
        .iter_mut()
        .map(|entry| entry["sequence"].take().as_u64().unwrap())
        .collect();
    assert!(sequences[0] > 0 && sequences.is_sorted_by(|one, next| one < next));
    assert_eq!(
        all,
        [
            json!({
                "sequence": null, "attempt": 1, "at": "1970-01-01T00:00:00.000Z", "kind": "text", "parent": null,
                "summary": "I look.", "detail": {"text": "I look.\nThen I act."},
            }),
            json!({
                "sequence": null, "attempt": 1, "at": "1970-01-01T00:00:00.000Z", "kind": "tool_use", "parent": "t1",
                "summary": "Bash: ls", "detail": input,
            }),
        ]
    );
}

#[tokio::test]
async fn a_transcript_is_read_on_from_a_cursor() {
    let entries = (1..=150).map(|number| entry("text", None, &format!("entry {number}"), json!({})));
    let (rig, id) = ended(entries.collect()).await;
    let path = format!("/sessions/{id}/transcript");
    let mut all = read(&rig, &format!("{path}?limit=200")).await;
    assert_eq!(all.len(), 150);

    let mut next = path.clone();
    let mut pages = Vec::new();
    for length in [100, 50] {
        let answer = rig.get(&next).await;
        let link = answer
            .headers()
            .get("link")
            .map(|link| link.to_str().unwrap().to_owned());
        let page: Vec<Value> = answer.json().await.unwrap();
        assert_eq!(page.len(), length);
        pages.extend(page);
        next = match link {
            Some(link) => {
                let (address, rest) = link[1..].split_once('>').unwrap();
                assert_eq!(rest, "; rel=\"next\"");
                address.to_owned()
            }
            None => String::new(),
        };
    }
    assert_eq!(
        (pages, next.as_str()),
        (all.clone(), ""),
        "the last page names no next one"
    );

    let after = all[1]["sequence"].as_u64().unwrap();
    let some = read(&rig, &format!("{path}?after={after}&limit=2")).await;
    assert_eq!(said(&some), ["entry 3", "entry 4"]);
    let last = all.pop().unwrap()["sequence"].as_u64().unwrap();
    for after in [last, u64::MAX] {
        assert_eq!(
            read(&rig, &format!("{path}?after={after}")).await,
            [Value::Null; 0]
        );
    }
}

#[tokio::test]
async fn no_credential_leaves_with_a_transcript() {
    let key = ["sk-ant-", "api03-canary-canary-canary"].concat();
    let begin = ["-----BEGIN ", "PRIVATE KEY-----"].concat();
    let line = "canary+MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7";
    let output = |lines: Value| json!({"step": "setup", "stream": "stdout", "lines": lines});
    let entries = vec![
        entry(
            "text",
            None,
            &format!("It is {key}"),
            json!({"text": format!("It is {key}")}),
        ),
        entry("output", None, line, output(json!([begin, line]))),
        entry("output", None, "done", output(json!([line, "done"]))),
        entry(
            "tool_result",
            None,
            "Cloning",
            json!({"content": "Cloning https://me:canary@git.example.com/a.git"}),
        ),
    ];
    let (rig, id) = ended(entries).await;
    let all = read(&rig, &format!("/sessions/{id}/transcript")).await;
    assert!(!format!("{all:?}").contains("canary"), "{all:#?}");
    assert_eq!(said(&all), ["It is [redacted]", "[redacted]", "done", "Cloning"]);
    assert_eq!(all[2]["detail"]["lines"], json!(["[redacted]", "done"]));
    // On a page of its own, too: the key began on the one before.
    let second = &all[1]["sequence"];
    let third = read(&rig, &format!("/sessions/{id}/transcript?after={second}&limit=1")).await;
    assert_eq!(third, all[2..3]);
    assert_eq!(
        all[3]["detail"]["content"],
        "Cloning https://[redacted]@git.example.com/a.git"
    );
}

#[tokio::test]
async fn an_empty_transcript_is_no_error_and_a_wrong_request_is_one() {
    let rig = Rig::start().await;
    let id = rig.submit().await;
    let path = format!("/sessions/{id}/transcript");
    assert_eq!(read(&rig, &path).await, [Value::Null; 0]);
    let unknown = "/sessions/33333333-0000-4000-8000-000000000001/transcript";
    problem(rig.get(unknown).await, 404, "session.not_found").await;
    problem(rig.get("/sessions/x/transcript").await, 400, "id.invalid").await;
    for query in ["limit=0", "limit=201", "after=-1", "before=1"] {
        let answer = rig.get(&format!("{path}?{query}")).await;
        problem(answer, 400, "request.invalid_query").await;
    }
    let anonymous = rig.anonymous(reqwest::Method::GET, &path).send().await.unwrap();
    problem(anonymous, 401, "auth.required").await;
}
