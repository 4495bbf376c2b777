//! Servers on loopback that keep what reaches them.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;

/// One request that arrived.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    /// Everything that arrived, as one text to search for what must not be there.
    pub(crate) fn everything(&self) -> String {
        format!(
            "{} {} {:?} {}",
            self.method,
            self.path,
            self.headers,
            String::from_utf8_lossy(&self.body)
        )
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

pub(crate) type Ledger = Arc<Mutex<Vec<Seen>>>;

/// A server that stops when it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) url: String,
    task: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(router: Router) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, task }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A server that keeps whole requests and answers them with a function.
pub(crate) async fn recording<F>(answer: F) -> (Server, Ledger)
where
    F: Fn(&Seen) -> Response + Clone + Send + Sync + 'static,
{
    let ledger = Ledger::default();
    let kept = ledger.clone();
    let router = Router::new().fallback(move |request: Request| {
        let (kept, answer) = (kept.clone(), answer.clone());
        async move {
            let (parts, body) = request.into_parts();
            let body = axum::body::to_bytes(body, usize::MAX)
                .await
                .unwrap_or_default()
                .to_vec();
            let path = parts.uri.path_and_query().unwrap().to_string();
            let seen = Seen {
                method: parts.method.to_string(),
                path,
                headers: parts.headers,
                body,
            };
            kept.lock().unwrap().push(seen.clone());
            answer(&seen)
        }
    });
    (Server::start(router).await, ledger)
}

/// An answer with headers.
pub(crate) fn answer(status: u16, headers: &[(&'static str, &str)], body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    for (name, value) in headers {
        response.headers_mut().append(*name, value.parse().unwrap());
    }
    response
}

/// A body that is written by hand, piece by piece.
pub(crate) fn by_hand() -> (
    tokio::sync::mpsc::UnboundedSender<Result<Bytes, std::io::Error>>,
    Body,
) {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    (sender, Body::from_stream(UnboundedReceiverStream::new(receiver)))
}

/// A server whose one answer is written by hand.
pub(crate) async fn answering_by_hand() -> (
    Server,
    tokio::sync::mpsc::UnboundedSender<Result<Bytes, std::io::Error>>,
) {
    let (sender, body) = by_hand();
    let body = Arc::new(Mutex::new(Some(body)));
    let event_stream = [("content-type", "text/event-stream")];
    let (server, _ledger) = recording(move |_| {
        answer(
            200,
            &event_stream,
            body.lock().unwrap().take().unwrap_or_default(),
        )
    })
    .await;
    (server, sender)
}
