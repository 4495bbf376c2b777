//! Finding an engine.

use std::path::PathBuf;

use fabrica_core::ports::RuntimeError;
use fabrica_runtime::{Address, EngineAddresses, RuntimeChoice, connect};

use crate::engine::{Reply, Scripted};
use crate::greeting;

fn docker() -> Scripted {
    Scripted::new(|request| greeting(request).unwrap_or(Reply::Close))
}

/// Podman's answer to Docker's ping names its own interface.
fn podman() -> Scripted {
    Scripted::new(|request| match request {
        "GET /_ping" => Reply::Raw(
            "HTTP/1.1 200 OK\r\napi-version: 1.41\r\nlibpod-api-version: 4.3.1\r\ncontent-length: 2\r\n\r\nOK",
        ),
        other => greeting(other).unwrap_or(Reply::Close),
    })
}

fn unix(engine: &Scripted) -> String {
    Address::Unix(engine.socket()).to_string()
}

#[tokio::test]
async fn the_first_that_answers_is_taken() {
    let (docker, podman) = (docker(), podman());
    let addresses = EngineAddresses {
        docker_host: Some("tcp://127.0.0.1:9".to_owned()),
        docker_sockets: vec!["/nonexistent/docker.sock".into(), docker.socket()],
        podman_sockets: vec![podman.socket()],
        ..EngineAddresses::default()
    };
    let found = connect(RuntimeChoice::Auto, &addresses).await.unwrap();
    assert_eq!(*found.address(), Address::Unix(docker.socket()));
    found.shutdown().await;
    let found = connect(RuntimeChoice::Podman, &addresses).await.unwrap();
    assert_eq!(*found.address(), Address::Unix(podman.socket()));
}

#[tokio::test]
async fn podman_behind_dockers_address_is_recognised() {
    let podman = podman();
    let addresses = EngineAddresses {
        docker_host: Some(unix(&podman)),
        ..EngineAddresses::default()
    };
    let found = connect(RuntimeChoice::Auto, &addresses).await.unwrap();
    assert!(format!("{:?}", found.runtime()).starts_with("PodmanRuntime"));
    let error = connect(RuntimeChoice::Docker, &addresses).await.unwrap_err();
    assert!(error.to_string().contains("choose podman"), "{error}");
}

#[tokio::test]
async fn if_nothing_answers_all_that_was_tried_is_told_and_what_to_do() {
    let web = Scripted::new(|_| Reply::Raw("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"));
    let addresses = EngineAddresses {
        docker_host: Some("ssh://somewhere".to_owned()),
        docker_sockets: vec![PathBuf::from("/nonexistent/docker.sock")],
        container_host: Some(unix(&web)),
        podman_sockets: vec![PathBuf::from("/nonexistent/podman.sock")],
        ..EngineAddresses::default()
    };
    let error = connect(RuntimeChoice::Auto, &addresses).await.unwrap_err();
    assert!(matches!(error, RuntimeError::Unavailable { .. }) && error.retryable());
    let text = error.to_string();
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    let starts = [
        "a container engine does not answer: tried",
        "DOCKER_HOST: \"ssh://somewhere\" is not an address",
        "Docker's usual socket: unix:///nonexistent/docker.sock: No such file",
        "CONTAINER_HOST: unix://",
        "Podman's usual socket: unix:///nonexistent/podman.sock: No such file",
        "starting Podman's service: there is no program podman in PATH",
        "Install Podman",
    ];
    assert_eq!(lines.len(), starts.len(), "{text}");
    assert!(
        lines
            .iter()
            .zip(starts)
            .all(|(line, start)| line.starts_with(start)),
        "{text}"
    );
}

#[tokio::test]
async fn a_podman_that_is_only_a_program_is_started_and_stopped() {
    let place = tempfile::tempdir().unwrap();
    let environment = EngineAddresses::from_environment();
    let addresses = EngineAddresses {
        podman_program: Some(
            environment
                .podman_program
                .expect("podman is installed: run `make test`"),
        ),
        runtime_directory: place.path().to_owned(),
        ..EngineAddresses::default()
    };
    for orderly in [true, false] {
        let found = connect(RuntimeChoice::Auto, &addresses).await.unwrap();
        assert_eq!(found.runtime().capabilities().await.unwrap().engine, "podman");
        let Address::Unix(socket) = found.address().clone() else {
            panic!("a socket")
        };
        let runtime = found.runtime();
        if orderly {
            found.shutdown().await;
        } else {
            drop(found);
        }
        assert!(!socket.exists());
        assert_eq!(
            std::fs::read_dir(place.path()).unwrap().count(),
            0,
            "nothing is left"
        );
        assert!(runtime.capabilities().await.is_err());
    }
}
