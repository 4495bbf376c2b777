//! The runner's own requests to the gateway, straight through its socket.

use std::time::Duration;

use bytes::Bytes;
use fabrica_core::protocol::{Acknowledgement, CODE_HEADER, Job};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use thiserror::Error;

use crate::environment::{Environment, Token};
use crate::socket::{Connection, Replaced, Socket};
use crate::upload::Upload;

/// Any name will do: the socket leads to one gateway only.
const NAME: &str = "fabrica";
/// How long an answer may take: then the request is given up and comes again, which does no harm.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// How much longer it may take for each MiB that is sent.
const PATIENCE_FOR_MIB: Duration = Duration::from_secs(1);
/// How long an answer may take for which the git host is asked.
const PATIENCE_WITH_HOST: Duration = Duration::from_mins(1);
/// How much of a refusal's text is read.
const MAX_REFUSAL: usize = 16 * 1024;
/// The largest answer: a job with its plan is far smaller.
const MAX_ANSWER: usize = 4 * 1024 * 1024;
/// The longest report about a push: it has two lines.
const MAX_REPORT: usize = 256 * 1024;

/// What stands behind a failed exchange.
type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why a request failed.
#[derive(Debug, Error)]
pub(crate) enum GatewayError {
    /// No answer came.
    #[error("the gateway does not answer: {0}")]
    Away(#[source] Cause),
    /// No answer came in time.
    #[error("the gateway has not answered for {} s", .0.as_secs())]
    Late(Duration),
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
            Self::Away(_) | Self::Late(_) | Self::Unreadable(_) => false,
        }
    }

    /// Whether the gateway is away, or cannot say anything at the moment: the request may come again until it can,
    /// however long that takes. What the gateway has to say about others, such as a git host, never has this status.
    pub(crate) fn away(&self) -> bool {
        match self {
            Self::Away(_) | Self::Late(_) => true,
            Self::Refused { status, .. } => *status == StatusCode::SERVICE_UNAVAILABLE,
            Self::Unreadable(_) => false,
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
    /// Fetching from one of the plan's submodules, by its number from 1, with the agent's token.
    Submodule(usize),
}

/// The gateway of this session.
#[derive(Debug, Clone)]
pub(crate) struct Gateway {
    socket: Socket,
    runner: Token,
    agent: Token,
}

impl Gateway {
    pub(crate) fn new(environment: &Environment, socket: Socket) -> Self {
        Self {
            socket,
            runner: environment.runner_token.clone(),
            agent: environment.agent_token.clone(),
        }
    }

    /// What a process of the agent reaches: whatever needs the runner's token is refused to it.
    pub(crate) fn of_agent(token: Token, socket: Socket) -> Self {
        Self {
            socket,
            runner: token.clone(),
            agent: token,
        }
    }

    /// How often the gateway was away so far.
    pub(crate) fn disturbances(&self) -> u64 {
        self.socket.disturbances()
    }

    /// Tells when another process has taken over.
    pub(crate) fn changes(&self) -> Replaced {
        self.socket.changes()
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

    /// The signature of a commit, in the form that git stores.
    pub(crate) async fn signature(&self, commit: Vec<u8>) -> Result<Bytes, GatewayError> {
        let content = Some(("application/octet-stream", Bytes::from(commit)));
        self.ask(Method::POST, "/git/signature", &self.agent, content)
            .await
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

    /// What was stored as an artifact; nothing if there is none of that name.
    pub(crate) async fn stored(&self, name: &str, limit: usize) -> Result<Option<Bytes>, GatewayError> {
        let path = format!("/session/artifacts/{name}");
        let request = request(Method::GET, &path, &self.runner, None)?;
        let mib = u32::try_from(limit.div_ceil(1024 * 1024)).unwrap_or(u32::MAX);
        let answer = self
            .exchange(PATIENCE + PATIENCE_FOR_MIB * mib, request, async |answer| {
                let answer = accepted(answer).await?;
                let body = Limited::new(answer.into_body(), limit).collect().await;
                Ok(body.map_err(GatewayError::Away)?.to_bytes())
            })
            .await;
        match answer {
            Ok(content) => Ok(Some(content)),
            Err(GatewayError::Refused { status, .. }) if status == StatusCode::NOT_FOUND => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What the remote says that it has, before a push. Each piece of it is handed on as it comes, since the list of
    /// references may be long.
    pub(crate) async fn advertised(&self, mut take: impl FnMut(&[u8])) -> Result<(), GatewayError> {
        let path = "/git/repository.git/info/refs?service=git-receive-pack";
        let request = request(Method::GET, path, &self.runner, None)?;
        self.exchange(PATIENCE_WITH_HOST, request, async |answer| {
            let mut body = accepted(answer).await?.into_body();
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| GatewayError::Away(error.into()))?;
                if let Ok(chunk) = frame.into_data() {
                    take(&chunk);
                }
            }
            Ok(())
        })
        .await
    }

    /// Pushes as git would, but without a git: no process but this one ever has the token. Returns the report.
    pub(crate) async fn receive_pack(&self, upload: Upload) -> Result<Bytes, GatewayError> {
        let kind = "application/x-git-receive-pack-request";
        let path = "/git/repository.git/git-receive-pack";
        self.publish(Method::POST, path, (kind, upload), MAX_REPORT).await
    }

    /// Asks which files in Git LFS are to be uploaded, as the batch API has it.
    pub(crate) async fn large_files(&self, question: Vec<u8>) -> Result<Bytes, GatewayError> {
        let content = (
            "application/vnd.git-lfs+json",
            Upload::from(Bytes::from(question)),
        );
        let path = "/git/repository.git/info/lfs/objects/batch";
        self.publish(Method::POST, path, content, MAX_ANSWER).await
    }

    /// Uploads one of them.
    pub(crate) async fn store_large_file(
        &self,
        oid: &str,
        size: u64,
        content: Upload,
    ) -> Result<(), GatewayError> {
        let path = format!("/git/repository.git/info/lfs/objects/{oid}?size={size}");
        let content = ("application/octet-stream", content);
        self.publish(Method::PUT, &path, content, MAX_REPORT)
            .await
            .map(drop)
    }

    /// Sends something to the git host, and returns its answer.
    async fn publish(
        &self,
        method: Method,
        path: &str,
        content: (&'static str, Upload),
        limit: usize,
    ) -> Result<Bytes, GatewayError> {
        let mib = u32::try_from(content.1.length().div_ceil(1024 * 1024)).unwrap_or(u32::MAX);
        let request = request(method, path, &self.runner, Some(content))?;
        self.exchange(
            PATIENCE_WITH_HOST + PATIENCE_FOR_MIB * mib,
            request,
            async |answer| {
                let answer = accepted(answer).await?;
                let body = Limited::new(answer.into_body(), limit).collect().await;
                Ok(body.map_err(GatewayError::Away)?.to_bytes())
            },
        )
        .await
    }

    /// Asks for the repository as git would. The gateway's refusals say more than git repeats.
    pub(crate) async fn advertisement(&self, service: Service) -> Result<(), GatewayError> {
        let (name, token) = match service {
            Service::UploadPack | Service::Submodule(_) => ("git-upload-pack", &self.agent),
            Service::ReceivePack => ("git-receive-pack", &self.runner),
        };
        let repository = match service {
            Service::Submodule(number) => format!("submodules/{number}.git"),
            Service::UploadPack | Service::ReceivePack => "repository.git".to_owned(),
        };
        let path = format!("/git/{repository}/info/refs?service={name}");
        let request = request(Method::GET, &path, token, None)?;
        self.exchange(PATIENCE_WITH_HOST, request, async |answer| {
            // The list of references may be long, and git reads it again by itself.
            accepted(answer).await.map(drop)
        })
        .await
    }

    /// One request and its whole answer.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        token: &Token,
        content: Option<(&'static str, Bytes)>,
    ) -> Result<Bytes, GatewayError> {
        let length = content.as_ref().map_or(0, |(_, body)| body.len());
        let mib = u32::try_from(length.div_ceil(1024 * 1024)).unwrap_or(u32::MAX);
        let content = content.map(|(kind, body)| (kind, Upload::from(body)));
        let request = request(method, path, token, content)?;
        self.exchange(PATIENCE + PATIENCE_FOR_MIB * mib, request, async |answer| {
            let answer = accepted(answer).await?;
            let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
            Ok(body.map_err(GatewayError::Away)?.to_bytes())
        })
        .await
    }

    /// Sends a request over a connection of its own: connecting to a socket costs next to nothing, and a gateway that
    /// was restarted meanwhile is a new socket. It is given up when the answer takes too long, or when another process
    /// has put its socket in place.
    async fn exchange<T>(
        &self,
        patience: Duration,
        request: Request<Upload>,
        read: impl AsyncFnOnce(Response<Incoming>) -> Result<T, GatewayError>,
    ) -> Result<T, GatewayError> {
        let away = |error: hyper::Error| GatewayError::Away(error.into());
        let exchange = async {
            let connected = self.socket.connect().await;
            let Connection { stream, mut replaced } =
                connected.map_err(|error| GatewayError::Away(error.into()))?;
            let answered = async {
                let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
                    .await
                    .map_err(away)?;
                // It ends with the exchange; whatever goes wrong with it is the exchange's error too.
                tokio::spawn(connection);
                read(sender.send_request(request).await.map_err(away)?).await
            };
            tokio::select! {
                biased;
                answered = answered => answered,
                () = replaced.wait() => Err(GatewayError::Away("another process has taken over".into())),
            }
        };
        let answered = tokio::time::timeout(patience, exchange)
            .await
            .unwrap_or(Err(GatewayError::Late(patience)));
        if answered.as_ref().is_err_and(GatewayError::away) {
            self.socket.disturbed();
        }
        answered
    }
}

fn request(
    method: Method,
    path: &str,
    token: &Token,
    content: Option<(&'static str, Upload)>,
) -> Result<Request<Upload>, GatewayError> {
    let (kind, body) = content.unwrap_or_default();
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, NAME)
        .header(AUTHORIZATION, token.bearer());
    if !kind.is_empty() {
        request = request.header(CONTENT_TYPE, kind);
    }
    request
        .body(body)
        .map_err(|error| GatewayError::Away(error.into()))
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
