//! Files in Git LFS at a code host, or wherever that sends us.

use std::time::Duration;

use ::http::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use ::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::body::Body;
use axum::response::Response;
use reqwest::RequestBuilder;
use secrecy::ExposeSecret as _;
use url::Url;

use super::batch::{Action, Actions, Answer, Answered, Object, Operation, Question, TRANSFER};
use super::{MEDIA_TYPE, content, malformed, not_understood};
use crate::access::Session;
use crate::client::root_cause;
use crate::git::body::DataStream;
use crate::git::upstream::HttpRepository;
use crate::headers::{from_code_host, passing};
use crate::listener::until_ended;
use crate::public::NotPublic;
use crate::refusal::Refusal;

/// The longest answer about objects: a thousand signed addresses are far shorter.
const MAX_ANSWER: usize = 8 * 1024 * 1024;
/// How often a storage may send a download elsewhere.
const MOST_REDIRECTS: usize = 3;
/// How long a host may take to say where objects are.
const PATIENCE: Duration = Duration::from_mins(1);
/// What an action cannot say, since it belongs to the connection or to the content.
const OWN_HEADERS: [&str; 6] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "transfer-encoding",
    "upgrade",
];

impl HttpRepository {
    /// What the host says of objects.
    pub(super) async fn large_files(
        &self,
        session: &Session,
        question: &Question,
    ) -> Result<Vec<Answered>, Refusal> {
        let answer = self.ask(session, question).await?;
        for object in &answer.objects {
            if let Some(actions) = &object.actions {
                self.remembered.add(question.operation, &object.oid, actions);
            }
        }
        Ok(answer.objects)
    }

    /// The content of an object.
    pub(super) async fn download(&self, session: &Session, object: &Object) -> Result<Response, Refusal> {
        let actions = self.actions(session, Operation::Download, object).await?;
        let action = actions.download.ok_or_else(|| absent(object))?;
        let mut url = address(&action)?;
        for _ in 0..=MOST_REDIRECTS {
            let request = self.named(session, Method::GET, &url, &action)?;
            let answer = send(session, request, &url).await?;
            if answer.status().is_redirection() {
                url = redirected(&url, &answer).ok_or_else(|| not_understood("it sends us nowhere"))?;
                continue;
            }
            if !answer.status().is_success() {
                return Err(refused(&answer));
            }
            let headers = passing(answer.headers(), from_code_host);
            let mut response = Response::new(Body::from_stream(until_ended(
                answer.bytes_stream(),
                &session.ended,
            )));
            *response.headers_mut() = headers;
            return Ok(response);
        }
        Err(not_understood("it sends us on for ever"))
    }

    /// Puts an object there, unless it is there already, and lets the host look at it.
    pub(super) async fn upload(
        &self,
        session: &Session,
        object: &Object,
        content: DataStream,
    ) -> Result<(), Refusal> {
        let actions = self.actions(session, Operation::Upload, object).await?;
        let Some(action) = actions.upload else {
            crate::git::body::drain(content).await;
            return Ok(());
        };
        let url = address(&action)?;
        let mut request = self
            .named(session, Method::PUT, &url, &action)?
            .header(CONTENT_LENGTH, object.size);
        if !has(&action, CONTENT_TYPE.as_str()) {
            request = request.header(CONTENT_TYPE, "application/octet-stream");
        }
        let answer = send(session, request.body(reqwest::Body::wrap_stream(content)), &url).await?;
        if !answer.status().is_success() {
            return Err(refused(&answer));
        }
        let Some(action) = actions.verify else {
            return Ok(());
        };
        let url = address(&action)?;
        let request = self
            .named(session, Method::POST, &url, &action)?
            .header(ACCEPT, MEDIA_TYPE)
            .timeout(PATIENCE)
            .json(object);
        let answer = send(session, with_media_type(request), &url).await?;
        if answer.status().is_success() {
            Ok(())
        } else {
            Err(refused(&answer))
        }
    }

    /// What is to be done with one object, as it was said or is said now.
    async fn actions(
        &self,
        session: &Session,
        operation: Operation,
        object: &Object,
    ) -> Result<Actions, Refusal> {
        if let Some(actions) = self.remembered.take(operation, object) {
            return Ok(actions);
        }
        let question = Question::new(operation, vec![object.clone()], &session.job.branch);
        let answer = self.ask(session, &question).await?;
        let answered = answer
            .objects
            .into_iter()
            .find(|answered| answered.oid == object.oid);
        match answered {
            Some(Answered {
                error: Some(error), ..
            }) => {
                let status = StatusCode::from_u16(error.code).unwrap_or(StatusCode::NOT_FOUND);
                let status = if status.is_client_error() {
                    status
                } else {
                    StatusCode::BAD_GATEWAY
                };
                let detail = format!("fabrica: the code host does not serve the object {}", object.oid);
                Err(Refusal::new(status, "large_files.refused", detail))
            }
            Some(answered) => Ok(answered.actions.unwrap_or_default()),
            None => Err(absent(object)),
        }
    }

    async fn ask(&self, session: &Session, question: &Question) -> Result<Answer, Refusal> {
        let url = self.batch_url();
        let mut request = session
            .services
            .client
            .request(Method::POST, url.clone())
            .header(ACCEPT, MEDIA_TYPE)
            .timeout(PATIENCE)
            .json(question);
        if let Some(credential) = &self.credential {
            request = request.basic_auth(&credential.username, Some(credential.secret.expose_secret()));
        }
        let mut answer = send(session, with_media_type(request), &url).await?;
        if !answer.status().is_success() {
            return Err(refused(&answer));
        }
        let mut content = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(|error| broken(&url, &error))? {
            content.extend_from_slice(&piece);
            if content.len() > MAX_ANSWER {
                return Err(not_understood("its answer is too long"));
            }
        }
        // What is wrong may stand in the middle of a signed address, so it is not repeated.
        let answer: Answer = serde_json::from_slice(&content)
            .map_err(|_| not_understood("its answer is not that of a Git LFS"))?;
        match &answer.transfer {
            Some(other) if other != TRANSFER => Err(not_understood("it knows no basic transfers")),
            _ => Ok(answer),
        }
    }

    /// `https://host/owner/name.git/info/lfs/objects/batch`, whether or not the repository's address ends with `.git`
    /// ([Server discovery](https://github.com/git-lfs/git-lfs/blob/main/docs/api/server-discovery.md)).
    fn batch_url(&self) -> Url {
        let mut url = self.url();
        let path = url.path().trim_end_matches('/');
        let path = path.strip_suffix(".git").unwrap_or(path).to_owned();
        url.set_path(&format!("{path}.git/info/lfs/objects/batch"));
        url
    }

    /// A request that the code host told us to make. Our own credential goes to the host itself only, and only if it
    /// named no other.
    fn named(
        &self,
        session: &Session,
        method: Method,
        url: &Url,
        action: &Action,
    ) -> Result<RequestBuilder, Refusal> {
        let home = url.origin() == self.url().origin();
        let client = &session.services.client;
        let request = if home {
            Some(client.request(method, url.clone()))
        } else {
            client.request_named(method, url.clone())
        };
        let request = request.ok_or_else(|| private(url))?;
        let first = address(action).is_ok_and(|first| first.origin() == url.origin());
        let request = if first {
            request.headers(headers(action)?)
        } else {
            // Whatever the host said was for where it sent us first.
            request
        };
        Ok(match &self.credential {
            Some(credential) if home && !has(action, AUTHORIZATION.as_str()) => {
                request.basic_auth(&credential.username, Some(credential.secret.expose_secret()))
            }
            _ => request,
        })
    }
}

/// Where an action leads.
fn address(action: &Action) -> Result<Url, Refusal> {
    Url::parse(&action.href)
        .ok()
        .filter(usable)
        .ok_or_else(|| not_understood("it names an address that leads nowhere"))
}

fn usable(url: &Url) -> bool {
    matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
}

fn redirected(asked: &Url, answer: &reqwest::Response) -> Option<Url> {
    let location = answer.headers().get(LOCATION)?.to_str().ok()?;
    let target = asked.join(location).ok().filter(usable)?;
    // What was protected on its way stays so.
    (asked.scheme() == "http" || target.scheme() == "https").then_some(target)
}

fn has(action: &Action, name: &str) -> bool {
    action.header.keys().any(|known| known.eq_ignore_ascii_case(name))
}

fn headers(action: &Action) -> Result<HeaderMap, Refusal> {
    let mut headers = HeaderMap::new();
    for (name, value) in &action.header {
        let name: HeaderName = name
            .parse()
            .map_err(|_| not_understood("it names a header that is none"))?;
        let mut value: HeaderValue = value
            .parse()
            .map_err(|_| not_understood("it names a header that is none"))?;
        if OWN_HEADERS.contains(&name.as_str()) {
            continue;
        }
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Ok(headers)
}

/// The media type of the API, in place of that of plain JSON.
fn with_media_type(request: RequestBuilder) -> RequestBuilder {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    request.headers(headers)
}

async fn send(session: &Session, request: RequestBuilder, url: &Url) -> Result<reqwest::Response, Refusal> {
    request.send().await.map_err(|error| {
        let refusal = broken(url, &error);
        tracing::warn!(session = %session.fence, detail = refusal.detail, "files in Git LFS cannot be reached");
        refusal
    })
}

/// Addresses of storages are secrets: only the host is told.
fn broken(url: &Url, error: &reqwest::Error) -> Refusal {
    if content::is_wrong(error) {
        return malformed("its content is not what its name says");
    }
    if NotPublic::is_cause_of(error) {
        return private(url);
    }
    let host = url.host_str().unwrap_or_default();
    Refusal::new(
        StatusCode::BAD_GATEWAY,
        "large_files.unreachable",
        format!(
            "fabrica: {host}, which has the repository's files in Git LFS, cannot be reached: {}",
            root_cause(error)
        ),
    )
}

fn refused(answer: &reqwest::Response) -> Refusal {
    let host = answer.url().host_str().unwrap_or_default();
    let status = answer.status();
    let (ours, code, advice) = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => (
            StatusCode::FORBIDDEN,
            "large_files.denied",
            "it refuses Fabrica's credential for files in Git LFS",
        ),
        StatusCode::NOT_FOUND | StatusCode::GONE => (
            StatusCode::NOT_FOUND,
            "large_files.not_found",
            "it does not have the file, or no Git LFS for this repository",
        ),
        StatusCode::UNPROCESSABLE_ENTITY
        | StatusCode::PAYLOAD_TOO_LARGE
        | StatusCode::INSUFFICIENT_STORAGE => (
            StatusCode::UNPROCESSABLE_ENTITY,
            "large_files.refused",
            "it does not take the file: look at its limits and quota for Git LFS",
        ),
        _ => (
            StatusCode::BAD_GATEWAY,
            "large_files.unreachable",
            "its Git LFS does not work at the moment",
        ),
    };
    let detail = format!(
        "fabrica: {host} answers with status {}: {advice}",
        status.as_u16()
    );
    Refusal::new(ours, code, detail)
}

fn private(url: &Url) -> Refusal {
    let host = url.host_str().unwrap_or_default();
    Refusal::forbidden(
        "large_files.private_network",
        format!(
            "fabrica: the code host keeps files in Git LFS at {host}, in a private network: the operator may allow that with `--lfs-host {host}`"
        ),
    )
}

fn absent(object: &Object) -> Refusal {
    let detail = format!(
        "fabrica: the code host does not have the object {} of Git LFS",
        object.oid
    );
    Refusal::new(StatusCode::NOT_FOUND, "large_files.not_found", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_with_credentials_and_of_other_kinds_lead_nowhere() {
        let leads = |href: &str| {
            let action = Action {
                href: href.to_owned(),
                ..Action::default()
            };
            address(&action).is_ok()
        };
        assert!(leads("https://storage.example/x?signature=y") && leads("http://storage.example:9000/x"));
        for nowhere in [
            "",
            "/x",
            "file:///etc/passwd",
            "ssh://storage.example/x",
            "https://user@storage.example/x",
            "https://:secret@storage.example/x",
        ] {
            assert!(!leads(nowhere), "{nowhere}");
        }
    }

    #[test]
    fn what_was_protected_is_never_sent_on_in_the_clear() {
        let sent_on = |from: &str, to: &str| {
            let answer = ::http::Response::builder().status(302).header(LOCATION, to);
            let answer = reqwest::Response::from(answer.body("").unwrap());
            redirected(&Url::parse(from).unwrap(), &answer).map(|url| url.to_string())
        };
        let secure = "https://storage.example/a/b";
        assert_eq!(
            sent_on(secure, "c?d").as_deref(),
            Some("https://storage.example/a/c?d")
        );
        assert_eq!(
            sent_on("http://storage.example/", secure).as_deref(),
            Some(secure)
        );
        assert_eq!(sent_on(secure, "http://storage.example/c"), None);
        assert_eq!(sent_on(secure, "https://user:secret@storage.example/c"), None);
        assert_eq!(sent_on(secure, "ftp://storage.example/c"), None);
    }
}
