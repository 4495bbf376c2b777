//! `/model/v1/messages`: which models may be asked, and what their answers used.

use std::io::Write as _;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use fabrica_core::ports::Gateway as _;
use fabrica_core::ports::gateway::{ModelRefusal, ModelUse};
use fabrica_core::protocol::Usage;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use crate::support::upstream::{Ledger, Server, answer, answering_by_hand, by_hand, recording};
use crate::support::{AGENT, Rig, RigOptions, code, fence, header};

const SOON: Duration = Duration::from_secs(10);
/// How long the sink takes where that must be seen.
const SLOW: Duration = Duration::from_millis(300);
const ASK: &str = r#"{"model":"claude-asked","stream":true}"#;
const MESSAGES: &str = "/model/v1/messages";

const START: &str = concat!(
    "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"model\":",
    "\"claude-answered\",\"usage\":{\"input_tokens\":10,\"output_tokens\":1,\"cache_read_input_tokens\":300,",
    "\"cache_creation_input_tokens\":50,\"cache_creation\":{\"ephemeral_5m_input_tokens\":20,",
    "\"ephemeral_1h_input_tokens\":30}}}}\n\n",
);
const TEXT: &str =
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"text\":\"ü\"}}\n\n";
const DELTA: &str =
    "event: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":72}}\n\n";
const STOP: &str = "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
const DOCUMENT: &str = concat!(
    "{\"id\":\"msg_1\",\"model\":\"claude-answered\",\"content\":[],\"usage\":{\"input_tokens\":10,",
    "\"output_tokens\":72,\"cache_read_input_tokens\":300,\"cache_creation_input_tokens\":50,",
    "\"cache_creation\":{\"ephemeral_1h_input_tokens\":30}}}",
);

async fn rig_for(server: &Server) -> Rig {
    Rig::with(RigOptions {
        model: server.url.clone(),
        ..RigOptions::default()
    })
    .await
}

/// A rig whose model always gives the same answer.
async fn answering(
    status: u16,
    headers: &'static [(&'static str, &'static str)],
    body: impl Into<Bytes>,
) -> (Rig, Server, Ledger) {
    let body = body.into();
    let (server, ledger) = recording(move |_| answer(status, headers, body.clone())).await;
    (rig_for(&server).await, server, ledger)
}

fn used(output_tokens: u64) -> ModelUse {
    ModelUse {
        model: "claude-answered".into(),
        usage: Usage {
            input_tokens: 10,
            output_tokens,
            cache_read_tokens: 300,
            cache_write_tokens: 50,
            ..Usage::default()
        },
        hour_cache_write_tokens: 30,
    }
}

fn told(rig: &Rig) -> Vec<ModelUse> {
    rig.sink.used.lock().unwrap().clone()
}

/// Waits until something is told.
async fn told_soon(rig: &Rig) -> Vec<ModelUse> {
    timeout(SOON, async {
        while told(rig).is_empty() {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    told(rig)
}

#[tokio::test]
async fn a_streamed_answer_is_counted_and_passes_unchanged_however_it_is_cut() {
    let events = format!("{START}{TEXT}{DELTA}{STOP}");
    for text in [events.replace('\n', "\r\n"), events] {
        for size in [1, 7, 64, text.len()] {
            let (server, sender) = answering_by_hand().await;
            let rig = rig_for(&server).await;
            for piece in text.as_bytes().chunks(size) {
                sender.send(Ok(Bytes::copy_from_slice(piece))).unwrap();
            }
            drop(sender);
            let answer = rig.post(MESSAGES, AGENT, ASK).await;
            assert_eq!(answer.text().await.unwrap(), text, "pieces of {size}");
            assert_eq!(told(&rig), [used(72)], "pieces of {size}");
            assert_eq!(*rig.sink.models.lock().unwrap(), ["claude-asked"]);
        }
    }
}

#[tokio::test]
async fn every_piece_passes_before_the_next_and_the_last_event_once_it_is_counted() {
    let (server, sender) = answering_by_hand().await;
    let rig = rig_for(&server).await;
    *rig.sink.delay.lock().unwrap() = Some(SLOW);
    let mut response = rig.post(MESSAGES, AGENT, ASK).await;
    for piece in [START, TEXT, DELTA] {
        sender.send(Ok(Bytes::from(piece))).unwrap();
        let chunk = timeout(SOON, response.chunk()).await.unwrap().unwrap();
        assert_eq!(chunk, Some(Bytes::from(piece)));
    }
    assert_eq!(told(&rig), []);
    // The connection stays open: a client may take this event for the end.
    sender.send(Ok(Bytes::from(STOP))).unwrap();
    let chunk = timeout(SOON, response.chunk()).await.unwrap().unwrap();
    assert_eq!((chunk, told(&rig)), (Some(Bytes::from(STOP)), vec![used(72)]));
    drop(sender);
    assert_eq!(response.chunk().await.unwrap(), None);
    assert_eq!(told(&rig), [used(72)], "once");
}

#[tokio::test]
async fn an_answer_without_a_last_event_ends_once_it_is_counted() {
    let (server, sender) = answering_by_hand().await;
    let rig = rig_for(&server).await;
    *rig.sink.delay.lock().unwrap() = Some(SLOW);
    let mut response = rig.post(MESSAGES, AGENT, ASK).await;
    sender.send(Ok(Bytes::from(START))).unwrap();
    assert!(response.chunk().await.unwrap().is_some());
    drop(sender);
    assert_eq!(timeout(SOON, response.chunk()).await.unwrap().unwrap(), None);
    assert_eq!(told(&rig), [used(1)]);
}

#[tokio::test]
async fn an_answer_of_known_length_is_not_complete_before_it_is_counted() {
    let streamed = format!("{START}{DELTA}");
    let cases: [(&'static [_], &str); 2] = [
        (&[("content-type", "application/json")], DOCUMENT),
        // Without its last event only the length says where it ends.
        (&[("content-type", "text/event-stream")], &streamed),
    ];
    for (headers, body) in cases {
        let (rig, _server, _ledger) = answering(200, headers, body.to_owned()).await;
        *rig.sink.delay.lock().unwrap() = Some(SLOW);
        let mut response = rig.post(MESSAGES, AGENT, ASK).await;
        assert_eq!(response.content_length(), Some(body.len() as u64));
        let mut read = 0;
        while read < body.len() {
            read += response.chunk().await.unwrap().unwrap().len();
        }
        assert_eq!(told(&rig), [used(72)], "{headers:?}");
    }
}

#[tokio::test]
async fn a_document_in_pieces_is_counted_before_its_last_one() {
    let (sender, body) = by_hand();
    let body = std::sync::Mutex::new(Some(body));
    let body = std::sync::Arc::new(body);
    let (server, _ledger) = recording(move |_| {
        let body: Body = body.lock().unwrap().take().unwrap();
        answer(200, &[("content-type", "application/json; charset=utf-8")], body)
    })
    .await;
    let rig = rig_for(&server).await;
    for piece in DOCUMENT.as_bytes().chunks(13) {
        sender.send(Ok(Bytes::copy_from_slice(piece))).unwrap();
    }
    drop(sender);
    let answer = rig.post(MESSAGES, AGENT, ASK).await;
    assert_eq!(answer.text().await.unwrap(), DOCUMENT);
    assert_eq!(told(&rig), [used(72)]);
}

#[tokio::test]
async fn of_an_answer_that_breaks_off_counts_what_was_told_until_then() {
    let (server, sender) = answering_by_hand().await;
    let rig = rig_for(&server).await;
    let mut response = rig.post(MESSAGES, AGENT, ASK).await;
    sender.send(Ok(Bytes::from(format!("{START}{TEXT}")))).unwrap();
    assert!(response.chunk().await.unwrap().is_some());
    sender.send(Err(std::io::Error::other("gone"))).unwrap();
    assert!(timeout(SOON, response.chunk()).await.unwrap().is_err());
    assert_eq!(told(&rig), [used(1)]);
}

#[tokio::test]
async fn an_answer_whose_sandbox_hangs_up_is_counted_and_ends_upstream() {
    let (server, sender) = answering_by_hand().await;
    let rig = rig_for(&server).await;
    let mut stream = UnixStream::connect(rig.socket()).await.unwrap();
    let request = format!(
        "POST {MESSAGES} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {AGENT}\r\ncontent-length: {}\r\n\r\n{ASK}",
        ASK.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    sender.send(Ok(Bytes::from(START))).unwrap();
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("message_start") {
        assert!(stream.read_buf(&mut seen).await.unwrap() > 0);
    }
    assert_eq!(told(&rig), []);
    drop(stream);
    assert_eq!(told_soon(&rig).await, [used(1)]);
    timeout(SOON, sender.closed()).await.unwrap();
}

#[tokio::test]
async fn a_sandbox_that_hangs_up_while_its_answer_is_counted_does_not_stop_that() {
    let (server, sender) = answering_by_hand().await;
    let rig = rig_for(&server).await;
    *rig.sink.delay.lock().unwrap() = Some(SLOW);
    let mut response = rig.post(MESSAGES, AGENT, ASK).await;
    sender.send(Ok(Bytes::from(START))).unwrap();
    assert!(response.chunk().await.unwrap().is_some());
    sender.send(Ok(Bytes::from(format!("{DELTA}{STOP}")))).unwrap();
    timeout(SOON, async {
        while rig.sink.counting.load(Ordering::SeqCst) == 0 {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    drop(response);
    assert_eq!(told_soon(&rig).await, [used(72)]);
}

#[tokio::test]
async fn closing_returns_once_an_answer_under_way_is_counted() {
    let (server, sender) = answering_by_hand().await;
    let rig = rig_for(&server).await;
    *rig.sink.delay.lock().unwrap() = Some(SLOW);
    let mut response = rig.post(MESSAGES, AGENT, ASK).await;
    sender.send(Ok(Bytes::from(START))).unwrap();
    assert!(response.chunk().await.unwrap().is_some());
    rig.gateway.close(fence(1)).await.unwrap();
    assert_eq!(told(&rig), [used(1)]);
    assert!(timeout(SOON, response.chunk()).await.unwrap().is_err());
}

#[tokio::test]
async fn closing_does_not_wait_for_a_sink_that_hangs() {
    let (server, sender) = answering_by_hand().await;
    let rig = rig_for(&server).await;
    *rig.sink.delay.lock().unwrap() = Some(Duration::from_hours(1));
    let mut response = rig.post(MESSAGES, AGENT, ASK).await;
    sender
        .send(Ok(Bytes::from(format!("{START}{DELTA}{STOP}"))))
        .unwrap();
    drop(sender);
    sleep(Duration::from_millis(200)).await;
    timeout(SOON, rig.gateway.close(fence(1))).await.unwrap().unwrap();
    assert!(timeout(SOON, response.chunk()).await.unwrap().is_err());
}

#[tokio::test]
async fn a_model_that_may_not_be_asked_hears_nothing_and_the_agent_does_not_try_again() {
    let (rig, _server, ledger) = answering(200, &[("content-type", "application/json")], DOCUMENT).await;
    *rig.sink.model_refusal.lock().unwrap() = Some(ModelRefusal {
        code: "budget.reached",
        detail: "the session has used its $5.00".into(),
    });
    // Larger than what a socket takes at once: the client must not be cut off before it looks at the answer.
    let large = format!(r#"{{"model":"claude-asked","system":"{}"}}"#, "x".repeat(8 << 20));
    for body in [ASK.to_owned(), large] {
        let refused = timeout(SOON, rig.post(MESSAGES, AGENT, body)).await.unwrap();
        assert_eq!(
            (refused.status().as_u16(), code(&refused)),
            (403, "budget.reached")
        );
        assert_eq!(header(&refused, "x-should-retry"), Some("false"));
        let error: Value = refused.json().await.unwrap();
        assert_eq!(
            (error["type"].as_str(), error["error"]["type"].as_str()),
            (Some("error"), Some("permission_error"))
        );
        let message = error["error"]["message"].as_str().unwrap();
        assert_eq!(
            message,
            "fabrica: the session has used its $5.00 (budget.reached)"
        );
    }
    assert!(ledger.lock().unwrap().is_empty());
    assert_eq!(*rig.sink.models.lock().unwrap(), ["claude-asked", "claude-asked"]);
    assert_eq!(told(&rig), []);
}

#[tokio::test]
async fn a_model_is_asked_for_before_its_request_is_complete() {
    let (rig, _server, ledger) = answering(200, &[], "").await;
    let (sender, body) = by_hand();
    let stream = reqwest::Body::wrap_stream(body.into_data_stream());
    let sending = tokio::spawn(
        rig.client()
            .post(format!("http://gateway{MESSAGES}"))
            .bearer_auth(AGENT)
            .body(stream)
            .send(),
    );
    for piece in [&b"{\"mod"[..], b"el\":\"claude-a", b"sked\""] {
        sender.send(Ok(Bytes::from_static(piece))).unwrap();
        sleep(Duration::from_millis(20)).await;
    }
    timeout(SOON, async {
        while rig.sink.models.lock().unwrap().is_empty() {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    sender.send(Ok(Bytes::from_static(b"}"))).unwrap();
    drop(sender);
    assert_eq!(
        timeout(SOON, sending).await.unwrap().unwrap().unwrap().status(),
        200
    );
    assert_eq!(*rig.sink.models.lock().unwrap(), ["claude-asked"]);
    let body = ledger.lock().unwrap()[0].body.clone();
    assert_eq!(body, br#"{"model":"claude-asked"}"#);
}

#[tokio::test]
async fn what_names_no_model_asks_for_one_without_a_name() {
    let (rig, _server, ledger) = answering(200, &[], "").await;
    let late = format!(r#"{{"system":"{}","model":"late"}}"#, "x".repeat(100 * 1024));
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(ASK.as_bytes()).unwrap();
    let packed = encoder.finish().unwrap();
    // A piece may be as long as it likes; what is bounded is how much is held back.
    let pieces: Vec<_> = late
        .as_bytes()
        .chunks(4096)
        .map(|piece| Ok::<_, std::io::Error>(Bytes::copy_from_slice(piece)))
        .collect();
    let pieces = reqwest::Body::wrap_stream(futures::stream::iter(pieces));
    rig.post(MESSAGES, AGENT, pieces).await;
    rig.post(MESSAGES, AGENT, "no JSON").await;
    let request = rig.client().post(format!("http://gateway{MESSAGES}"));
    let request = request.bearer_auth(AGENT).header("content-encoding", "gzip");
    request.body(packed.clone()).send().await.unwrap();
    assert_eq!(*rig.sink.models.lock().unwrap(), ["", "", ""]);
    let bodies: Vec<_> = ledger
        .lock()
        .unwrap()
        .iter()
        .map(|seen| seen.body.clone())
        .collect();
    assert_eq!(bodies, [late.into_bytes(), b"no JSON".to_vec(), packed]);
}

#[tokio::test]
async fn errors_count_nothing() {
    for status in [400, 401, 429, 500, 529] {
        let (rig, _server, _ledger) =
            answering(status, &[("content-type", "application/json")], DOCUMENT).await;
        let answer = rig.post(MESSAGES, AGENT, ASK).await;
        assert_eq!(answer.status().as_u16(), status);
        assert_eq!(answer.text().await.unwrap(), DOCUMENT);
        rig.gateway.close(fence(1)).await.unwrap();
        assert_eq!(told(&rig), [], "{status}");
    }
}

#[tokio::test]
async fn counting_tokens_is_asked_of_nobody_and_counts_nothing() {
    let (rig, _server, _ledger) = answering(200, &[("content-type", "application/json")], DOCUMENT).await;
    let path = "/model/v1/messages/count_tokens";
    let answer = rig.post(path, AGENT, ASK).await;
    assert_eq!(answer.text().await.unwrap(), DOCUMENT);
    rig.gateway.close(fence(1)).await.unwrap();
    assert_eq!(told(&rig), []);
    assert!(rig.sink.models.lock().unwrap().is_empty());
}

#[tokio::test]
async fn no_encoding_is_asked_for_and_what_comes_encoded_passes_uncounted() {
    let headers = &[("content-type", "application/json"), ("content-encoding", "gzip")];
    let (rig, _server, ledger) = answering(200, headers, DOCUMENT).await;
    let request = rig.client().post(format!("http://gateway{MESSAGES}"));
    let request = request.bearer_auth(AGENT).header("accept-encoding", "gzip, br");
    let answer = request.body(ASK).send().await.unwrap();
    assert_eq!(header(&answer, "content-encoding"), Some("gzip"));
    assert_eq!(answer.bytes().await.unwrap(), DOCUMENT);
    let seen = ledger.lock().unwrap()[0].clone();
    assert_eq!(seen.header("accept-encoding"), Some("identity"));
    rig.gateway.close(fence(1)).await.unwrap();
    assert_eq!(told(&rig), []);
}
