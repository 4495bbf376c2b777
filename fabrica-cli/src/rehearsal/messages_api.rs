//! The scripted Messages API: a model whose every word is known beforehand.

mod message;
mod place;
mod script;

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::{Method, header, request::Parts},
    response::{IntoResponse, Response},
};
use futures::{StreamExt as _, stream};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

pub use self::script::{Block, Case, Fault, Script, Turn, Usage};
use self::{message::Message, place::Place};
use super::{
    error::RehearsalError,
    ledger::{Ledger, locked},
    server::Server,
};

/// The longest request that is read; the real API allows 32 MB.
const LONGEST_BODY: usize = 32 * 1024 * 1024;

/// Lets what came before a break reach the client.
const BEFORE_A_BREAK: Duration = Duration::from_millis(20);

/// How the scripted API behaves beside its script.
#[derive(Debug, Clone, Default)]
pub struct ApiOptions {
    /// The only key that is accepted, as `x-api-key` or as a bearer token; none accepts everything.
    pub accepted_key: Option<SecretString>,
}

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct RecordedRequest {
    /// The method.
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// The headers; several values of one name are joined by a comma. Credentials are not hidden.
    pub headers: BTreeMap<String, String>,
    /// The body, or null where it was not JSON.
    pub body: Value,
    /// The status of the answer, once it has begun.
    pub status: Option<u16>,
}

impl RecordedRequest {
    fn new(parts: &Parts, body: Value) -> Self {
        let mut headers = BTreeMap::<String, String>::new();
        for (name, value) in &parts.headers {
            let value = String::from_utf8_lossy(value.as_bytes());
            headers
                .entry(name.as_str().to_owned())
                .and_modify(|values| {
                    values.push_str(", ");
                    values.push_str(&value);
                })
                .or_insert_with(|| value.to_string());
        }
        let path = parts
            .uri
            .path_and_query()
            .map_or_else(|| parts.uri.path(), |path| path.as_str());
        Self {
            method: parts.method.to_string(),
            path: path.to_owned(),
            headers,
            body,
            status: None,
        }
    }

    /// A header's value, by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The agent's session, which it names in a header.
    pub fn session(&self) -> Option<&str> {
        self.header("x-claude-code-session-id")
    }

    /// Whether the answer was asked for as a stream.
    pub fn streams(&self) -> bool {
        self.body["stream"] == true
    }
}

/// A Messages API on loopback that answers from a script.
///
/// It ends on [`shutdown`](Self::shutdown), or when it is dropped.
#[derive(Debug)]
pub struct ScriptedMessagesApi {
    server: Server,
    requests: Ledger<RecordedRequest>,
}

impl ScriptedMessagesApi {
    /// Starts on a free port.
    ///
    /// # Errors
    /// When no port of 127.0.0.1 can be opened.
    pub async fn start(script: Script, options: ApiOptions) -> Result<Self, RehearsalError> {
        let requests = Ledger::default();
        let ledger = requests.clone();
        let server = Server::start(|_, stop| {
            let api = Api {
                script,
                options,
                requests: ledger,
                counts: Mutex::default(),
                stop,
            };
            Router::new().fallback(receive).with_state(Arc::new(api))
        })
        .await?;
        Ok(Self { server, requests })
    }

    /// The base URL that an agent is given, without a slash at the end.
    pub fn base_url(&self) -> String {
        self.server.base_url()
    }

    /// All requests so far, in the order of their arrival.
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.requests.entries()
    }

    /// Waits until at least `count` requests have arrived.
    pub async fn requests_reach(&self, count: usize) {
        self.requests.reaches(count).await;
    }

    /// Stops and waits for the end.
    pub async fn shutdown(self) {
        self.server.shutdown().await;
    }
}

struct Api {
    script: Script,
    options: ApiOptions,
    requests: Ledger<RecordedRequest>,
    /// How many requests of a session have asked for a place.
    counts: Mutex<HashMap<(String, Place), u32>>,
    stop: CancellationToken,
}

/// How a stream ends.
#[derive(Debug, Clone, Copy)]
enum Ending {
    /// After its last event.
    Complete,
    /// In good order, but after so many events.
    Early(usize),
    /// With the connection, after so many events.
    Broken(usize),
}

async fn receive(State(api): State<Arc<Api>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(bytes) = to_bytes(body, LONGEST_BODY).await else {
        return message::error(413, "request exceeds the maximum size", &[]);
    };
    let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    let record = RecordedRequest::new(&parts, body);
    let index = api.requests.push(record.clone());
    let response = api.respond(&parts, &record).await;
    api.requests
        .amend(index, |record| record.status = Some(response.status().as_u16()));
    response
}

impl Api {
    async fn respond(&self, parts: &Parts, request: &RecordedRequest) -> Response {
        let path = parts.uri.path();
        let counting = path == "/v1/messages/count_tokens";
        if parts.method != Method::POST || !(counting || path == "/v1/messages") {
            return message::error(404, "not found", &[]);
        }
        if !self.admits(request) {
            return message::error(401, "invalid x-api-key", &[]);
        }
        if !request.body["messages"].is_array() {
            return message::error(400, "messages: field required", &[]);
        }
        if counting {
            let tokens = request.body.to_string().len() / 4;
            return axum::Json(json!({"input_tokens": tokens})).into_response();
        }
        self.play(request).await
    }

    fn admits(&self, request: &RecordedRequest) -> bool {
        let Some(accepted) = &self.options.accepted_key else {
            return true;
        };
        let bearer = request
            .header("authorization")
            .and_then(|value| value.strip_prefix("Bearer "));
        [request.header("x-api-key"), bearer]
            .into_iter()
            .flatten()
            .any(|key| key == accepted.expose_secret())
    }

    async fn play(&self, request: &RecordedRequest) -> Response {
        let place = Place::of(&self.script, &request.body);
        let turn = place.turn(&self.script);
        let session = request.session().unwrap_or_default();
        let fault = turn.fault_of(self.count(session, place)).cloned();
        let message = Message {
            id: message_id(session, place),
            model: request.body["model"].as_str().unwrap_or("scripted").to_owned(),
            turn,
        };
        let mut ending = Ending::Complete;
        match fault {
            Some(Fault::Status { code, headers, .. }) => {
                return message::error(code, "a scripted fault", &headers);
            }
            Some(Fault::CutAfter { events, .. }) => ending = Ending::Broken(events),
            Some(Fault::EndAfter { events, .. }) => ending = Ending::Early(events),
            Some(Fault::Delay { duration, .. }) => self.pause(duration).await,
            None => {}
        }
        if request.streams() {
            self.stream(&message, ending)
        } else {
            self.pause(message.turn.pace).await;
            axum::Json(message.whole()).into_response()
        }
    }

    fn count(&self, session: &str, place: Place) -> u32 {
        let mut counts = locked(&self.counts);
        let count = counts.entry((session.to_owned(), place)).or_default();
        let number = *count;
        *count = count.saturating_add(1);
        number
    }

    async fn pause(&self, duration: Duration) {
        if !duration.is_zero() {
            let _ = self.stop.run_until_cancelled(tokio::time::sleep(duration)).await;
        }
    }

    fn stream(&self, message: &Message, ending: Ending) -> Response {
        let pace = message.turn.pace;
        let events = message.events();
        let (kept, breakage) = match ending {
            Ending::Complete => (events.len(), None),
            Ending::Early(kept) => (kept, None),
            Ending::Broken(kept) => (kept, Some("the script breaks the connection")),
        };
        let chunks: Vec<Bytes> = events.iter().take(kept).map(message::encoded).collect();
        let stop = self.stop.clone();
        let paced = stream::iter(chunks)
            .then(move |chunk| {
                let stop = stop.clone();
                async move {
                    if !pace.is_zero() {
                        let _ = stop.run_until_cancelled(tokio::time::sleep(pace)).await;
                    }
                    Ok::<_, io::Error>(chunk)
                }
            })
            .chain(stream::iter(breakage).then(|message| async move {
                tokio::time::sleep(BEFORE_A_BREAK).await;
                Err(io::Error::other(message))
            }));
        let headers = [
            (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
            (header::CACHE_CONTROL, "no-cache"),
        ];
        (headers, Body::from_stream(paced)).into_response()
    }
}

/// The same for every retry, another one for every session and place.
fn message_id(session: &str, place: Place) -> String {
    let session: String = session
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .take(12)
        .collect();
    let case = place.case.map_or_else(String::new, |case| format!("c{case}"));
    format!("msg_rehearsal{session}{case}t{}", place.turn)
}
