//! The runner's own requests to the gateway, straight through its socket.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use fabrica_core::protocol::{Acknowledgement, CODE_HEADER, Job};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::UnixStream;

use crate::environment::{Environment, Token};

/// Any name will do: the socket leads to one gateway only.
const NAME: &str = "fabrica";
/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_mins(1);
/// How much of a refusal's text is read.
const MAX_REFUSAL: usize = 16 * 1024;
/// The largest answer: a job with its plan is far smaller.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// What stands behind a failed exchange.
type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why a request failed.
#[derive(Debug, Error)]
pub(crate) enum GatewayError {
    /// No answer came.
    #[error("the gateway does not answer: {0}")]
    Away(#[source] Cause),
    /// The gateway said no.
    #[error("the gateway refused with {status}: {text}")]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// The stable code, if it gave one.
        code: Option<String>,
        /// Its words.
        text: String,
    },
    /// The answer is not what the protocol says.
    #[error("the gateway's answer is not understood: {0}")]
    Unreadable(#[source] serde_json::Error),
}

impl GatewayError {
    /// Whether this attempt is over for the gateway: nothing that it sends will be taken any more.
    pub(crate) fn fenced(&self) -> bool {
        match self {
            Self::Refused { status, code, .. } => {
                matches!(
                    *status,
                    StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::GONE
                ) || (*status == StatusCode::CONFLICT
                    && !code.as_deref().is_some_and(|code| code.ends_with("gap")))
            }
            Self::Away(_) | Self::Unreadable(_) => false,
        }
    }

    /// Whether the request itself is at fault, so that sending it again is useless.
    pub(crate) fn malformed(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if matches!(
            *status,
            StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY
        ))
    }
}

/// What git asks before it fetches or pushes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    /// Fetching, with the agent's token.
    UploadPack,
    /// Pushing, with the runner's token.
    ReceivePack,
}

/// The gateway of this session.
#[derive(Debug, Clone)]
pub(crate) struct Gateway {
    socket: PathBuf,
    runner: Token,
    agent: Token,
}

impl Gateway {
    pub(crate) fn new(environment: &Environment) -> Self {
        Self {
            socket: environment.socket.clone(),
            runner: environment.runner_token.clone(),
            agent: environment.agent_token.clone(),
        }
    }

    /// What this attempt has to do.
    pub(crate) async fn job(&self) -> Result<Job, GatewayError> {
        let answer = self.ask(Method::GET, "/session/job", &self.runner, None).await?;
        serde_json::from_slice(&answer).map_err(GatewayError::Unreadable)
    }

    /// Delivers events, one a line.
    pub(crate) async fn events(&self, batch: Vec<u8>) -> Result<Acknowledgement, GatewayError> {
        let content = Some(("application/x-ndjson", Bytes::from(batch)));
        let answer = self
            .ask(Method::POST, "/session/events", &self.runner, content)
            .await?;
        serde_json::from_slice(&answer).map_err(GatewayError::Unreadable)
    }

    /// Stores an artifact.
    pub(crate) async fn artifact(&self, name: &str, content: Bytes) -> Result<(), GatewayError> {
        let content = Some(("application/octet-stream", content));
        self.ask(
            Method::PUT,
            &format!("/session/artifacts/{name}"),
            &self.runner,
            content,
        )
        .await
        .map(drop)
    }

    /// Asks for the repository as git would. The gateway's refusals say more than git repeats.
    pub(crate) async fn advertisement(&self, service: Service) -> Result<(), GatewayError> {
        let (name, token) = match service {
            Service::UploadPack => ("git-upload-pack", &self.agent),
            Service::ReceivePack => ("git-receive-pack", &self.runner),
        };
        let path = format!("/git/repository.git/info/refs?service={name}");
        let exchange = async {
            let answer = self.send(Method::GET, &path, token, None).await?;
            // The list of references may be long, and git reads it again by itself.
            accepted(answer).await.map(drop)
        };
        in_time(exchange).await
    }

    /// One request and its whole answer.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        token: &Token,
        content: Option<(&'static str, Bytes)>,
    ) -> Result<Bytes, GatewayError> {
        let exchange = async {
            let answer = accepted(self.send(method, path, token, content).await?).await?;
            let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
            Ok(body.map_err(GatewayError::Away)?.to_bytes())
        };
        in_time(exchange).await
    }

    /// Sends a request over a connection of its own: connecting to a socket costs next to nothing, and a gateway that
    /// was restarted meanwhile is a new socket.
    async fn send(
        &self,
        method: Method,
        path: &str,
        token: &Token,
        content: Option<(&'static str, Bytes)>,
    ) -> Result<Response<Incoming>, GatewayError> {
        let away = |error: hyper::Error| GatewayError::Away(error.into());
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|error| GatewayError::Away(error.into()))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(away)?;
        // It ends with the exchange; whatever goes wrong with it is the exchange's error too.
        tokio::spawn(connection);
        let (kind, body) = content.unwrap_or_default();
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, NAME)
            .header(AUTHORIZATION, token.bearer());
        if !kind.is_empty() {
            request = request.header(CONTENT_TYPE, kind);
        }
        let request = request
            .body(Full::new(body))
            .map_err(|error| GatewayError::Away(error.into()))?;
        sender.send_request(request).await.map_err(away)
    }
}

async fn in_time<T>(exchange: impl Future<Output = Result<T, GatewayError>>) -> Result<T, GatewayError> {
    tokio::time::timeout(TIMEOUT, exchange)
        .await
        .unwrap_or_else(|elapsed| Err(GatewayError::Away(elapsed.into())))
}

async fn accepted(answer: Response<Incoming>) -> Result<Response<Incoming>, GatewayError> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let code = code(answer.headers());
    let mut body = answer.into_body();
    let mut text = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(chunk) = frame.into_data() else { continue };
        text.extend_from_slice(&chunk[..chunk.len().min(MAX_REFUSAL - text.len())]);
        if text.len() == MAX_REFUSAL {
            break;
        }
    }
    Err(GatewayError::Refused {
        status,
        code,
        text: crate::text::lossy(&text).trim().to_owned(),
    })
}

/// The stable code, if it looks like one.
fn code(headers: &HeaderMap) -> Option<String> {
    let code = headers.get(CODE_HEADER)?.to_str().ok()?;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_');
    (!code.is_empty() && code.len() <= 64 && code.chars().all(plain)).then(|| code.to_owned())
}
