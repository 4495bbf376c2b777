//! What the container tells the runner.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use fabrica_core::protocol::{
    AGENT_TOKEN_VARIABLE, FORWARDER_ADDRESS, GATEWAY_DIRECTORY, GATEWAY_SOCKET, RUNNER_TOKEN_VARIABLE,
    WORKSPACE,
};
use thiserror::Error;

/// The variable that says where the gateway's socket is, if not in its usual place.
pub(crate) const SOCKET_VARIABLE: &str = "FABRICA_GATEWAY_SOCKET";

/// The environment lacks something that nothing works without.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum EnvironmentError {
    /// A variable is not set, or is empty.
    #[error("the variable {0} is not set")]
    Missing(&'static str),
    /// A variable is not text.
    #[error("the variable {0} is not valid UTF-8")]
    NotText(&'static str),
}

impl EnvironmentError {
    /// Stable code of this error.
    pub const fn code(&self) -> &'static str {
        "runner.environment"
    }
}

/// A token; it does not show itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The value of an `Authorization` header.
    pub(crate) fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// The token itself.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Token {
    fn from(token: &str) -> Self {
        Self(token.to_owned())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// What the container tells the runner.
#[derive(Debug, Clone)]
pub struct Environment {
    /// For `/session/…` and for pushing.
    pub runner_token: Token,
    /// For `/model/…`, for fetching and for signatures.
    pub agent_token: Token,
    /// The gateway's socket.
    pub socket: PathBuf,
    /// The volume.
    pub workspace: PathBuf,
    /// Where the forwarder listens.
    pub forwarder: String,
    /// The home directory.
    pub home: PathBuf,
    /// Where programs are looked for.
    pub path: OsString,
    /// What else the image sets and the agent may have, such as `JAVA_HOME`.
    pub inherited: Vec<(OsString, OsString)>,
}

impl Environment {
    /// Reads the process's own environment.
    ///
    /// # Errors
    ///
    /// [`EnvironmentError`] if a token is missing.
    pub fn read() -> Result<Self, EnvironmentError> {
        Self::from_variables(std::env::vars_os())
    }

    /// Reads the environment from variables.
    ///
    /// # Errors
    ///
    /// [`EnvironmentError`] if a token is missing.
    pub fn from_variables(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, EnvironmentError> {
        let variables: Vec<_> = variables.into_iter().collect();
        let get = |name: &str| {
            variables
                .iter()
                .find(|(key, _)| key == name)
                .map(|(_, value)| value.clone())
                .filter(|v| !v.is_empty())
        };
        let token = |name: &'static str| -> Result<Token, EnvironmentError> {
            let value = get(name).ok_or(EnvironmentError::Missing(name))?;
            value
                .to_str()
                .map(Token::from)
                .ok_or(EnvironmentError::NotText(name))
        };
        Ok(Self {
            runner_token: token(RUNNER_TOKEN_VARIABLE)?,
            agent_token: token(AGENT_TOKEN_VARIABLE)?,
            socket: get(SOCKET_VARIABLE).map_or_else(
                || Path::new(GATEWAY_DIRECTORY).join(GATEWAY_SOCKET),
                PathBuf::from,
            ),
            workspace: get("FABRICA_WORKSPACE")
                .unwrap_or_else(|| WORKSPACE.into())
                .into(),
            forwarder: match get("FABRICA_FORWARDER") {
                Some(address) => address
                    .into_string()
                    .map_err(|_| EnvironmentError::NotText("FABRICA_FORWARDER"))?,
                None => FORWARDER_ADDRESS.to_owned(),
            },
            home: get("HOME").unwrap_or_else(|| "/tmp".into()).into(),
            path: get("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into()),
            inherited: variables
                .into_iter()
                .filter(|(name, _)| may_be_inherited(&name.to_string_lossy()))
                .collect(),
        })
    }

    /// The clone.
    pub(crate) fn repository(&self) -> PathBuf {
        self.workspace.join("repository")
    }

    /// The runner's own directory beside the clone. The agent can write to it: nothing there is trusted.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.workspace.join(".fabrica")
    }

    /// Where the agent keeps its settings and its transcript.
    pub(crate) fn agent_config(&self) -> PathBuf {
        self.home.join(".claude")
    }
}

/// Images say in variables where their tools are (`JAVA_HOME`, `CARGO_HOME`); without them the tools do not work.
/// What could be a secret, or could redirect the agent, git, the loader or the network, stays out.
fn may_be_inherited(name: &str) -> bool {
    const REPLACED: [&str; 6] = ["HOME", "PATH", "LANG", "PWD", "OLDPWD", "SHLVL"];
    const PREFIXES: [&str; 8] = [
        "FABRICA_",
        "ANTHROPIC_",
        "CLAUDE",
        "GIT_",
        "LD_",
        "SSH_",
        "AWS_",
        "DBUS_",
    ];
    const PARTS: [&str; 6] = ["TOKEN", "SECRET", "PASSWORD", "CREDENTIAL", "PROXY", "_KEY"];
    let name = name.to_ascii_uppercase();
    !REPLACED.contains(&name.as_str())
        && !PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        && !PARTS.iter().any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs
            .iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect()
    }

    #[test]
    fn the_defaults_are_those_of_the_protocol_and_tokens_do_not_show() {
        let tokens = [
            ("FABRICA_RUNNER_TOKEN", "frt_1"),
            ("FABRICA_AGENT_TOKEN", "fat_2"),
        ];
        let environment = Environment::from_variables(variables(&tokens)).unwrap();
        assert_eq!(environment.socket, Path::new("/run/fabrica/gateway.sock"));
        assert_eq!(environment.forwarder, "127.0.0.1:4180");
        assert_eq!(environment.repository(), Path::new("/workspace/repository"));
        let shown = format!("{environment:?}");
        assert!(!shown.contains("frt_1") && !shown.contains("fat_2"), "{shown}");
    }

    #[test]
    fn an_image_may_name_its_tools_but_nothing_secret_or_redirecting_is_handed_on() {
        for name in [
            "JAVA_HOME",
            "CARGO_HOME",
            "RUSTUP_HOME",
            "GOPATH",
            "DEBIAN_FRONTEND",
            "NODE_VERSION",
        ] {
            assert!(may_be_inherited(name), "{name}");
        }
        for name in [
            "FABRICA_RUNNER_TOKEN",
            "FABRICA_AGENT_TOKEN",
            "ANTHROPIC_API_KEY",
            "ANTHROPIC_BASE_URL",
            "https_proxy",
            "HTTP_PROXY",
            "GIT_SSH_COMMAND",
            "LD_PRELOAD",
            "DATABASE_PASSWORD",
            "GITHUB_TOKEN",
            "HOME",
            "PATH",
        ] {
            assert!(!may_be_inherited(name), "{name}");
        }
    }

    #[test]
    fn an_empty_token_is_a_missing_one() {
        let result = Environment::from_variables(variables(&[("FABRICA_RUNNER_TOKEN", "")]));
        assert_eq!(
            result.unwrap_err(),
            EnvironmentError::Missing("FABRICA_RUNNER_TOKEN")
        );
    }
}
