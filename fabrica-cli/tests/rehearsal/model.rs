//! The scripted Messages API, over HTTP.

use std::time::{Duration, Instant};

use fabrica_cli::rehearsal::{ApiOptions, Fault, Script, ScriptedMessagesApi, Turn, scripts};
use serde_json::{Value, json};

use crate::KEY;
use crate::client;

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
    client()
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
    let client = client();
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
