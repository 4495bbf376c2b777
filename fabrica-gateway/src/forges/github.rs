//! GitHub, at github.com and as an enterprise server.

use async_trait::async_trait;
use fabrica_core::ports::{Forge, ForgeError, Publication, PullRequest, PullRequestRequest};
use http::header::ACCEPT;
use http::{HeaderName, Method};
use secrecy::SecretString;
use serde_json::{Value, json};
use url::Url;

use super::api::{Api, Call, Pull};
use super::{Place, api_limits, owner_and_name, users_and_teams};
use crate::client::{HttpClient, http_client};
use crate::error::SetupError;
use crate::public::Exceptions;

/// Opens pull requests on GitHub.
///
/// The token needs to read the repository and to write pull requests and issues (labels are an issue's); a classic
/// token needs `repo`.
#[derive(Debug)]
pub struct GitHubForge {
    api: Api,
}

impl GitHubForge {
    /// `api_url` is `https://api.github.com`, or `https://HOST/api/v3` of an enterprise server.
    ///
    /// # Errors
    ///
    /// [`SetupError`] if the address cannot be used, or the HTTP client cannot be made.
    pub fn new(api_url: &Url, token: Option<SecretString>) -> Result<Self, SetupError> {
        Self::with_client(http_client(&api_limits(), Exceptions::default())?, api_url, token)
    }

    pub(super) fn with_client(
        client: HttpClient,
        api_url: &Url,
        token: Option<SecretString>,
    ) -> Result<Self, SetupError> {
        let special = [
            (ACCEPT, "application/vnd.github+json"),
            (HeaderName::from_static("x-github-api-version"), "2022-11-28"),
        ];
        Ok(Self {
            api: Api::new(client, api_url, "Bearer", token, &special)?,
        })
    }

    /// The open pull request of a branch, if there is one.
    async fn find(&self, place: &Place<'_>) -> Result<Option<Pull>, ForgeError> {
        let head = format!("{}:{}", place.owner, place.request.branch);
        let pulls: Vec<Pull> = self
            .api
            .ask(Call {
                method: Method::GET,
                path: &["repos", place.owner, place.name, "pulls"],
                query: &[("state", "open"), ("head", &head), ("base", &place.request.base)],
                body: None,
            })
            .await?;
        // A server that does not know one of the filters ignores it.
        Ok(pulls.into_iter().find(|pull| place.holds(pull)))
    }

    async fn open(&self, place: &Place<'_>) -> Result<Pull, ForgeError> {
        let request = place.request;
        let body = json!({
            "title": request.title,
            "body": request.body,
            "head": request.branch,
            "base": request.base,
            "draft": request.options.draft,
        });
        let path = ["repos", place.owner, place.name, "pulls"];
        self.api
            .ask(Call {
                method: Method::POST,
                path: &path,
                query: &[],
                body: Some(body),
            })
            .await
    }

    /// Whether it is a draft is left as people have made it.
    async fn update(&self, place: &Place<'_>, pull: &Pull) -> Result<Pull, ForgeError> {
        let body = json!({"title": place.request.title, "body": place.request.body});
        let number = pull.number.to_string();
        let path = ["repos", place.owner, place.name, "pulls", &number];
        self.api
            .ask(Call {
                method: Method::PATCH,
                path: &path,
                query: &[],
                body: Some(body),
            })
            .await
    }

    /// Adds labels and asks for reviews; what cannot be done becomes a sentence.
    async fn decorate(&self, place: &Place<'_>, pull: &Pull) -> Vec<String> {
        let options = &place.request.options;
        let number = pull.number.to_string();
        let mut warnings = Vec::new();
        if !options.labels.is_empty() {
            let path = ["repos", place.owner, place.name, "issues", &number, "labels"];
            let body = json!({"labels": options.labels});
            let done = self.post(&path, body).await;
            warnings.extend(
                done.err()
                    .map(|error| format!("the labels were not added: {error}")),
            );
        }
        // One call each, so that one unknown name does not keep the others out.
        let (users, teams) = users_and_teams(&options.reviewers);
        let path = [
            "repos",
            place.owner,
            place.name,
            "pulls",
            &number,
            "requested_reviewers",
        ];
        let asks = users
            .into_iter()
            .map(|user| (user, json!({"reviewers": [user]})))
            .chain(
                teams
                    .into_iter()
                    .map(|team| (team, json!({"team_reviewers": [team]}))),
            );
        for (name, body) in asks {
            let done = self.post(&path, body).await;
            warnings.extend(
                done.err()
                    .map(|error| format!("{name} was not asked for a review: {error}")),
            );
        }
        warnings
    }

    async fn post(&self, path: &[&str], body: Value) -> Result<Value, ForgeError> {
        self.api
            .call(Call {
                method: Method::POST,
                path,
                query: &[],
                body: Some(body),
            })
            .await
    }
}

#[async_trait]
impl Forge for GitHubForge {
    #[tracing::instrument(name = "gateway.forge.publish", skip_all, fields(forge = "github", repository = %request.repository))]
    async fn publish(&self, request: &PullRequestRequest) -> Result<Publication, ForgeError> {
        let (owner, name) = owner_and_name(&request.repository)?;
        let place = Place {
            owner: &owner,
            name: &name,
            request,
        };
        let (pull, opened) = match self.find(&place).await? {
            Some(pull) => (self.update(&place, &pull).await?, false),
            None => match self.open(&place).await {
                Ok(pull) => (pull, true),
                // Somebody was quicker, or an answer was lost.
                Err(ForgeError::Refused(words)) if words.contains("already exists") => {
                    let pull = self.find(&place).await?.ok_or(ForgeError::Refused(words))?;
                    (self.update(&place, &pull).await?, false)
                }
                Err(error) => return Err(error),
            },
        };
        let warnings = self.decorate(&place, &pull).await;
        Ok(Publication::PullRequest(PullRequest {
            url: pull.html_url,
            number: pull.number,
            opened,
            warnings,
        }))
    }
}
