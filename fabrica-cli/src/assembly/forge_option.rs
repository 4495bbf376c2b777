//! `--forge github=github.example.com,https://github.example.com/api/v3`

use std::fmt;
use std::str::FromStr;

pub use fabrica_gateway::forges::ForgeKind;
use url::Url;

/// A forge as an option names it.
///
/// ```
/// use fabrica_cli::assembly::{ForgeKind, ForgeOption};
///
/// let forge: ForgeOption = "gitea=git.example.com".parse()?;
/// assert_eq!(forge.kind, ForgeKind::Gitea);
/// assert_eq!(forge.api.as_str(), "https://git.example.com/api/v1");
/// # Ok::<(), String>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForgeOption {
    /// What it speaks.
    pub kind: ForgeKind,
    /// Its host, with the port where that is not the usual one, as in repository URLs.
    pub host: String,
    /// Where its API begins.
    pub api: Url,
}

impl ForgeOption {
    /// github.com.
    ///
    /// # Errors
    ///
    /// Never in practice: the address is a constant.
    pub fn github_com() -> Result<Self, String> {
        "github=github.com".parse()
    }
}

impl FromStr for ForgeOption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected github=HOST or gitea=HOST, optionally with ,API-URL behind it";
        let (kind, rest) = text.split_once('=').ok_or(EXPECTED)?;
        let kind = match kind.to_ascii_lowercase().as_str() {
            "github" => ForgeKind::GitHub,
            "gitea" | "forgejo" => ForgeKind::Gitea,
            other => return Err(format!("{EXPECTED}, got {other:?}")),
        };
        let (host, api) = rest
            .split_once(',')
            .map_or((rest, None), |(host, api)| (host, Some(api)));
        let host = host.to_ascii_lowercase();
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-:[]".contains(c);
        if host.is_empty() || host.starts_with('-') || !host.chars().all(plain) {
            return Err(format!("{host:?} is not a host; {EXPECTED}"));
        }
        let address = match (api, kind) {
            (Some(api), _) => api.to_owned(),
            (None, ForgeKind::GitHub) if host == "github.com" => "https://api.github.com".into(),
            (None, ForgeKind::GitHub) => format!("https://{host}/api/v3"),
            (None, ForgeKind::Gitea) => format!("https://{host}/api/v1"),
        };
        let api =
            Url::parse(address.trim_end_matches('/')).map_err(|error| format!("API address: {error}"))?;
        if !matches!(api.scheme(), "https" | "http") || !api.username().is_empty() || api.password().is_some()
        {
            return Err("the API's address begins with https:// and holds no credentials".into());
        }
        Ok(Self { kind, host, api })
    }
}

impl fmt::Display for ForgeOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            ForgeKind::GitHub => "github",
            ForgeKind::Gitea => "gitea",
        };
        write!(f, "{kind}={},{}", self.host, self.api)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_addresses_are_known() {
        let api = |text: &str| text.parse::<ForgeOption>().unwrap().api.to_string();
        assert_eq!(api("github=github.com"), "https://api.github.com/");
        assert_eq!(
            api("github=github.example.com"),
            "https://github.example.com/api/v3"
        );
        assert_eq!(
            api("GITEA=git.example.com:3000"),
            "https://git.example.com:3000/api/v1"
        );
        assert_eq!(
            api("gitea=127.0.0.1:3000,http://127.0.0.1:3000/api/v1/"),
            "http://127.0.0.1:3000/api/v1"
        );
    }

    #[test]
    fn nonsense_is_refused_without_showing_credentials() {
        for text in [
            "",
            "github",
            "gitlab=x.y",
            "github=",
            "github=a b",
            "gitea=-x",
            "github=h,ftp://h",
        ] {
            assert!(text.parse::<ForgeOption>().is_err(), "{text}");
        }
        let error = "github=h,https://u:canary@h/".parse::<ForgeOption>().unwrap_err();
        assert!(!error.contains("canary"), "{error}");
    }
}
