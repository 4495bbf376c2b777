//! Where a repository is. The text of a plan never reaches a command line or a client: it is parsed, checked against
//! a list of schemes and hosts, and written anew.

use std::fmt;
use std::path::{Path, PathBuf};

use thiserror::Error;
use url::{Host, Url};

/// What an operator accepts as a repository.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RepositoryPolicy {
    /// Accept local paths. Only for a person's own machine: the path is read with that person's rights.
    pub local_paths: bool,
    /// The only hosts that are accepted (`git.example.com`, or `git.example.com:8443`); `None` accepts all.
    pub hosts: Option<Vec<String>>,
    /// Hosts, with their port, that may be reached over unencrypted HTTP, for example a test server on loopback.
    pub plain_http: Vec<String>,
}

/// A repository that was parsed and accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repository {
    /// Reached over HTTP: the URL has a host and a path, and neither credentials, query nor fragment.
    Http(Url),
    /// Named by an SSH address. It is reached over HTTPS on the same host, since that is where Fabrica's gateway can
    /// add a credential without handing a key to the sandbox.
    Ssh {
        /// As it is shown, `ssh://git@host/owner/name.git`.
        shown: String,
        /// Where it is reached.
        https: Url,
    },
    /// A directory on this machine.
    Local(PathBuf),
}

/// A repository that cannot be accepted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RepositoryError {
    /// Neither a URL with an accepted scheme nor an accepted path.
    #[error("repository {input:?} is not accepted: expected https://host/owner/name.git or ssh://git@host/owner/name.git{}", if *.local { ", or a path that begins with /, ./ or ../" } else { "" })]
    Unsupported {
        /// What the plan says, shortened.
        input: String,
        /// Whether local paths would be accepted.
        local: bool,
    },
    /// Unencrypted HTTP to a host that was not named for it.
    #[error(
        "repository {input:?} uses unencrypted http: use https, or name the host as one that may be reached without encryption (--plain-http-host)"
    )]
    Unencrypted {
        /// What the plan says, shortened.
        input: String,
    },
    /// The URL has a user name or a password.
    #[error(
        "the repository's URL carries credentials: remove them from the plan and configure a forge token instead"
    )]
    Credentials,
    /// The host is not on the operator's list.
    #[error("host {host:?} is not among the hosts that the operator accepts: {accepted}")]
    HostNotAccepted {
        /// The host.
        host: String,
        /// The accepted ones.
        accepted: String,
    },
}

impl RepositoryError {
    /// Stable code of this error.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unsupported { .. } => "repository.unsupported",
            Self::Unencrypted { .. } => "repository.unencrypted",
            Self::Credentials => "repository.credentials_in_url",
            Self::HostNotAccepted { .. } => "repository.host_not_accepted",
        }
    }
}

impl Repository {
    /// Parses what a plan says, under a policy.
    ///
    /// # Errors
    ///
    /// [`RepositoryError`] for every other scheme (also `ext::`, `file://`), option-like text, control characters,
    /// credentials in the URL, a missing host or path, and hosts that are not accepted.
    pub fn parse(input: &str, policy: &RepositoryPolicy) -> Result<Self, RepositoryError> {
        let unsupported = || RepositoryError::Unsupported {
            input: input.chars().take(100).collect(),
            local: policy.local_paths,
        };
        if input.is_empty() || input.len() > 2_048 || input.contains(char::is_control) {
            return Err(unsupported());
        }
        if ["/", "./", "../"].iter().any(|prefix| input.starts_with(prefix)) || input == "." {
            return if policy.local_paths {
                Ok(Self::Local(PathBuf::from(input)))
            } else {
                Err(unsupported())
            };
        }
        if input.starts_with('-') || input.contains(char::is_whitespace) {
            return Err(unsupported());
        }
        if let Some(rest) = input.strip_prefix("ssh://") {
            return ssh(rest, policy).ok_or_else(unsupported)?;
        }
        if !input.contains("://") {
            // The short form of SSH addresses, user@host:path.
            let address = input
                .split_once(':')
                .filter(|(host, path)| host.contains('@') && !path.starts_with(':'));
            return match address {
                Some((host, path)) => ssh(&format!("{host}/{path}"), policy).ok_or_else(unsupported)?,
                None => Err(unsupported()),
            };
        }
        http(input, policy).ok_or_else(unsupported)?
    }

    /// Where the repository is reached over HTTP; `None` for a local one.
    pub const fn http_url(&self) -> Option<&Url> {
        match self {
            Self::Http(url) | Self::Ssh { https: url, .. } => Some(url),
            Self::Local(_) => None,
        }
    }

    /// The directory of a local repository.
    pub fn local_path(&self) -> Option<&Path> {
        match self {
            Self::Local(path) => Some(path),
            Self::Http(_) | Self::Ssh { .. } => None,
        }
    }

    /// Host and, where it is not the scheme's own, port.
    pub fn authority(&self) -> Option<String> {
        self.http_url().map(authority)
    }

    /// The path without a leading slash and `.git`: on a forge, `owner/name`.
    pub fn slug(&self) -> Option<String> {
        let path = self.http_url()?.path().trim_matches('/');
        Some(path.strip_suffix(".git").unwrap_or(path).to_owned())
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(url) => url.fmt(f),
            Self::Ssh { shown, .. } => f.write_str(shown),
            Self::Local(path) => path.display().fmt(f),
        }
    }
}

fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port()
        .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// `None` means: not of this form.
fn http(input: &str, policy: &RepositoryPolicy) -> Option<Result<Repository, RepositoryError>> {
    // The URL library repairs `https:///host` and back-slashes; what has to be repaired is refused instead.
    let (scheme, rest) = input.split_once("://")?;
    if rest.starts_with('/') || rest.contains('\\') {
        return None;
    }
    let url = Url::parse(input).ok()?;
    if !matches!(url.scheme(), "https" | "http") || url.scheme() != scheme {
        return None;
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Some(Err(RepositoryError::Credentials));
    }
    if !acceptable(&url) {
        return None;
    }
    let host = authority(&url);
    if url.scheme() == "http" && !policy.plain_http.contains(&host) {
        return Some(Err(RepositoryError::Unencrypted {
            input: input.chars().take(100).collect(),
        }));
    }
    Some(accepted_host(&host, policy).map(|()| Repository::Http(url)))
}

/// `rest` is `user@host[:port]/path`.
fn ssh(rest: &str, policy: &RepositoryPolicy) -> Option<Result<Repository, RepositoryError>> {
    let (authority_part, path) = rest.split_once('/')?;
    let (user, host_and_port) = authority_part.split_once('@').unwrap_or(("git", authority_part));
    let plain = |text: &str| {
        !text.is_empty()
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    };
    if user.contains(':') {
        return Some(Err(RepositoryError::Credentials));
    }
    // The port of an SSH server says nothing about HTTPS on the same host.
    let host = host_and_port.split(':').next()?;
    if !plain(user) || !plain(host) || host.starts_with('-') || user.starts_with('-') {
        return None;
    }
    let https = Url::parse(&format!("https://{host}/{}", path.trim_start_matches('/'))).ok()?;
    if !acceptable(&https) {
        return None;
    }
    let shown = format!("ssh://{user}@{host_and_port}/{}", path.trim_start_matches('/'));
    Some(accepted_host(host, policy).map(|()| Repository::Ssh { shown, https }))
}

fn acceptable(url: &Url) -> bool {
    let named = url.host().is_some_and(|host| match host {
        Host::Domain(name) => !name.is_empty() && !name.starts_with('-'),
        Host::Ipv4(_) | Host::Ipv6(_) => true,
    });
    let path = url.path();
    let encoded = path.to_ascii_lowercase();
    named
        && url.query().is_none()
        && url.fragment().is_none()
        && path.trim_matches('/').len() > 1
        && !path.contains("//")
        && !["%2f", "%5c", "%00", "%0a", "%0d", "%2e"]
            .iter()
            .any(|escape| encoded.contains(escape))
        && path.split('/').all(|segment| !segment.starts_with('-'))
}

fn accepted_host(host: &str, policy: &RepositoryPolicy) -> Result<(), RepositoryError> {
    match &policy.hosts {
        Some(hosts) if !hosts.iter().any(|known| known.eq_ignore_ascii_case(host)) => {
            Err(RepositoryError::HostNotAccepted {
                host: host.to_owned(),
                accepted: hosts.join(", "),
            })
        }
        _ => Ok(()),
    }
}
