//! `POST /model/v1/messages` and `…/count_tokens`: the model API, with the credential added outside the sandbox.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use chrono::SecondsFormat;
use fabrica_core::clock::{Clock as _, SystemClock};
use fabrica_core::protocol::USAGE_LIMIT;
use http::header::{ACCEPT_ENCODING, AUTHORIZATION};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use crate::access::Session;
use crate::client::root_cause;
use crate::headers::{from_model, passing, to_model};
use crate::listener::until_ended;
use crate::model::{Asked, Limit, Read, counted, drain, may_tell};
use crate::options::ModelCredential;
use crate::refusal::{Area, Refusal, SHOULD_RETRY};

/// A message, if the session may ask that model; what the answer used is counted.
pub(super) async fn messages(State(session): State<Arc<Session>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Asked { model, body } = Asked::read(&parts.headers, body).await;
    if let Err(refusal) = session.sink.may_ask(&model) {
        tracing::info!(session = %session.fence, code = refusal.code, "the session may not ask the model");
        drain(body).await;
        let detail = format!("fabrica: {}", refusal.detail);
        return Refusal::forbidden(refusal.code, detail).into_model_error(true);
    }
    let request = Request::from_parts(parts, Body::from_stream(body));
    forward(&session, request, |answer| {
        let headers = answer.headers().clone();
        let body = until_ended(answer.bytes_stream(), &session.ended);
        Body::from_stream(counted(Arc::clone(&session), model, &headers, body))
    })
    .await
}

/// What a message would use. It costs nothing, so nothing is counted.
pub(super) async fn count_tokens(State(session): State<Arc<Session>>, request: Request) -> Response {
    forward(&session, request, |answer| plain(&session, answer)).await
}

fn plain(session: &Session, answer: reqwest::Response) -> Body {
    Body::from_stream(until_ended(answer.bytes_stream(), &session.ended))
}

/// Streams the request to the model API and its answer back; neither is ever held as a whole. `body` makes the body of
/// a successful answer.
async fn forward(
    session: &Session,
    request: Request,
    body: impl FnOnce(reqwest::Response) -> Body,
) -> Response {
    let model = &session.services.model;
    let mut headers = passing(request.headers(), to_model);
    // The gateway must be able to read what the answer used.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if let Err(refusal) = add_credential(&mut headers, &model.credential) {
        return refusal.into_model_error(true);
    }
    let url = address(&model.base_url, request.uri().path(), request.uri().query());
    let content = reqwest::Body::wrap_stream(request.into_body().into_data_stream());
    match session
        .services
        .client
        .request(Method::POST, url)
        .headers(headers)
        .body(content)
        .send()
        .await
    {
        Ok(answer) if may_tell(answer.status()) => refused(session, answer).await,
        Ok(answer) => {
            let (status, headers) = (answer.status(), answer.headers().clone());
            let body = if status.is_success() {
                body(answer)
            } else {
                plain(session, answer)
            };
            pass_back(session, status, &headers, body)
        }
        Err(error) => {
            let cause = root_cause(&error);
            tracing::warn!(session = %session.fence, cause, "the model API cannot be reached");
            let host = model.base_url.host_str().unwrap_or_default();
            let detail = format!("fabrica: the model API at {host} cannot be reached: {cause}");
            Refusal::new(StatusCode::BAD_GATEWAY, "model.unreachable", detail).into_model_error(false)
        }
    }
}

/// Whatever else the model API can do (files, batches, administration) could carry data out, or belongs to others.
pub(super) async fn refuse() -> Response {
    Refusal::forbidden(
        "model.path_refused",
        "fabrica: the gateway serves POST /v1/messages and /v1/messages/count_tokens only",
    )
    .in_area(Area::Model)
}

/// `path` is one of the router's own, so it needs no check.
fn address(base: &Url, path: &str, query: Option<&str>) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}{path}", base.path().trim_end_matches('/')));
    url.set_query(query);
    url
}

fn add_credential(headers: &mut HeaderMap, credential: &ModelCredential) -> Result<(), Refusal> {
    let secret = |text: &str| {
        let mut value =
            HeaderValue::from_str(text).map_err(|_| no_credential("cannot be sent in a header"))?;
        value.set_sensitive(true);
        Ok(value)
    };
    let bearer = |token: &SecretString| secret(&format!("Bearer {}", token.expose_secret()));
    match credential {
        ModelCredential::None => return Err(no_credential("is not configured")),
        ModelCredential::ApiKey(key) => headers.insert("x-api-key", secret(key.expose_secret())?),
        ModelCredential::Bearer(token) => headers.insert(AUTHORIZATION, bearer(token)?),
    };
    Ok(())
}

fn no_credential(problem: &str) -> Refusal {
    let detail = format!("fabrica: the model API's credential {problem}");
    Refusal::new(StatusCode::UNAUTHORIZED, "model.no_credential", detail)
}

/// A refusal, as it came; or, if the provider will answer nobody for long, the words that make the session wait outside of
/// its sandbox.
async fn refused(session: &Session, answer: reqwest::Response) -> Response {
    let (status, headers) = (answer.status(), answer.headers().clone());
    let read = Read::from(answer).await;
    if let Some(Limit { until, words }) = read.limit(status, &headers, SystemClock.now()) {
        let until = until.to_rfc3339_opts(SecondsFormat::Secs, true);
        tracing::info!(session = %session.fence, until, "the model's usage limit is reached");
        let detail = format!("fabrica: {USAGE_LIMIT}{until}: {words}");
        return Refusal::new(StatusCode::TOO_MANY_REQUESTS, "model.usage_limit", detail)
            .into_model_error(true);
    }
    let body = Body::from_stream(until_ended(read.into_body(), &session.ended));
    pass_back(session, status, &headers, body)
}

fn pass_back(session: &Session, status: StatusCode, headers: &HeaderMap, body: Body) -> Response {
    if !status.is_success() {
        tracing::info!(session = %session.fence, status = status.as_u16(), "the model API refused a request");
    }
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = passing(headers, from_model);
    if status == StatusCode::UNAUTHORIZED {
        // The credential is ours and stays wrong until somebody changes it: without this header the agent tries again
        // for minutes, in silence.
        response
            .headers_mut()
            .insert(SHOULD_RETRY, HeaderValue::from_static("false"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_is_appended_to_the_base() {
        let address =
            |base: &str, query| address(&Url::parse(base).unwrap(), "/v1/messages", query).to_string();
        assert_eq!(
            address("https://api.example", Some("beta=true")),
            "https://api.example/v1/messages?beta=true"
        );
        assert_eq!(
            address("https://proxy.example/anthropic/", None),
            "https://proxy.example/anthropic/v1/messages"
        );
    }
}
