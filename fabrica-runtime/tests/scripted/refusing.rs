//! Containers that turn out weaker than asked, or not ours.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fabrica_core::ports::RuntimeError;
use fabrica_core::ports::runtime::{ContainerSpec, LABEL_OWNER, ResourceLimits};
use serde_json::{Value, json};

use crate::engine::Reply;
use crate::{both, name};

pub(crate) fn spec() -> ContainerSpec {
    ContainerSpec {
        name: name(),
        labels: BTreeMap::from([(LABEL_OWNER.to_owned(), "owner".to_owned())]),
        image: "image:1".to_owned(),
        command: vec!["run".to_owned()],
        environment: BTreeMap::new(),
        user: (1000, 1000),
        working_directory: "/".to_owned(),
        binds: Vec::new(),
        workspace: "/workspace".to_owned(),
        tmpfs: Vec::new(),
        limits: ResourceLimits::default(),
        allow_unenforced_limits: true,
    }
}

/// An inspection that both engines could have written, of a container that is as asked but for `change`.
fn inspection(change: impl Fn(&mut Value)) -> Value {
    let mut found = json!({
        "Id": "0123456789ab",
        "State": { "Status": "created", "ExitCode": 0 },
        "Config": { "User": "1000:1000", "Labels": { LABEL_OWNER: "owner" } },
        "HostConfig": {
            "NetworkMode": "none", "ReadonlyRootfs": true, "Privileged": false, "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
        },
        "Mounts": [
            { "Type": "volume", "Name": "fabrica-x-1", "Source": "/v", "Destination": "/workspace", "RW": true },
        ],
    });
    change(&mut found);
    found
}

/// An engine that creates whatever it is asked to, and then says `found` of it.
fn engine(found: &Value) -> impl Fn(&str) -> Reply + Clone + Send + Sync + use<> {
    let found = found.to_string();
    let created = Arc::new(AtomicBool::new(false));
    let info = json!({
        "ServerVersion": "20.10.24", "SecurityOptions": ["name=seccomp,profile=default"],
        "host": { "security": { "rootless": false, "seccompEnabled": true }, "cgroupVersion": "v2" },
        "version": { "Version": "4.3.1" },
    });
    move |request| {
        let request = request.replace("/libpod/", "/");
        let (method, path) = request.split_once(' ').unwrap();
        match (method, path) {
            ("GET", "/info") => Reply::Json(200, info.to_string()),
            ("GET", "/images/image:1/json") => {
                Reply::Json(200, json!({ "Id": "sha256:1", "Size": 1 }).to_string())
            }
            ("POST", "/volumes/create") => {
                let volume = json!({ "Name": "fabrica-x-1", "Driver": "local", "Mountpoint": "/v", "Labels": {},
                    "Scope": "local", "Options": {} });
                Reply::Json(201, volume.to_string())
            }
            ("POST", path) if path.starts_with("/containers/create") => {
                created.store(true, Ordering::SeqCst);
                Reply::Json(201, json!({ "Id": "0123456789ab", "Warnings": [] }).to_string())
            }
            ("GET", path) if path.starts_with("/containers/") && created.load(Ordering::SeqCst) => {
                Reply::Json(200, found.clone())
            }
            ("DELETE", path) => {
                if path.starts_with("/containers/") {
                    created.store(false, Ordering::SeqCst);
                }
                Reply::Json(200, "[]".to_owned())
            }
            _ => Reply::Json(404, r#"{"message":"no such thing"}"#.to_owned()),
        }
    }
}

type Break = fn(&mut Value);

#[tokio::test]
async fn a_container_that_is_weaker_than_asked_is_removed_and_never_started() {
    let breaks: [(Break, &str); 5] = [
        (
            |found| found["HostConfig"]["SecurityOpt"] = json!([]),
            "no-new-privileges",
        ),
        (
            |found| found["HostConfig"]["ReadonlyRootfs"] = json!(false),
            "a read-only root",
        ),
        (
            |found| found["HostConfig"]["NetworkMode"] = json!("bridge"),
            "a container without network",
        ),
        (
            |found| found["HostConfig"]["CapAdd"] = json!(["CAP_SYS_ADMIN"]),
            "a container without capabilities",
        ),
        (
            |found| found["HostConfig"] = Value::Null,
            "a container without capabilities",
        ),
    ];
    for (change, promise) in breaks {
        for (scripted, runtime) in both(engine(&inspection(change))).await {
            let error = runtime.ensure(&spec()).await.unwrap_err();
            assert!(
                matches!(&error, RuntimeError::Unsupported { capability, .. } if capability == promise),
                "{error:?}"
            );
            assert!(!error.retryable());
            let asked =
                |what: &str| scripted.asked(what) + scripted.asked(&what.replacen(" /", " /libpod/", 1));
            assert_eq!(asked("DELETE /containers/0123456789ab"), 1);
            assert_eq!(asked("DELETE /volumes/fabrica-x-1"), 1);
            assert_eq!(asked("POST /containers/0123456789ab/start"), 0);
        }
    }
}

#[tokio::test]
async fn what_has_no_label_of_ours_is_neither_stopped_nor_removed() {
    let script = |request: &str| match request {
        get if get.starts_with("GET") => {
            let found = inspection(|found| {
                found["Config"]["Labels"] = json!({});
                found["State"]["Status"] = json!("running");
            });
            Reply::Json(200, found.to_string())
        }
        _ => Reply::Json(204, String::new()),
    };
    for (scripted, runtime) in both(script).await {
        let stop = runtime.stop(&name(), Duration::ZERO).await.unwrap_err();
        let remove = runtime.remove(&name()).await.unwrap_err();
        let ensure = runtime.ensure(&spec()).await.unwrap_err();
        assert!(matches!(stop, RuntimeError::Denied { .. }) && matches!(remove, RuntimeError::Denied { .. }));
        assert!(matches!(ensure, RuntimeError::AlreadyExists { .. }));
        assert_eq!(scripted.asked("POST") + scripted.asked("DELETE"), 0);
    }
}
