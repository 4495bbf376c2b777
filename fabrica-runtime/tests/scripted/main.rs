//! Engines that misbehave: what an adapter makes of a daemon that is down, hangs, fails, or is something else.

#![expect(clippy::unwrap_used, reason = "the helpers of tests fail like tests")]

mod detecting;
mod engine;
mod refusing;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use fabrica_core::ports::runtime::{ContainerName, Observation};
use fabrica_core::ports::{ContainerRuntime, RuntimeError};
use fabrica_runtime::{Address, DockerRuntime, PodmanRuntime};
use futures::StreamExt as _;
use tokio::time::{Instant, timeout};

use crate::engine::{Reply, Scripted};

const PATIENCE: Duration = Duration::from_millis(400);

/// Answers what an adapter asks when it connects.
pub(crate) fn greeting(request: &str) -> Option<Reply> {
    match request {
        "GET /version" => Some(Reply::Json(
            200,
            r#"{"ApiVersion":"1.41","Version":"20.10.24"}"#.to_owned(),
        )),
        "GET /_ping" | "GET /libpod/_ping" => Some(Reply::Json(200, "\"OK\"".to_owned())),
        _ => None,
    }
}

/// Both adapters, on a script each that knows the greeting.
pub(crate) async fn both(
    script: impl Fn(&str) -> Reply + Clone + Send + Sync + 'static,
) -> [(Scripted, Arc<dyn ContainerRuntime>); 2] {
    let one = script.clone();
    let docker = Scripted::new(move |request| greeting(request).unwrap_or_else(|| one(request)));
    let podman = Scripted::new(move |request| greeting(request).unwrap_or_else(|| script(request)));
    let docker_runtime = DockerRuntime::connect(&Address::Unix(docker.socket()))
        .await
        .unwrap();
    let podman_runtime = PodmanRuntime::connect(podman.socket()).await.unwrap();
    [
        (docker, Arc::new(docker_runtime.with_patience(PATIENCE))),
        (podman, Arc::new(podman_runtime.with_patience(PATIENCE))),
    ]
}

pub(crate) fn name() -> ContainerName {
    ContainerName::from_engine("fabrica-x-1")
}

async fn errors_of_all_questions(runtime: &dyn ContainerRuntime) -> Vec<RuntimeError> {
    vec![
        runtime.capabilities().await.unwrap_err(),
        runtime.observe(&name()).await.unwrap_err(),
        runtime.stop(&name(), Duration::ZERO).await.unwrap_err(),
        runtime.remove(&name()).await.unwrap_err(),
        runtime.log_tail(&name(), 5).await.unwrap_err(),
        runtime.list("owner").await.unwrap_err(),
        runtime.image("image:1").await.unwrap_err(),
        runtime.ensure(&refusing::spec()).await.unwrap_err(),
        runtime.watch("owner").await.err().unwrap(),
    ]
}

async fn is_unavailable_everywhere(script: impl Fn(&str) -> Reply + Clone + Send + Sync + 'static) {
    for (_engine, runtime) in both(script).await {
        for error in errors_of_all_questions(&*runtime).await {
            assert!(matches!(error, RuntimeError::Unavailable { .. }), "{error:?}");
            assert!(error.retryable());
        }
    }
}

#[tokio::test]
async fn a_daemon_that_hangs_is_unavailable_and_hangs_nobody() {
    timeout(
        Duration::from_secs(20),
        is_unavailable_everywhere(|_| Reply::Hang),
    )
    .await
    .unwrap();
}

#[tokio::test]
async fn a_daemon_that_closes_the_connection_is_unavailable() {
    is_unavailable_everywhere(|_| Reply::Close).await;
}

#[tokio::test]
async fn a_daemon_behind_a_proxy_that_cannot_reach_it_is_unavailable() {
    is_unavailable_everywhere(|_| Reply::Json(503, r#"{"message":"shutting down"}"#.to_owned())).await;
}

#[tokio::test]
async fn what_speaks_no_http_is_unavailable() {
    is_unavailable_everywhere(|_| Reply::Raw("220 mail.example.com ESMTP\r\n")).await;
}

#[tokio::test]
async fn a_web_page_is_unavailable() {
    for (_engine, runtime) in both(|_| Reply::Raw("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>")).await
    {
        let observed = runtime.observe(&name()).await.unwrap_err();
        let listed = runtime.list("owner").await.unwrap_err();
        for error in [observed, listed] {
            assert!(matches!(error, RuntimeError::Unavailable { .. }), "{error:?}");
        }
    }
}

#[tokio::test]
async fn a_daemon_that_goes_away_is_unavailable() {
    for (mut engine, runtime) in both(|_| Reply::Close).await {
        engine.go_away().await;
        let error = runtime.observe(&name()).await.unwrap_err();
        assert!(
            error.to_string().to_lowercase().contains("connection refused"),
            "{error}"
        );
        let socket = engine.socket();
        drop(engine);
        let error = runtime.observe(&name()).await.unwrap_err();
        assert!(matches!(&error, RuntimeError::Unavailable { .. }), "{error:?}");
        assert!(
            error.to_string().contains(&*socket.to_string_lossy()),
            "the address is named: {error}"
        );
    }
}

#[tokio::test]
async fn nobody_can_be_connected_to_where_nobody_listens() {
    let socket = std::path::PathBuf::from("/nonexistent/engine.sock");
    let docker = DockerRuntime::connect(&Address::Unix(socket.clone()))
        .await
        .unwrap_err();
    let podman = PodmanRuntime::connect(socket).await.unwrap_err();
    for error in [docker, podman] {
        assert!(matches!(error, RuntimeError::Unavailable { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_daemon_that_fails_is_told_in_its_own_words() {
    for (_engine, runtime) in
        both(|_| Reply::Json(500, r#"{"message":"no space left on device"}"#.to_owned())).await
    {
        let error = runtime.observe(&name()).await.unwrap_err();
        assert!(
            matches!(&error, RuntimeError::Denied { message, .. } if message == "no space left on device"),
            "{error:?}"
        );
        assert!(!error.retryable());
    }
}

#[tokio::test]
async fn podman_is_asked_again_if_the_process_ended_while_it_looked() {
    let asked = AtomicU32::new(0);
    let podman = Scripted::new(move |request| {
        greeting(request).unwrap_or_else(|| match asked.fetch_add(1, Ordering::SeqCst) {
            0 => Reply::Json(
                500,
                r#"{"message":"read /proc/7/cgroup: no such process"}"#.to_owned(),
            ),
            _ => Reply::Json(
                200,
                r#"{"Id":"1","State":{"Status":"exited","ExitCode":3}}"#.to_owned(),
            ),
        })
    });
    let runtime = PodmanRuntime::connect(podman.socket()).await.unwrap();
    let ended = Observation::Exited {
        code: 3,
        out_of_memory: false,
        reason: String::new(),
    };
    assert_eq!(runtime.observe(&name()).await.unwrap(), ended);
}

#[tokio::test]
async fn what_the_engine_does_not_find_is_gone() {
    for (_engine, runtime) in both(|_| Reply::Json(404, r#"{"message":"no such thing"}"#.to_owned())).await {
        assert_eq!(runtime.observe(&name()).await.unwrap(), Observation::Gone);
        assert_eq!(runtime.image("image:1").await.unwrap(), None);
        assert!(runtime.log_tail(&name(), 5).await.unwrap().is_empty());
        runtime.stop(&name(), Duration::ZERO).await.unwrap();
        runtime.remove(&name()).await.unwrap();
    }
}

#[tokio::test]
async fn names_that_would_change_the_question_are_not_asked() {
    for (engine, runtime) in both(|_| Reply::Close).await {
        for hostile in ["../../info", "a?force=true", "a/../b", ""] {
            let hostile = ContainerName::from_engine(hostile);
            assert_eq!(runtime.observe(&hostile).await.unwrap(), Observation::Gone);
            runtime.remove(&hostile).await.unwrap();
            assert_eq!(runtime.image("a?b").await.unwrap(), None);
        }
        assert!(engine.asked("GET /containers") + engine.asked("GET /libpod/containers") == 0);
    }
}

#[tokio::test]
async fn a_watch_whose_events_end_reconnects_without_haste() {
    let script = |request: &str| match request {
        list if list.contains("/containers/json") => Reply::Json(200, "[]".to_owned()),
        _ => Reply::Close,
    };
    for (engine, runtime) in both(script).await {
        let mut changes = runtime.watch("owner").await.unwrap();
        let begun = Instant::now();
        assert!(
            timeout(Duration::from_secs(2), changes.next()).await.is_err(),
            "there is nothing to tell"
        );
        assert!(begun.elapsed() >= Duration::from_secs(2));
        let connections = engine.asked("GET /events") + engine.asked("GET /libpod/events");
        assert!(
            (3..=7).contains(&connections),
            "{connections} connections in two seconds"
        );
    }
}
