use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use fabrica_core::protocol::{Acknowledgement, Envelope, Instruction, MAX_BATCH_EVENTS};
use serde_json::{Map, json};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::environment::Environment;
use crate::socket::Socket;
use crate::stop::Reason;

type Answer = dyn Fn(usize, &[Envelope]) -> Option<Response> + Send + Sync;

/// A gateway that stores events in order, unless the test answers itself.
struct Stub {
    stored: Mutex<Vec<Envelope>>,
    deliveries: AtomicUsize,
    answer: Box<Answer>,
}

struct Rig {
    directory: TempDir,
    stub: Arc<Stub>,
    stop: Stop,
    reporter: Reporter,
}

async fn receive(State(stub): State<Arc<Stub>>, body: Bytes) -> Response {
    let delivery = stub.deliveries.fetch_add(1, Ordering::SeqCst);
    let events: Vec<Envelope> = std::str::from_utf8(&body)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(events.len() <= MAX_BATCH_EVENTS);
    if let Some(response) = (stub.answer)(delivery, &events) {
        return response;
    }
    let mut stored = stub.stored.lock().unwrap();
    for event in events {
        assert!(event.seq <= stored.len() as u64 + 1, "no gaps");
        if event.seq == stored.len() as u64 + 1 {
            stored.push(event);
        }
    }
    axum::Json(Acknowledgement {
        acknowledged: stored.len() as u64,
        instructions: vec![],
    })
    .into_response()
}

impl Rig {
    fn new(answer: impl Fn(usize, &[Envelope]) -> Option<Response> + Send + Sync + 'static) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let stub = Arc::new(Stub {
            stored: Mutex::default(),
            deliveries: AtomicUsize::new(0),
            answer: Box::new(answer),
        });
        let socket = directory.path().join("gateway.sock");
        let variables = [
            ("FABRICA_RUNNER_TOKEN", "canary-token".into()),
            ("FABRICA_AGENT_TOKEN", "other".into()),
            ("FABRICA_GATEWAY_SOCKET", socket.into_os_string()),
        ];
        let environment =
            Environment::from_variables(variables.map(|(name, value)| (name.into(), value))).unwrap();
        let stop = Stop::new();
        let watched = Socket::new(environment.socket.clone());
        tokio::spawn(watched.clone().watch());
        let gateway = Gateway::new(&environment, watched);
        let secrets = vec![environment.runner_token.clone()];
        let (reporter, _) = Reporter::start(directory.path(), gateway, secrets, stop.clone()).unwrap();
        Self {
            directory,
            stub,
            stop,
            reporter,
        }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("gateway.sock")
    }

    fn open(self) -> Self {
        let listener = UnixListener::bind(self.socket()).unwrap();
        let router = Router::new()
            .route("/session/events", post(receive))
            .with_state(Arc::clone(&self.stub));
        tokio::spawn(async move { axum::serve(listener, router).await });
        self
    }

    async fn delivered(&self) -> bool {
        timeout(Duration::from_secs(30), self.reporter.delivered(Duration::ZERO))
            .await
            .expect("it is delivered or refused")
    }

    fn stored(&self) -> Vec<Envelope> {
        self.stub.stored.lock().unwrap().clone()
    }
}

#[tokio::test]
async fn events_arrive_once_and_in_order_through_failures_of_every_kind() {
    let rig = Rig::new(|delivery, _| match delivery {
        0 | 3 => Some(StatusCode::INTERNAL_SERVER_ERROR.into_response()),
        1 => Some("not json".into_response()),
        2 => Some(axum::Json(Acknowledgement::default()).into_response()),
        _ => None,
    });
    for n in 0..1_234 {
        rig.reporter.progress("test", format!("event {n}")).await;
    }
    sleep(Duration::from_millis(150)).await;
    let rig = rig.open();
    assert!(rig.delivered().await);
    let told: Vec<String> = rig
        .stored()
        .into_iter()
        .map(|event| match event.event {
            RunnerEvent::Progress { message, .. } => message,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told, (0..1_234).map(|n| format!("event {n}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn reporters_in_parallel_share_one_numbering() {
    let rig = Rig::new(|_, _| None).open();
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let reporter = rig.reporter.clone();
            tokio::spawn(async move {
                for n in 0..50 {
                    reporter.progress("test", format!("{task}/{n}")).await;
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert!(rig.delivered().await);
    let numbers: Vec<u64> = rig.stored().iter().map(|event| event.seq).collect();
    assert_eq!(numbers, (1..=400).collect::<Vec<u64>>());
}

#[tokio::test]
async fn a_single_event_is_sent_at_once() {
    let rig = Rig::new(|_, _| None).open();
    rig.reporter.progress("test", "first").await;
    assert!(rig.delivered().await);
    sleep(Duration::from_millis(100)).await;
    let started = Instant::now();
    rig.reporter.progress("test", "second").await;
    assert!(rig.delivered().await);
    assert!(
        started.elapsed() < Duration::from_millis(500),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn an_event_that_is_never_taken_gives_way_to_a_note() {
    let rig = Rig::new(|_, events| {
        let poison = events.iter().any(|event| format!("{event:?}").contains("poison"));
        poison.then(|| StatusCode::BAD_REQUEST.into_response())
    })
    .open();
    for message in ["before", "poison", "after", "last"] {
        rig.reporter.progress("test", message).await;
    }
    assert!(rig.delivered().await);
    let stored = rig.stored();
    assert_eq!(stored.len(), 4);
    assert!(matches!(&stored[1].event, RunnerEvent::Agent(entry) if entry.kind == "notice"));
}

#[tokio::test]
async fn refusals_end_the_attempt_and_instructions_are_obeyed() {
    for status in [
        StatusCode::UNAUTHORIZED,
        StatusCode::FORBIDDEN,
        StatusCode::CONFLICT,
    ] {
        let rig = Rig::new(move |_, _| Some(status.into_response())).open();
        rig.reporter.progress("test", "x").await;
        assert!(!rig.delivered().await);
        assert_eq!(rig.stop.reason(), Some(Reason::Fenced));
    }
    let rig = Rig::new(|_, events| {
        let acknowledged = events.last().map_or(0, |event| event.seq);
        let instructions = vec![Instruction::Unknown, Instruction::Cancel];
        Some(
            axum::Json(Acknowledgement {
                acknowledged,
                instructions,
            })
            .into_response(),
        )
    })
    .open();
    rig.reporter.progress("test", "x").await;
    assert_eq!(rig.stop.requested().await, Reason::Cancelled);
}

#[tokio::test]
async fn after_a_stop_a_gateway_that_is_away_is_not_waited_for_long() {
    let rig = Rig::new(|_, _| None);
    rig.reporter.progress("test", "x").await;
    rig.stop.request(Reason::Signal);
    assert!(!rig.reporter.delivered(Duration::from_millis(50)).await);
}

#[tokio::test]
async fn reports_are_bounded_and_hold_no_token() {
    let rig = Rig::new(|_, _| None).open();
    let detail = Map::from_iter([("text".to_owned(), json!("canary-token ".repeat(100_000)))]);
    let entry = TranscriptEntry {
        kind: "text".into(),
        parent: None,
        summary: "canary-token".repeat(9),
        detail,
    };
    rig.reporter.report(RunnerEvent::Agent(entry)).await;
    assert!(rig.delivered().await);
    let text = serde_json::to_string(&rig.stored()[0]).unwrap();
    assert!(
        text.len() <= MAX_EVENT_BYTES && text.contains("bytes cut"),
        "{}",
        text.len()
    );
    assert!(!text.contains("canary"));
}

fn large_entry(text: &str) -> RunnerEvent {
    RunnerEvent::Agent(TranscriptEntry {
        kind: "text".into(),
        parent: None,
        summary: text.into(),
        detail: Map::from_iter([("text".to_owned(), json!("x".repeat(200_000)))]),
    })
}

#[tokio::test]
async fn while_too_much_waits_entries_are_left_out_and_counted_and_the_outcome_arrives() {
    let rig = Rig::new(|_, _| None);
    let within = async |event| {
        let reported = timeout(Duration::from_secs(5), rig.reporter.report(event)).await;
        reported.expect("nobody waits for a gateway that is away");
    };
    for _ in 0..200 {
        within(large_entry("flood")).await;
    }
    let spooled = rig.reporter.0.spool().file_bytes();
    assert!(spooled < MAX_WAITING + RESERVE, "{spooled} bytes on the disk");
    let kept = rig.reporter.0.spool().last();
    within(RunnerEvent::Completed(fabrica_core::protocol::JobResult {
        summary: "done".into(),
        pushed: None,
        verification: vec![],
        rounds: 1,
        template: None,
        heard: 0,
        unfinished: false,
    }))
    .await;
    let rig = rig.open();
    assert!(rig.delivered().await);
    let stored = rig.stored();
    assert_eq!(stored.len() as u64, kept + 2);
    let RunnerEvent::Agent(note) = &stored[stored.len() - 2].event else {
        panic!("{stored:?}")
    };
    assert_eq!(note.summary, format!("… {} lines left out", 200 - kept));
    assert!(matches!(stored.last().unwrap().event, RunnerEvent::Completed(_)));
    rig.reporter.report(large_entry("after")).await;
    assert!(rig.delivered().await);
    assert_eq!(rig.stored().len(), stored.len() + 1, "there is room again");
}

#[tokio::test]
async fn a_silent_agent_is_told_from_a_frozen_sandbox_by_empty_batches() {
    let rig = Rig::new(|_, _| None).open();
    rig.reporter.progress("test", "one event, then silence").await;
    assert!(rig.delivered().await);
    let before = rig.stub.deliveries.load(Ordering::SeqCst);
    let beats = async {
        while rig.stub.deliveries.load(Ordering::SeqCst) < before + 4 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(30), beats)
        .await
        .expect("it goes on asking");
    assert_eq!(rig.stored().len(), 1, "the batches were empty");
}

#[tokio::test]
async fn a_new_owner_hears_of_a_silent_runner_at_once() {
    // The first owner accepts connections, as the kernel does for a frozen process, and never answers.
    let rig = Rig::new(|_, _| None);
    let _frozen = UnixListener::bind(rig.socket()).unwrap();
    rig.reporter.progress("test", "to the frozen one").await;
    sleep(Duration::from_millis(300)).await;
    std::fs::remove_file(rig.socket()).unwrap();
    let rig = rig.open();
    // Sooner than a request to the first one is given up.
    assert!(
        timeout(crate::gateway::PATIENCE / 2, rig.delivered())
            .await
            .unwrap()
    );
    assert_eq!(rig.stored().len(), 1);
}
