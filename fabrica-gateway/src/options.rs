//! What an operator decides about the gateway.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use url::Url;

use crate::signing::SigningKey;

/// Everything that [`UnixGateway::new`](crate::UnixGateway::new) needs.
#[derive(Debug, Clone)]
pub struct GatewayOptions {
    /// The directory that holds one directory for each attempt. Made with mode 0700 if it is missing; if it exists,
    /// nobody but its owner may enter it. Keep it short: a socket's path has at most 107 bytes.
    pub directory: PathBuf,
    /// The user whom the directories and sockets are given to: the one who runs a rootless engine, when Fabrica itself
    /// runs as root. `None` leaves them to the user who runs Fabrica.
    pub owner: Option<u32>,
    /// Where `/model/…` leads.
    pub model: ModelUpstream,
    /// How the gateway shows itself to code hosts.
    pub git: GitCredentials,
    /// Hosts in private networks, by name or address without a port, that a code host may send the gateway to for files in
    /// Git LFS; and the operator's proxy, if its name leads to a private address. A code host itself, and hosts in public
    /// networks, need not be listed.
    pub large_file_hosts: BTreeSet<String>,
    /// What commits are signed with; without one, every request for a signature is refused with the code
    /// `signing.not_configured`.
    pub signing_key: Option<SigningKey>,
    /// Bounds.
    pub limits: GatewayLimits,
}

/// The API behind `/model/…`.
#[derive(Debug, Clone)]
pub struct ModelUpstream {
    /// `/v1/messages` is appended to it.
    pub base_url: Url,
    /// What the gateway adds to every request.
    pub credential: ModelCredential,
}

/// How the gateway shows itself to the model API.
#[derive(Debug, Clone)]
pub enum ModelCredential {
    /// Not at all: every request is refused with the code `model.no_credential`, and nothing is sent.
    None,
    /// As `x-api-key`.
    ApiKey(SecretString),
    /// As `Authorization: Bearer …`.
    Bearer(SecretString),
}

/// User name and secret of code hosts, by the host's authority.
///
/// There is deliberately no credential for "any other host": a plan names its repository, so whoever writes a plan
/// could have it sent to a host of their own. Hosts without an entry are asked without a credential, which is enough to
/// fetch a public repository.
#[derive(Debug, Clone, Default)]
pub struct GitCredentials {
    by_authority: BTreeMap<String, GitCredential>,
}

/// One code host's credential, sent as HTTP Basic authentication.
#[derive(Debug, Clone)]
pub struct GitCredential {
    /// The user name. Most forges take any with a token.
    pub username: String,
    /// The token or password.
    pub secret: SecretString,
}

impl GitCredential {
    /// A forge's token, with the user name that GitHub documents and that Gitea, Forgejo and GitLab take as well.
    pub fn token(secret: SecretString) -> Self {
        Self {
            username: "x-access-token".to_owned(),
            secret,
        }
    }
}

impl GitCredentials {
    /// No credentials.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, with one more host. `authority` is `host` or `host:port`, as in the repository's URL.
    #[must_use]
    pub fn with(mut self, authority: impl Into<String>, credential: GitCredential) -> Self {
        self.by_authority
            .insert(authority.into().to_ascii_lowercase(), credential);
        self
    }

    /// The credential of a host, if there is one.
    pub fn get(&self, authority: &str) -> Option<&GitCredential> {
        self.by_authority.get(&authority.to_ascii_lowercase())
    }
}

/// Bounds of what one sandbox may occupy, and of how long the gateway waits for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GatewayLimits {
    /// How many connections one sandbox may hold open; more wait in the socket's queue.
    pub connections: usize,
    /// How long a connection to an upstream may take.
    pub connect_timeout: Duration,
    /// How long an upstream may stay silent: until its answer begins, and between two pieces of it. A model that does
    /// not stream says nothing until its answer is complete.
    pub idle_timeout: Duration,
    /// How many bytes of memory the reports and artifacts of one sandbox may take while they are read and stored; more
    /// wait in the connections. Raised to what one largest artifact needs.
    pub session_body_memory: usize,
    /// The same for all sandboxes together.
    pub body_memory: usize,
}

impl Default for GatewayLimits {
    fn default() -> Self {
        Self {
            connections: 128,
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_mins(10),
            session_body_memory: 64 * 1024 * 1024,
            body_memory: 256 * 1024 * 1024,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_belongs_to_one_authority_and_is_never_shown() {
        let canary = "canary-git-secret";
        let credentials = GitCredentials::new().with(
            "Git.Example.com:8443",
            GitCredential::token(SecretString::from(canary)),
        );
        assert!(credentials.get("git.example.com:8443").is_some());
        assert!(credentials.get("git.example.com").is_none());
        assert!(credentials.get("evil.example").is_none());
        assert!(!format!("{credentials:?}").contains(canary));
    }
}
