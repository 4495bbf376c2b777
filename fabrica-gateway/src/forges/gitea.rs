//! Gitea and Forgejo.

use async_trait::async_trait;
use fabrica_core::ports::{Forge, ForgeError, Publication, PullRequest, PullRequestRequest};
use http::Method;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use super::api::{Api, Call, Pull};
use super::{Place, api_limits, owner_and_name, users_and_teams};
use crate::client::{HttpClient, http_client};
use crate::error::SetupError;
use crate::public::Exceptions;

/// How a draft is marked: by its title, with the prefix that every installation knows.
const DRAFT: &str = "WIP: ";
/// How many entries a page has; the server may give fewer.
const PAGE: &str = "50";
/// How many pages are looked through.
const PAGES: usize = 40;

/// Opens pull requests on Gitea and Forgejo.
///
/// The token needs `write:repository` and `write:issue`; labels of an organisation are found if it also has
/// `read:organization`.
#[derive(Debug)]
pub struct GiteaForge {
    api: Api,
}

/// A label as the API lists it; on a pull request it is named by its number.
#[derive(Debug, Deserialize)]
struct Label {
    id: u64,
    name: String,
}

impl GiteaForge {
    /// `api_url` is `https://HOST/api/v1`.
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
        Ok(Self {
            api: Api::new(client, api_url, "token", token, &[])?,
        })
    }

    /// The open pull request of a branch, if there is one. The API has no filter by branch that all versions know.
    async fn find(&self, place: &Place<'_>) -> Result<Option<Pull>, ForgeError> {
        let path = ["repos", place.owner, place.name, "pulls"];
        let mut seen = None;
        for page in 1..=PAGES {
            let page = page.to_string();
            let query = [
                ("state", "open"),
                ("sort", "recentupdate"),
                ("limit", PAGE),
                ("page", page.as_str()),
            ];
            let pulls: Vec<Pull> = self
                .api
                .ask(Call {
                    method: Method::GET,
                    path: &path,
                    query: &query,
                    body: None,
                })
                .await?;
            // A server that ignores the page gives the first one again.
            let first = pulls.first().map(|pull| pull.number);
            if first.is_none() || first == seen {
                break;
            }
            seen = first;
            if let Some(pull) = pulls.into_iter().find(|pull| place.holds(pull)) {
                return Ok(Some(pull));
            }
        }
        Ok(None)
    }

    async fn open(&self, place: &Place<'_>) -> Result<Pull, ForgeError> {
        let request = place.request;
        let title = if request.options.draft {
            draft(&request.title)
        } else {
            request.title.clone()
        };
        let body =
            json!({"title": title, "body": request.body, "head": request.branch, "base": request.base});
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
        let title = if is_draft(&pull.title) {
            draft(&place.request.title)
        } else {
            place.request.title.clone()
        };
        let body = json!({"title": title, "body": place.request.body});
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
        let number = pull.number.to_string();
        let mut warnings = self.label(place, &number).await;
        // One call each, so that one unknown name does not keep the others out.
        let (users, teams) = users_and_teams(&place.request.options.reviewers);
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

    async fn label(&self, place: &Place<'_>, number: &str) -> Vec<String> {
        let wanted = &place.request.options.labels;
        if wanted.is_empty() {
            return Vec::new();
        }
        let mut known = match self.labels(&["repos", place.owner, place.name, "labels"]).await {
            Ok(known) => known,
            Err(error) => return vec![format!("the labels were not added: {error}")],
        };
        // Only an organisation has labels of its own: what a user answers is of no interest.
        known.extend(
            self.labels(&["orgs", place.owner, "labels"])
                .await
                .unwrap_or_default(),
        );
        let mut warnings = Vec::new();
        let mut ids = Vec::new();
        for name in wanted {
            match known.iter().find(|label| &label.name == name) {
                Some(label) => ids.push(label.id),
                None => warnings.push(format!("the repository has no label {name:?}")),
            }
        }
        if !ids.is_empty() {
            let path = ["repos", place.owner, place.name, "issues", number, "labels"];
            let done = self.post(&path, json!({"labels": ids})).await;
            warnings.extend(
                done.err()
                    .map(|error| format!("the labels were not added: {error}")),
            );
        }
        warnings
    }

    async fn labels(&self, path: &[&str]) -> Result<Vec<Label>, ForgeError> {
        let mut all: Vec<Label> = Vec::new();
        for page in 1..=PAGES {
            let page = page.to_string();
            let query = [("limit", PAGE), ("page", page.as_str())];
            let labels: Vec<Label> = self
                .api
                .ask(Call {
                    method: Method::GET,
                    path,
                    query: &query,
                    body: None,
                })
                .await?;
            let known = labels
                .first()
                .is_none_or(|label| all.iter().any(|seen| seen.id == label.id));
            if known {
                break;
            }
            all.extend(labels);
        }
        Ok(all)
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

fn is_draft(title: &str) -> bool {
    let title = title.to_ascii_uppercase();
    title.starts_with("WIP:") || title.starts_with("[WIP]")
}

fn draft(title: &str) -> String {
    if is_draft(title) {
        title.to_owned()
    } else {
        format!("{DRAFT}{title}")
    }
}

#[async_trait]
impl Forge for GiteaForge {
    #[tracing::instrument(name = "gateway.forge.publish", skip_all, fields(forge = "gitea", repository = %request.repository))]
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
                // Somebody was quicker, or an answer was lost. Gitea says it with status 409.
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
