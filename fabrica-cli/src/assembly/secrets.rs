//! Secrets: read once from the environment or from files, never from a command line, never handed to children.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use secrecy::SecretString;

use super::error::AssemblyError;

/// The API key of the model's provider, sent as `x-api-key`.
pub const MODEL_API_KEY: &str = "ANTHROPIC_API_KEY";
/// A bearer token for the model's API; the key goes before it.
pub const MODEL_AUTH_TOKEN: &str = "ANTHROPIC_AUTH_TOKEN";
/// The token of github.com, as many tools name it.
pub const GITHUB_TOKEN: &str = "GITHUB_TOKEN";
/// The token of the one forge that is configured; with `_` and a host's name in capitals, the token of that host.
pub const FORGE_TOKEN: &str = "FABRICA_FORGE_TOKEN";
/// The database, with its password.
pub const DATABASE_URL: &str = "DATABASE_URL";
/// The server's own bearer token.
pub const API_TOKEN: &str = "FABRICA_API_TOKEN";

const NAMES: [&str; 6] = [
    MODEL_API_KEY,
    MODEL_AUTH_TOKEN,
    GITHUB_TOKEN,
    FORGE_TOKEN,
    DATABASE_URL,
    API_TOKEN,
];

/// Whether an environment variable carries a secret of Fabrica's.
pub fn is_secret(name: &str) -> bool {
    NAMES.contains(&name) || name.starts_with("FABRICA_FORGE_TOKEN_")
}

/// The environment, read once: what the settings are made of.
///
/// ```
/// use fabrica_cli::assembly::Environment;
///
/// let environment = Environment::from([("FABRICA_FORGE_TOKEN", ""), ("GITHUB_TOKEN", "abc")]);
/// assert!(environment.secret("FABRICA_FORGE_TOKEN").is_none(), "empty is unset");
/// assert!(environment.secret("GITHUB_TOKEN").is_some());
/// ```
#[derive(Debug, Clone, Default)]
pub struct Environment {
    secrets: BTreeMap<String, SecretString>,
    others: BTreeMap<String, String>,
}

impl Environment {
    /// The environment of this process.
    pub fn of_process() -> Self {
        Self::collect(std::env::vars_os().filter_map(|(name, value)| {
            let name = name.into_string().ok()?;
            Some((name, value.into_string().ok()?))
        }))
    }

    fn collect(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut environment = Self::default();
        for (name, value) in variables.into_iter().filter(|(_, value)| !value.is_empty()) {
            if is_secret(&name) {
                environment.secrets.insert(name, value.trim().to_owned().into());
            } else {
                environment.others.insert(name, value);
            }
        }
        environment
    }

    /// A secret; `None` if the variable is unset or empty.
    pub fn secret(&self, name: &str) -> Option<SecretString> {
        self.secrets.get(name).cloned()
    }

    /// Another variable; `None` if it is unset or empty.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.others.get(name).map(String::as_str)
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Environment {
    fn from(variables: [(&str, &str); N]) -> Self {
        Self::collect(variables.map(|(name, value)| (name.to_owned(), value.to_owned())))
    }
}

/// A child process that sees none of the secrets.
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(is_secret) {
            command.env_remove(name);
        }
    }
    command
}

/// The first line of a file, for example of a mounted secret.
pub(super) fn from_file(option: &'static str, path: &Path) -> Result<SecretString, AssemblyError> {
    let text = fs::read_to_string(path).map_err(|source| AssemblyError::Setting {
        option,
        reason: format!("{} cannot be read: {source}", path.display()),
    })?;
    match text.lines().map(str::trim).find(|line| !line.is_empty()) {
        Some(line) => Ok(line.to_owned().into()),
        None => Err(AssemblyError::Setting {
            option,
            reason: format!("{} is empty", path.display()),
        }),
    }
}

/// The variable with the token of one host: `FABRICA_FORGE_TOKEN_GIT_EXAMPLE_COM`.
pub fn host_token_variable(host: &str) -> String {
    let host = host
        .to_ascii_uppercase()
        .replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    format!("{FORGE_TOKEN}_{host}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_shows_in_debug_output() {
        let environment = Environment::from([
            ("ANTHROPIC_API_KEY", "canary-key"),
            ("FABRICA_FORGE_TOKEN_GIT_EXAMPLE_COM", "canary-token"),
            ("DATABASE_URL", "postgres://u:canary@h/d"),
        ]);
        assert!(!format!("{environment:?}").contains("canary"));
        assert!(
            environment
                .secret(&host_token_variable("git.example.com"))
                .is_some()
        );
    }

    #[test]
    fn a_file_that_cannot_be_read_is_told_with_its_option() {
        let error = from_file("--model-key-file", Path::new("/nowhere/key")).unwrap_err();
        let told = error.to_string();
        assert_eq!(error.code(), "settings.invalid");
        assert!(
            told.contains("--model-key-file") && told.contains("/nowhere/key"),
            "{told}"
        );
    }

    #[tokio::test]
    async fn children_do_not_inherit_secrets() {
        let output = command("env").output().await.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success());
        assert!(
            text.lines()
                .all(|line| !is_secret(line.split('=').next().unwrap_or_default())),
            "{text}"
        );
    }

    #[test]
    fn a_secret_file_gives_its_first_line() {
        use secrecy::ExposeSecret as _;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        fs::write(&path, "  the key \n").unwrap();
        assert_eq!(
            from_file("--model-key-file", &path).unwrap().expose_secret(),
            "the key"
        );
        fs::write(&path, "\n").unwrap();
        assert_eq!(
            from_file("--model-key-file", &path).unwrap_err().code(),
            "settings.invalid"
        );
    }
}
