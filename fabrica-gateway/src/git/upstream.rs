//! A repository on a code host: requests are passed on with the gateway's credential instead of the sandbox's.

use std::sync::{PoisonError, RwLock};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::Stream;
use http::Method;
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderMap, StatusCode};
use secrecy::ExposeSecret as _;
use url::Url;

use super::large_files::Remembered;
use super::{Ask, not_found};
use crate::client::root_cause;
use crate::headers::{from_code_host, passing, to_code_host};
use crate::listener::until_ended;
use crate::options::GitCredential;
use crate::refusal::Refusal;

/// How often a code host may send the first request elsewhere.
const MOST_REDIRECTS: usize = 3;
/// How much of a code host's own words is passed on.
const LONGEST_EXPLANATION: usize = 600;

/// The repository and how to show oneself there.
#[derive(Debug)]
pub(crate) struct HttpRepository {
    /// It changes if the host says that the repository is called something else now.
    url: RwLock<Url>,
    pub(super) credential: Option<GitCredential>,
    pub(super) remembered: Remembered,
}

impl HttpRepository {
    pub(super) fn new(url: Url, credential: Option<GitCredential>) -> Self {
        Self {
            url: RwLock::new(url),
            credential,
            remembered: Remembered::default(),
        }
    }

    pub(super) fn url(&self) -> Url {
        self.url.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// `GET info/refs`. A redirect is followed if it leads to another repository of the same host, as after a rename;
    /// later requests go there directly. The credential never goes to another host.
    pub(super) async fn info_refs(&self, ask: &Ask<'_>) -> Result<Response, Refusal> {
        let mut repository = self.url();
        for _ in 0..=MOST_REDIRECTS {
            let url = below(&repository, "info/refs", Some(ask.service.name()));
            let request = ask.session.services.client.request(Method::GET, url.clone());
            let answer = self.send(ask, request, ask.headers, &repository).await?;
            if !answer.status().is_redirection() {
                *self.url.write().unwrap_or_else(PoisonError::into_inner) = repository.clone();
                return self.pass_back(ask, answer, &repository).await;
            }
            repository = redirected(&url, &answer).ok_or_else(|| moved(&repository))?;
        }
        Err(moved(&repository))
    }

    /// `POST git-upload-pack` or `git-receive-pack`.
    pub(super) async fn call<S, E>(
        &self,
        ask: &Ask<'_>,
        body: S,
        headers: &HeaderMap,
    ) -> Result<Response, Refusal>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    {
        let repository = self.url();
        let url = below(&repository, ask.service.name(), None);
        let request = ask
            .session
            .services
            .client
            .request(Method::POST, url)
            .body(reqwest::Body::wrap_stream(body));
        let answer = self.send(ask, request, headers, &repository).await?;
        if answer.status().is_redirection() {
            return Err(moved(&repository));
        }
        self.pass_back(ask, answer, &repository).await
    }

    async fn send(
        &self,
        ask: &Ask<'_>,
        request: reqwest::RequestBuilder,
        headers: &HeaderMap,
        repository: &Url,
    ) -> Result<reqwest::Response, Refusal> {
        let mut request = request.headers(passing(headers, to_code_host));
        if let Some(credential) = &self.credential {
            request = request.basic_auth(&credential.username, Some(credential.secret.expose_secret()));
        }
        request.send().await.map_err(|error| {
            let cause = root_cause(&error);
            tracing::warn!(session = %ask.session.fence, cause, "the code host cannot be reached");
            unreachable(&format!(
                "the code host of {repository} cannot be reached: {cause}"
            ))
        })
    }

    async fn pass_back(
        &self,
        ask: &Ask<'_>,
        answer: reqwest::Response,
        at: &Url,
    ) -> Result<Response, Refusal> {
        let status = answer.status();
        if status.is_success() {
            let headers = passing(answer.headers(), from_code_host);
            let body = until_ended(answer.bytes_stream(), &ask.session.ended);
            let mut response = Response::new(Body::from_stream(body));
            *response.status_mut() = status;
            *response.headers_mut() = headers;
            return Ok(response);
        }
        tracing::info!(session = %ask.session.fence, status = status.as_u16(), "the code host refused a request");
        let words = self.explanation(answer).await;
        Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => self.denied(at, &words),
            StatusCode::NOT_FOUND | StatusCode::GONE => not_found(at.as_str()),
            _ => unreachable(&format!(
                "the code host of {at} answers with status {}{words}",
                status.as_u16()
            )),
        })
    }

    fn denied(&self, at: &Url, words: &str) -> Refusal {
        let with = if self.credential.is_some() {
            "Fabrica's credential"
        } else {
            "access without a credential"
        };
        Refusal::forbidden(
            "repository.denied",
            format!("fabrica: the code host of {at} refuses {with}{words}"),
        )
    }

    /// What the code host says, if it says it in plain text: cut, without control characters, without the secret.
    async fn explanation(&self, mut answer: reqwest::Response) -> String {
        let plain = answer
            .headers()
            .get(CONTENT_TYPE)
            .is_some_and(|value| value.as_bytes().starts_with(b"text/plain"));
        let mut bytes = Vec::new();
        while plain && bytes.len() < LONGEST_EXPLANATION {
            match answer.chunk().await {
                Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
                _ => break,
            }
        }
        let mut text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some(credential) = &self.credential {
            text = text.replace(credential.secret.expose_secret(), "[secret]");
        }
        let words: String = text
            .split(|c: char| c.is_whitespace() || c.is_control())
            .filter(|word| !word.is_empty())
            .collect::<Vec<_>>()
            .join(" ")
            .chars()
            .take(LONGEST_EXPLANATION)
            .collect();
        if words.is_empty() {
            words
        } else {
            format!(": {words}")
        }
    }
}

/// An address below the repository's.
fn below(repository: &Url, path: &str, service: Option<&str>) -> Url {
    let mut url = repository.clone();
    url.set_path(&format!("{}/{path}", repository.path().trim_end_matches('/')));
    url.set_query(service.map(|name| format!("service={name}")).as_deref());
    url
}

/// Where a repository is now, if that is on the same host over the same scheme.
fn redirected(asked: &Url, answer: &reqwest::Response) -> Option<Url> {
    let location = answer.headers().get(LOCATION)?.to_str().ok()?;
    let target = asked.join(location).ok()?;
    if target.origin() != asked.origin() || !target.username().is_empty() || target.password().is_some() {
        return None;
    }
    let path = target.path().strip_suffix("/info/refs")?.to_owned();
    let mut repository = target;
    repository.set_path(&path);
    repository.set_query(None);
    repository.set_fragment(None);
    Some(repository)
}

fn moved(from: &Url) -> Refusal {
    let detail =
        format!("fabrica: the code host sends {from} elsewhere; name the repository by its present address");
    Refusal::new(StatusCode::NOT_FOUND, "repository.moved", detail)
}

fn unreachable(detail: &str) -> Refusal {
    Refusal::new(
        StatusCode::BAD_GATEWAY,
        "repository.unreachable",
        format!("fabrica: {detail}"),
    )
}
