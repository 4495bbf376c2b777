//! Requests to Podman's own interface that podman-api does not make well.

use std::path::Path;

use bytes::Bytes;
use fabrica_core::ports::RuntimeError;
use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};
use reqwest::{Body, Client, Response, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::client;
use crate::error::EngineName;

/// The version that podman-api pins; newer services speak it too.
const ROOT: &str = "http://podman/v4.3.1/libpod";
/// No line of an engine is longer.
const LONGEST_LINE: usize = 4 * 1024 * 1024;

#[derive(Debug, Clone)]
pub(super) struct Raw {
    name: EngineName,
    client: Client,
}

/// What Podman answers instead.
#[derive(Debug, Deserialize, Default)]
#[serde(default)]
struct Refusal {
    cause: String,
    message: String,
}

/// A refusal, with its status, for callers who know what it means there.
#[derive(Debug)]
pub(super) enum Failed {
    Refused { status: StatusCode, message: String },
    Broken(RuntimeError),
}

impl Failed {
    pub(super) fn into_error(self, name: &EngineName, action: &str) -> RuntimeError {
        match self {
            Self::Refused { status, message } if (502..=504).contains(&status.as_u16()) => {
                name.unavailable(message, None)
            }
            Self::Refused { message, .. } => name.denied(action, message, None),
            Self::Broken(error) => error,
        }
    }
}

impl Raw {
    pub(super) fn new(name: EngineName, socket: &Path) -> Result<Self, RuntimeError> {
        let client = client::builder()
            .unix_socket(socket)
            .pool_max_idle_per_host(0)
            .build();
        let client = client.map_err(|error| name.unreachable(error))?;
        Ok(Self { name, client })
    }

    pub(super) async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Response, Failed> {
        self.answered(self.client.get(format!("{ROOT}{path}")).query(query))
            .await
    }

    pub(super) async fn post_json<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &serde_json::Value,
    ) -> Result<T, Failed> {
        let response = self
            .answered(self.client.post(format!("{ROOT}{path}")).json(body))
            .await?;
        response.json().await.map_err(|error| self.broken(error))
    }

    pub(super) async fn post(
        &self,
        path: &str,
        query: &[(&str, &str)],
        archive: Option<Body>,
    ) -> Result<Response, Failed> {
        let mut request = self.client.post(format!("{ROOT}{path}")).query(query);
        if let Some(archive) = archive {
            request = request.header("content-type", "application/x-tar").body(archive);
        }
        self.answered(request).await
    }

    async fn answered(&self, request: reqwest::RequestBuilder) -> Result<Response, Failed> {
        let response = request.send().await.map_err(|error| self.broken(error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let text = response.text().await.map_err(|error| self.broken(error))?;
        let message = match serde_json::from_str::<Refusal>(&text) {
            Ok(refusal) if !refusal.message.is_empty() => refusal.message,
            Ok(refusal) if !refusal.cause.is_empty() => refusal.cause,
            _ => text,
        };
        Err(Failed::Refused { status, message })
    }

    fn broken(&self, error: reqwest::Error) -> Failed {
        let error = error.without_url();
        Failed::Broken(if error.is_decode() {
            self.name.garbage(error)
        } else {
            self.name.unreachable(error)
        })
    }

    /// A body of JSON values, one a line, as they come.
    pub(super) fn lines<T: DeserializeOwned + Send + 'static>(
        &self,
        response: Response,
    ) -> BoxStream<'static, Result<T, RuntimeError>> {
        let name = self.name.clone();
        let broken = self.name.clone();
        let chunks = response
            .bytes_stream()
            .map_err(move |error| broken.unreachable(error.without_url()));
        let state = (chunks.boxed(), Vec::new(), false);
        let lines = stream::try_unfold(state, |(mut chunks, mut open, mut ended)| async move {
            loop {
                if let Some(line) = take_line(&mut open, ended) {
                    return Ok(Some((line, (chunks, open, ended))));
                }
                match chunks.try_next().await? {
                    Some(chunk) if open.len() + chunk.len() <= LONGEST_LINE => open.extend_from_slice(&chunk),
                    _ if ended => return Ok(None),
                    _ => ended = true,
                }
            }
        });
        lines
            .and_then(move |line: Bytes| {
                let value = serde_json::from_slice(&line).map_err(|error| name.garbage(error));
                async move { value }
            })
            .boxed()
    }
}

/// The next line that is not blank; at the end, what is left.
fn take_line(open: &mut Vec<u8>, ended: bool) -> Option<Bytes> {
    loop {
        let end = open.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
        let end = end.or_else(|| (ended && !open.is_empty()).then_some(open.len()))?;
        let line: Vec<u8> = open.drain(..end).collect();
        if !line.trim_ascii().is_empty() {
            return Some(Bytes::from(line));
        }
    }
}
