//! Questions, and their answers over HTTP.

use std::sync::Arc;

use fabrica_core::orchestrator::Shutdown;
use fabrica_core::protocol::{Escalation, RunnerEvent, Urgency};
use fabrica_core::testing::{FakeSandbox, FakeStore, Script, ScriptEnd};
use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::support::{PLAN, Rig, problem};

/// A server whose one session waits with a question.
async fn waiting() -> (Rig, String) {
    let sandbox = FakeSandbox::new(|job| {
        if job.attempt.get() > 1 {
            return Script::completes(job);
        }
        Script {
            events: vec![RunnerEvent::Escalation(Escalation {
                question: "Which one?".into(),
                options: vec!["this".into(), "that".into()],
                context: "There are two.".into(),
                urgency: Urgency::Normal,
            })],
            end: ScriptEnd::Exit(0),
        }
    });
    let rig = Rig::over(Arc::new(FakeStore::default()), sandbox).await;
    let id = rig.submit().await;
    let status = rig
        .orchestrator
        .run_session(id.parse().unwrap(), Shutdown::default())
        .await
        .unwrap();
    assert_eq!(status.as_str(), "escalated");
    (rig, id)
}

async fn answer(rig: &Rig, id: &str, body: &Value) -> Response {
    let path = format!("/sessions/{id}/answer");
    rig.request(Method::POST, &path).json(body).send().await.unwrap()
}

#[tokio::test]
async fn a_question_is_listed_and_answered_once() {
    let (rig, id) = waiting().await;
    let path = format!("/sessions/{id}/questions");
    let open: Value = rig.get(&path).await.json().await.unwrap();
    let question = &open[0];
    assert_eq!(open.as_array().unwrap().len(), 1);
    assert_eq!(
        (&question["question"], &question["options"], &question["answer"]),
        (&json!("Which one?"), &json!(["this", "that"]), &Value::Null)
    );
    let said = json!({"answer": "this", "questionId": question["id"], "answeredBy": "Ada"});
    let accepted = answer(&rig, &id, &said).await;
    assert_eq!(accepted.status(), 202);
    let accepted: Value = accepted.json().await.unwrap();
    assert_eq!(accepted["question"]["answeredBy"], "Ada");

    // The same again is what a caller sends whose answer got lost.
    assert_eq!(answer(&rig, &id, &said).await.status(), 202);
    let other = answer(&rig, &id, &json!({"answer": "that"})).await;
    let other = problem(other, 409, "question.already_answered").await;
    assert_eq!(other["question"]["answer"], "this");
    let session: Value = rig.get(&format!("/sessions/{id}")).await.json().await.unwrap();
    assert_eq!(session["status"], "pending");
}

#[tokio::test]
async fn what_cannot_be_an_answer_is_refused_with_a_code() {
    let (rig, id) = waiting().await;
    for (body, status, code) in [
        (json!({"answer": "  "}), 422, "answer.empty"),
        (json!({"answer": "x".repeat(70_000)}), 422, "answer.too_long"),
        (json!({"text": "this"}), 400, "request.invalid_json"),
        (json!({"answer": "this", "questionId": "7"}), 400, "id.invalid"),
        (
            json!({"answer": "this", "questionId": "018f4e1c-7a52-7cc3-9d51-0a6f3ad1c2b4"}),
            404,
            "question.not_found",
        ),
        (
            json!({"answer": "this", "plan": PLAN.replace("app.git", "other.git")}),
            422,
            "answer.other_repository",
        ),
        (
            json!({"answer": "this", "plan": "---\nrepo: 7\n---\nDo it.\n"}),
            422,
            "repository.unsupported",
        ),
    ] {
        let refused = answer(&rig, &id, &body).await;
        let found: Value = refused.json().await.unwrap();
        assert_eq!(
            (found["status"].as_u64(), found["code"].as_str()),
            (Some(status), Some(code)),
            "{found}"
        );
    }
    let path = format!("/sessions/{id}/answer");
    let untyped = rig.request(Method::POST, &path).body("{}").send().await.unwrap();
    problem(untyped, 415, "request.not_json").await;
    let too_much = json!({"answer": "x".repeat(1_100_000)});
    problem(answer(&rig, &id, &too_much).await, 413, "request.too_large").await;
    let open: Value = rig
        .get(&format!("/sessions/{id}/questions"))
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(open[0]["answer"], Value::Null, "nothing was stored");
}

#[tokio::test]
async fn whoever_does_not_ask_gets_no_answer() {
    let rig = Rig::start().await;
    let id = rig.submit().await;
    let refused = answer(&rig, &id, &json!({"answer": "this"})).await;
    problem(refused, 404, "question.not_found").await;
    let nobody = "018f4e1c-7a52-4cc3-9d51-0a6f3ad1c2b4";
    let refused = answer(&rig, nobody, &json!({"answer": "this"})).await;
    problem(refused, 404, "session.not_found").await;
    problem(
        rig.get(&format!("/sessions/{nobody}/questions")).await,
        404,
        "session.not_found",
    )
    .await;
    let (waiting, id) = waiting().await;
    waiting.orchestrator.cancel(id.parse().unwrap()).await.unwrap();
    let refused = answer(&waiting, &id, &json!({"answer": "this"})).await;
    problem(refused, 409, "question.not_open").await;
}

#[tokio::test]
async fn a_note_is_taken_and_goes_on_with_a_session_that_has_ended() {
    let (rig, id) = waiting().await;
    let path = format!("/sessions/{id}/say");
    let say = async |body: Value| rig.request(Method::POST, &path).json(&body).send().await.unwrap();
    let note = json!({"text": "Use tabs", "by": "Ada"});
    problem(say(note.clone()).await, 409, "session.waits_for_answer").await;
    assert_eq!(answer(&rig, &id, &json!({"answer": "this"})).await.status(), 202);
    let queued = say(note.clone()).await;
    assert_eq!(queued.status(), 202);
    let queued: Value = queued.json().await.unwrap();
    assert_eq!(
        (&queued["number"], &queued["continued"]),
        (&json!(1), &json!(false))
    );
    rig.request(Method::POST, &format!("/sessions/{id}/cancel"))
        .send()
        .await
        .unwrap();
    let continued: Value = say(json!({"text": "Go on"})).await.json().await.unwrap();
    assert_eq!(
        (&continued["number"], &continued["continued"]),
        (&json!(2), &json!(true))
    );
    let session: Value = rig.get(&format!("/sessions/{id}")).await.json().await.unwrap();
    assert_eq!(session["status"], "pending");
    let notes = rig
        .orchestrator
        .store()
        .notes(id.parse().unwrap(), 0)
        .await
        .unwrap();
    let said: Vec<_> = notes.iter().map(|note| note.text.as_str()).collect();
    assert_eq!(said, ["Use tabs", "Go on"]);

    problem(say(json!({"text": " "})).await, 422, "note.empty").await;
    problem(
        say(json!({"text": "x", "by": ""})).await,
        422,
        "note.name_invalid",
    )
    .await;
    problem(say(json!({"words": "x"})).await, 400, "request.invalid_json").await;
}
