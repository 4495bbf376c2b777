//! One call to a forge's REST API, and what its answer means.

use fabrica_core::ports::ForgeError;
use http::header::{ACCEPT, AUTHORIZATION, LOCATION, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use crate::client::{HttpClient, check_address, root_cause};
use crate::error::SetupError;

/// The most that is read of an answer.
const LONGEST_ANSWER: usize = 8 * 1024 * 1024;
/// The most that is told of the forge's own words.
const LONGEST_WORDS: usize = 500;
/// What a forge is told about who asks.
const AGENT: &str = concat!("fabrica/", env!("CARGO_PKG_VERSION"));

/// A forge's API: where it is, and how to show oneself there.
#[derive(Debug)]
pub(super) struct Api {
    client: HttpClient,
    base: Url,
    token: Option<SecretString>,
    headers: HeaderMap,
}

/// A pull request as both APIs show it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Pull {
    pub(super) number: u64,
    pub(super) html_url: String,
    #[serde(default)]
    pub(super) title: String,
    pub(super) head: PullEnd,
    pub(super) base: PullEnd,
}

/// One end of a pull request.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct PullEnd {
    #[serde(rename = "ref", default)]
    pub(super) branch: String,
    #[serde(default)]
    pub(super) label: String,
}

/// One request.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) method: Method,
    /// The path below the base, a part each: whatever is in a part stays in it.
    pub(super) path: &'a [&'a str],
    pub(super) query: &'a [(&'a str, &'a str)],
    pub(super) body: Option<Value>,
}

impl Api {
    /// `scheme` is the word before the token.
    pub(super) fn new(
        client: HttpClient,
        base: &Url,
        scheme: &str,
        token: Option<SecretString>,
        special: &[(HeaderName, &'static str)],
    ) -> Result<Self, SetupError> {
        check_address("forge's API address", base)?;
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        for (name, value) in special {
            headers.insert(name, HeaderValue::from_static(value));
        }
        if let Some(token) = &token {
            let authority = base.host_str().unwrap_or_default().to_owned();
            let mut value = HeaderValue::from_str(&format!("{scheme} {}", token.expose_secret()))
                .map_err(|_| SetupError::Token { authority })?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        Ok(Self {
            client,
            base: base.clone(),
            token,
            headers,
        })
    }

    /// Sends a request and reads the answer as JSON; an answer without success is an error.
    pub(super) async fn call(&self, call: Call<'_>) -> Result<Value, ForgeError> {
        if self.token.is_none() {
            let host = self.base.host_str().unwrap_or_default();
            return Err(ForgeError::Denied(format!("no token is configured for {host}")));
        }
        let mut request = self
            .client
            .request(call.method, self.url(call.path, call.query))
            .headers(self.headers.clone());
        if let Some(body) = &call.body {
            request = request.json(body);
        }
        let answer = request.send().await.map_err(unavailable)?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let body = read(answer).await?;
        if status.is_success() {
            return serde_json::from_slice(&body).or_else(|error| {
                if body.is_empty() {
                    Ok(Value::Null)
                } else {
                    Err(not_understood(error))
                }
            });
        }
        Err(self.refused(status, &headers, &body))
    }

    /// The same, as a type.
    pub(super) async fn ask<T: serde::de::DeserializeOwned>(&self, call: Call<'_>) -> Result<T, ForgeError> {
        serde_json::from_value(self.call(call).await?).map_err(not_understood)
    }

    fn url(&self, path: &[&str], query: &[(&str, &str)]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut parts) = url.path_segments_mut() {
            parts.pop_if_empty().extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    fn refused(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> ForgeError {
        let words = self
            .words(body)
            .unwrap_or_else(|| format!("status {}", status.as_u16()));
        let limited = headers.contains_key(RETRY_AFTER)
            || headers
                .get("x-ratelimit-remaining")
                .is_some_and(|left| left.as_bytes() == b"0");
        match status {
            StatusCode::FORBIDDEN if limited => ForgeError::Unavailable {
                message: format!("too many requests: {words}"),
                source: None,
            },
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ForgeError::Denied(words),
            StatusCode::NOT_FOUND | StatusCode::GONE => ForgeError::NotFound(words),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => ForgeError::Unavailable {
                message: words,
                source: None,
            },
            _ if status.is_server_error() => ForgeError::Unavailable {
                message: format!("it answers with status {}: {words}", status.as_u16()),
                source: None,
            },
            _ if status.is_redirection() => {
                let moved = headers.get(LOCATION).is_some();
                ForgeError::NotFound(
                    if moved {
                        "the repository has moved; name it by its present address"
                    } else {
                        "an answer that leads nowhere"
                    }
                    .to_owned(),
                )
            }
            _ => ForgeError::Refused(words),
        }
    }

    /// The forge's own words, cut, on one line, without the token.
    fn words(&self, body: &[u8]) -> Option<String> {
        let answer: Value = serde_json::from_slice(body).ok()?;
        let mut words: Vec<&str> = answer["message"].as_str().into_iter().collect();
        for error in answer["errors"].as_array().into_iter().flatten() {
            words.extend(error.as_str().or_else(|| error["message"].as_str()));
        }
        let mut text = words.join(": ");
        if let Some(token) = &self.token {
            text = text.replace(token.expose_secret(), "[secret]");
        }
        let text: String = text
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(LONGEST_WORDS)
            .collect();
        (!text.is_empty()).then_some(text)
    }
}

async fn read(mut answer: reqwest::Response) -> Result<Vec<u8>, ForgeError> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(unavailable)? {
        if body.len() + chunk.len() > LONGEST_ANSWER {
            return Err(ForgeError::Unavailable {
                message: "its answer is too long".to_owned(),
                source: None,
            });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn unavailable(error: reqwest::Error) -> ForgeError {
    ForgeError::Unavailable {
        message: root_cause(&error),
        source: Some(error.without_url().into()),
    }
}

fn not_understood(error: serde_json::Error) -> ForgeError {
    ForgeError::Unavailable {
        message: "its answer is not what its API promises".to_owned(),
        source: Some(error.into()),
    }
}
