//! An engine that answers from a script, on a Unix socket.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

/// What is answered.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// A status and a JSON body.
    Json(u16, String),
    /// Bytes as they are: no HTTP, or something else than an engine's.
    Raw(&'static str),
    /// Nothing, ever.
    Hang,
    /// The connection is closed.
    Close,
}

type Script = dyn Fn(&str) -> Reply + Send + Sync;

/// Listens until it is dropped.
#[derive(Debug)]
pub(crate) struct Scripted {
    directory: tempfile::TempDir,
    requests: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Scripted {
    /// The script gets `METHOD path?query`, without the version of the interface.
    pub(crate) fn new(script: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("engine.sock")).unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (script, seen): (Arc<Script>, _) = (Arc::new(script), Arc::clone(&requests));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, Arc::clone(&script), Arc::clone(&seen)));
            }
        });
        Self {
            directory,
            requests,
            task,
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("engine.sock")
    }

    /// How often that was asked.
    pub(crate) fn asked(&self, start: &str) -> usize {
        self.requests
            .lock()
            .unwrap()
            .iter()
            .filter(|request| request.starts_with(start))
            .count()
    }

    /// Nobody listens any more; the socket's file is still there.
    pub(crate) async fn go_away(&mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
        assert!(Path::new(&self.socket()).exists());
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(stream: UnixStream, script: Arc<Script>, seen: Arc<Mutex<Vec<String>>>) {
    let mut stream = BufReader::new(stream);
    let Some(request) = read(&mut stream).await else {
        return;
    };
    let request = request
        .replace("/v4.3.1/", "/")
        .replace("/v1.41/", "/")
        .replace("/v1.53/", "/");
    seen.lock().unwrap().push(request.clone());
    let answer = match script(&request) {
        Reply::Json(status, body) => format!(
            "HTTP/1.1 {status} status\r\ncontent-type: application/json\r\nconnection: close\r\n\
             api-version: 1.41\r\n{}content-length: {}\r\n\r\n{body}",
            if request.starts_with("GET /libpod") {
                PODMAN
            } else {
                ""
            },
            body.len()
        ),
        Reply::Raw(text) => text.to_owned(),
        Reply::Hang => std::future::pending().await,
        Reply::Close => return,
    };
    // The client may have gone.
    let _ = stream.get_mut().write_all(answer.as_bytes()).await;
}

const PODMAN: &str = "libpod-api-version: 4.3.1\r\nlibpod-buildah-version: 1\r\ndocker-experimental: true\r\n\
                      cache-control: no-cache\r\npragma: no-cache\r\n";

async fn read(stream: &mut BufReader<UnixStream>) -> Option<String> {
    let mut first = String::new();
    let mut length = 0;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line == "\r\n" {
            break;
        }
        if first.is_empty() {
            first = line;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    first.rsplit_once(" HTTP/").map(|(request, _)| request.to_owned())
}
