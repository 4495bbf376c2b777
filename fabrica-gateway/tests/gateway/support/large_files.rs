//! Git LFS at a code host that keeps the content elsewhere, as the large ones do.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::response::Response;
use serde_json::{Value, json};

use super::upstream::{Ledger, Seen, Server, answer, recording};

/// What the storage wants to see beside the address.
pub(crate) const SIGNATURE: &str = "canary-storage-signature";

/// Content by the name of its object.
pub(crate) type Objects = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

/// The storage, on an address of its own.
#[derive(Debug)]
pub(crate) struct Storage {
    pub(crate) server: Server,
    pub(crate) seen: Ledger,
    pub(crate) objects: Objects,
    /// What it puts before the path when it sends downloads on: without anything, to itself.
    pub(crate) elsewhere: Arc<Mutex<String>>,
}

impl Storage {
    pub(crate) async fn start() -> Self {
        let (objects, elsewhere) = (Objects::default(), Arc::<Mutex<String>>::default());
        let (kept, before) = (objects.clone(), elsewhere.clone());
        let (server, seen) = recording(move |request| serve(&kept, &before, request)).await;
        Self {
            server,
            seen,
            objects,
            elsewhere,
        }
    }

    pub(crate) fn keep(&self, name: &str, content: &str) {
        self.objects.lock().unwrap().insert(name.into(), content.into());
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.objects.lock().unwrap().contains_key(name)
    }
}

fn serve(objects: &Objects, elsewhere: &Mutex<String>, request: &Seen) -> Response {
    if request.header("x-signature") != Some(SIGNATURE) || request.header("authorization").is_some() {
        return answer(403, &[], "no");
    }
    if request.header("host") == Some("other") {
        return answer(421, &[], "the host's words about the connection were taken");
    }
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    let name = path.trim_start_matches("/objects/").to_owned();
    let mut objects = objects.lock().unwrap();
    match (request.method.as_str(), objects.get(&name)) {
        ("GET", Some(_)) if query == "elsewhere" => {
            let place = format!("{}{path}", elsewhere.lock().unwrap());
            answer(302, &[("location", &place)], "")
        }
        ("GET", Some(content)) => answer(200, &[], content.clone()),
        ("PUT", _) => {
            assert_eq!(
                request.header("transfer-encoding"),
                None,
                "storages take no chunks"
            );
            let whole = request.body.len().to_string();
            if request.header("content-length") != Some(&whole) {
                return answer(400, &[], "it broke off");
            }
            objects.insert(name, request.body.clone());
            answer(200, &[], "")
        }
        _ => answer(404, &[], "no such object"),
    }
}

/// What the code host answers below `info/lfs`.
pub(crate) fn host(storage: &str, objects: &Objects, home: &str, request: &Seen) -> Response {
    let question: Value = serde_json::from_slice(&request.body).unwrap();
    let there = |object: &Value| {
        objects
            .lock()
            .unwrap()
            .contains_key(object["oid"].as_str().unwrap())
    };
    let headers = [("content-type", "application/vnd.git-lfs+json")];
    assert_eq!(
        request.header("content-type"),
        Some("application/vnd.git-lfs+json")
    );
    if request.path.ends_with("/verify") {
        let status = if there(&question) { 200 } else { 404 };
        return answer(status, &headers, "{}");
    }
    assert!(
        request.path.ends_with("/name.git/info/lfs/objects/batch"),
        "{}",
        request.path
    );
    let answered = |object: &Value| {
        let name = object["oid"].as_str().unwrap();
        let at = format!("{storage}/objects/{name}?elsewhere");
        let action =
            json!({"href": at, "header": {"X-Signature": SIGNATURE, "Host": "other"}, "expires_in": 3600});
        let verify = json!({"href": format!("{home}/owner/name.git/info/lfs/verify")});
        match (question["operation"].as_str(), there(object)) {
            (Some("download"), true) => json!({"download": action}),
            (Some("upload"), false) => json!({"upload": action, "verify": verify}),
            _ => Value::Null,
        }
    };
    let of = |object: &Value| {
        let mut entry = json!({"oid": object["oid"], "size": object["size"]});
        let actions = answered(object);
        if !actions.is_null() {
            entry["actions"] = actions;
        } else if question["operation"] == "download" {
            entry["error"] = json!({"code": 404, "message": "gone"});
        }
        entry
    };
    let objects: Vec<Value> = question["objects"].as_array().unwrap().iter().map(of).collect();
    answer(
        200,
        &headers,
        json!({"transfer": "basic", "objects": objects}).to_string(),
    )
}
