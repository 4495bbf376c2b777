//! The forges: where pull requests are opened, outside of every sandbox.
//!
//! The clients are written by hand: three or four calls to two well documented APIs need less code than a generated or
//! general client would bring along, and every answer that matters here (an existing pull request, a refused token, a
//! limit) is told apart in one place.

mod api;
mod gitea;
mod github;

use std::collections::BTreeMap;

use async_trait::async_trait;
use fabrica_core::plan::Repository;
use fabrica_core::ports::{Forge, ForgeError, Publication, PullRequestRequest};
use secrecy::SecretString;
use url::Url;

use self::api::Pull;
pub use self::gitea::GiteaForge;
pub use self::github::GitHubForge;
use crate::client::http_client;
use crate::error::SetupError;
use crate::options::GatewayLimits;
use crate::public::Exceptions;

/// One forge that an operator configured.
#[derive(Debug, Clone)]
pub struct ForgeConfig {
    /// The host (`git.example.com`, or `git.example.com:8443`) of the repositories that it is for.
    pub authority: String,
    /// Which API it speaks.
    pub kind: ForgeKind,
    /// The API's address, if it is not at its usual place below `https://AUTHORITY`; see [`ForgeKind`].
    pub api_url: Option<Url>,
    /// The token that opens pull requests; without one every attempt to is [`ForgeError::Denied`].
    pub token: Option<SecretString>,
}

/// The APIs that are spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForgeKind {
    /// GitHub: `https://api.github.com` for github.com, `https://AUTHORITY/api/v3` for an enterprise server.
    GitHub,
    /// Gitea and Forgejo: `https://AUTHORITY/api/v1`.
    Gitea,
}

impl ForgeKind {
    fn api_url(self, authority: &str) -> Result<Url, SetupError> {
        let text = match self {
            Self::GitHub if authority == GITHUB => "https://api.github.com".to_owned(),
            Self::GitHub => format!("https://{authority}/api/v3"),
            Self::Gitea => format!("https://{authority}/api/v1"),
        };
        Url::parse(&text).map_err(|_| SetupError::Address {
            what: "forge's authority",
            url: authority.to_owned(),
            reason: "it must be a host, with its port where that is not the usual one",
        })
    }
}

const GITHUB: &str = "github.com";

/// All configured forges: each repository's is chosen by its host.
///
/// A local repository has no forge, so its pushed branch is the result. A repository on a host that nobody configured
/// is an error ([`ForgeError::NotConfigured`]): its plan promised a pull request, and a session without one should not
/// look as if all went well.
#[derive(Debug)]
pub struct Forges {
    by_authority: BTreeMap<String, Box<dyn Forge>>,
}

impl Forges {
    /// The given forges, and github.com, without a token if none of them is it.
    ///
    /// # Errors
    ///
    /// [`SetupError`] if an address cannot be used, or the HTTP client cannot be made.
    pub fn new(configs: impl IntoIterator<Item = ForgeConfig>) -> Result<Self, SetupError> {
        let client = http_client(&api_limits(), Exceptions::default())?;
        let github = ForgeConfig {
            authority: GITHUB.to_owned(),
            kind: ForgeKind::GitHub,
            api_url: None,
            token: None,
        };
        let mut by_authority = BTreeMap::new();
        for config in std::iter::once(github).chain(configs) {
            let authority = config.authority.to_ascii_lowercase();
            let url = match config.api_url {
                Some(url) => url,
                None => config.kind.api_url(&authority)?,
            };
            let forge: Box<dyn Forge> = match config.kind {
                ForgeKind::GitHub => Box::new(GitHubForge::with_client(client.clone(), &url, config.token)?),
                ForgeKind::Gitea => Box::new(GiteaForge::with_client(client.clone(), &url, config.token)?),
            };
            by_authority.insert(authority, forge);
        }
        Ok(Self { by_authority })
    }
}

/// A forge answers at once or is overloaded.
fn api_limits() -> GatewayLimits {
    GatewayLimits {
        idle_timeout: std::time::Duration::from_mins(1),
        ..GatewayLimits::default()
    }
}

#[async_trait]
impl Forge for Forges {
    async fn publish(&self, request: &PullRequestRequest) -> Result<Publication, ForgeError> {
        let Some(authority) = request.repository.authority() else {
            return Ok(Publication::Branch);
        };
        match self.by_authority.get(&authority.to_ascii_lowercase()) {
            Some(forge) => forge.publish(request).await,
            None => Err(ForgeError::NotConfigured(authority)),
        }
    }
}

/// A request, and the repository that it is for as the APIs name it.
#[derive(Debug)]
struct Place<'a> {
    owner: &'a str,
    name: &'a str,
    request: &'a PullRequestRequest,
}

impl Place<'_> {
    /// Whether a pull request is the one of our branch: of this repository's, not of a fork's branch of the same name,
    /// which has its owner in its label.
    fn holds(&self, pull: &Pull) -> bool {
        let head = &pull.head;
        pull.base.branch == self.request.base
            && head.branch == self.request.branch
            && head
                .label
                .split_once(':')
                .is_none_or(|(owner, _)| owner.eq_ignore_ascii_case(self.owner))
    }
}

/// Owner and name of a repository: the last two parts of its path, since a forge may live below one.
fn owner_and_name(repository: &Repository) -> Result<(String, String), ForgeError> {
    let slug = repository.slug().unwrap_or_default();
    let mut parts = slug.rsplit('/');
    match (parts.next(), parts.next()) {
        (Some(name), Some(owner)) if !name.is_empty() && !owner.is_empty() => {
            Ok((owner.to_owned(), name.to_owned()))
        }
        _ => Err(ForgeError::NotFound(format!(
            "{repository} has no owner and name in its path"
        ))),
    }
}

/// Splits reviewers into users and teams; a team is written `organisation/team`.
fn users_and_teams(reviewers: &[String]) -> (Vec<&str>, Vec<&str>) {
    let teams = reviewers
        .iter()
        .filter_map(|name| name.split_once('/').map(|(_, team)| team))
        .collect();
    let users = reviewers
        .iter()
        .filter(|name| !name.contains('/'))
        .map(String::as_str)
        .collect();
    (users, teams)
}

#[cfg(test)]
mod tests {
    use fabrica_core::plan::RepositoryPolicy;

    use super::*;

    #[test]
    fn owner_and_name_are_the_end_of_the_path() {
        let parse = |text| Repository::parse(text, &RepositoryPolicy::default()).unwrap();
        let parts = |text| owner_and_name(&parse(text));
        let expected = ("acme".to_owned(), "billing".to_owned());
        assert_eq!(parts("https://github.com/acme/billing.git").unwrap(), expected);
        assert_eq!(parts("https://example.com/gitea/acme/billing").unwrap(), expected);
        assert_eq!(parts("ssh://git@example.com/acme/billing.git").unwrap(), expected);
        assert!(parts("https://example.com/billing").is_err());
    }

    #[test]
    fn the_usual_addresses_of_the_apis() {
        let url = |kind: ForgeKind, authority| kind.api_url(authority).unwrap().to_string();
        assert_eq!(url(ForgeKind::GitHub, "github.com"), "https://api.github.com/");
        assert_eq!(
            url(ForgeKind::GitHub, "git.example.com"),
            "https://git.example.com/api/v3"
        );
        assert_eq!(
            url(ForgeKind::Gitea, "git.example.com:3000"),
            "https://git.example.com:3000/api/v1"
        );
        assert!(ForgeKind::Gitea.api_url("no host").is_err());
    }
}
