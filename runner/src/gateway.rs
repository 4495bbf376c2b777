//! The runner's own requests to the gateway, straight through its socket.

use std::time::Duration;

use bytes::Bytes;
use fabrica_core::protocol::{Acknowledgement, CODE_HEADER, Job};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap};
use reqwest::{Client, Response, StatusCode};
use thiserror::Error;

use crate::environment::{Environment, Token};

/// Any name will do: the socket leads to one gateway only.
const BASE: &str = "http://fabrica";
/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_mins(1);
/// How much of a refusal's text is read.
const MAX_REFUSAL: usize = 16 * 1024;

/// Why a request failed.
#[derive(Debug, Error)]
pub(crate) enum GatewayError {
    /// No answer came.
    #[error("the gateway does not answer: {0}")]
    Away(#[source] reqwest::Error),
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
    client: Client,
    runner: Token,
    agent: Token,
}

impl Gateway {
    pub(crate) fn new(environment: &Environment) -> Result<Self, reqwest::Error> {
        let client = Client::builder()
            .unix_socket(environment.socket.as_path())
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(TIMEOUT)
            .build()?;
        let (runner, agent) = (environment.runner_token.clone(), environment.agent_token.clone());
        Ok(Self {
            client,
            runner,
            agent,
        })
    }

    /// What this attempt has to do.
    pub(crate) async fn job(&self) -> Result<Job, GatewayError> {
        let request = self
            .client
            .get(format!("{BASE}/session/job"))
            .header(AUTHORIZATION, self.runner.bearer());
        let body = accepted(request.send().await)
            .await?
            .bytes()
            .await
            .map_err(GatewayError::Away)?;
        serde_json::from_slice(&body).map_err(GatewayError::Unreadable)
    }

    /// Delivers events, one a line.
    pub(crate) async fn events(&self, batch: Vec<u8>) -> Result<Acknowledgement, GatewayError> {
        let request = self
            .client
            .post(format!("{BASE}/session/events"))
            .header(AUTHORIZATION, self.runner.bearer())
            .header(CONTENT_TYPE, "application/x-ndjson")
            .body(batch);
        let body = accepted(request.send().await)
            .await?
            .bytes()
            .await
            .map_err(GatewayError::Away)?;
        serde_json::from_slice(&body).map_err(GatewayError::Unreadable)
    }

    /// Stores an artifact.
    pub(crate) async fn artifact(&self, name: &str, content: Bytes) -> Result<(), GatewayError> {
        let request = self
            .client
            .put(format!("{BASE}/session/artifacts/{name}"))
            .header(AUTHORIZATION, self.runner.bearer())
            .header(CONTENT_TYPE, "application/octet-stream")
            .body(content);
        accepted(request.send().await).await.map(drop)
    }

    /// Asks for the repository as git would. The gateway's refusals say more than git repeats.
    pub(crate) async fn advertisement(&self, service: Service) -> Result<(), GatewayError> {
        let (name, token) = match service {
            Service::UploadPack => ("git-upload-pack", &self.agent),
            Service::ReceivePack => ("git-receive-pack", &self.runner),
        };
        let address = format!("{BASE}/git/repository.git/info/refs?service={name}");
        accepted(
            self.client
                .get(address)
                .header(AUTHORIZATION, token.bearer())
                .send()
                .await,
        )
        .await
        .map(drop)
    }
}

async fn accepted(answer: Result<Response, reqwest::Error>) -> Result<Response, GatewayError> {
    let answer = answer.map_err(GatewayError::Away)?;
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let code = code(answer.headers());
    let mut answer = answer;
    let mut text = Vec::new();
    while let Ok(Some(chunk)) = answer.chunk().await {
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
