//! What git has to be told so that it signs.

use std::ffi::OsString;
use std::path::Path;

use fabrica_core::failure::Failure;
use fabrica_core::protocol::Job;
use tokio::process::Command;

use super::program::variables;
use crate::environment::Environment;
use crate::repository::{Git, args};

/// The first git that signs with keys of SSH.
const FIRST: (u32, u32) = (2, 34);

/// How git signs.
#[derive(Debug, Clone)]
pub(crate) struct Signing {
    settings: [(&'static str, OsString); 4],
    variables: [(&'static str, OsString); 2],
}

impl Signing {
    /// Finds out how the image's git signs; nothing if the job wants no signatures.
    ///
    /// # Errors
    ///
    /// `signing.git_too_old`: unsigned commits would not be what the operator wants.
    pub(crate) async fn find(
        git: &Git,
        environment: &Environment,
        job: &Job,
    ) -> Result<Option<Self>, Failure> {
        let Some(key) = &job.signing_key else {
            return Ok(None);
        };
        let version = git.answer(args!(git.command(Path::new("/")), "version")).await?;
        if !signs(&version) {
            return Err(Failure::new(
                "signing.git_too_old",
                format!("commits are to be signed, and the image's git cannot do that: {version}"),
                "Use an image with git 2.34 or newer, or take --signing-key-file away from Fabrica.",
            ));
        }
        let program = std::env::current_exe().map_err(|error| {
            Failure::new(
                "sandbox.process",
                format!("the runner's own program cannot be found: {error}"),
                "The sandbox needs /proc; run the session again.",
            )
        })?;
        Ok(Some(Self {
            settings: [
                ("gpg.format", "ssh".into()),
                ("gpg.ssh.program", program.into()),
                // Without `key::` before it, which 2.34 does not know yet.
                ("user.signingKey", key.into()),
                ("commit.gpgSign", "true".into()),
            ],
            variables: variables(environment),
        }))
    }

    /// Lets one git sign, whatever the clone says.
    pub(crate) fn demand(&self, command: &mut Command) {
        for (key, value) in &self.settings {
            let mut setting = OsString::from(key);
            setting.push("=");
            setting.push(value);
            command.arg("-c").arg(setting);
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
    }

    /// Lets the agent's gits in its clone sign. It is told to the clone, not to all gits of the agent: what a test does in
    /// a repository of its own, by a committer of its own, must work as it does elsewhere.
    pub(crate) async fn configure(git: &Git, repository: &Path) -> Result<(), Failure> {
        let settings = git.signing().into_iter().flat_map(|signing| &signing.settings);
        for (key, value) in settings {
            let command = args!(git.inside(repository), "config", "--local", key, value);
            git.answer(command).await?;
        }
        Ok(())
    }
}

/// Whether a git of that version signs with keys of SSH. One that says its version in an unknown way is taken for new.
fn signs(version: &str) -> bool {
    let numbers = version.strip_prefix("git version ").unwrap_or(version);
    let mut numbers = numbers.split('.').map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= FIRST,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_git_that_is_too_old_is_known_by_its_version() {
        for old in ["git version 2.30.2", "git version 1.8.3.1", "git version 2.33.0"] {
            assert!(!signs(old), "{old}");
        }
        for new in [
            "git version 2.34.1",
            "git version 2.47.3",
            "git version 3.0.0",
            "git version 2.39.5 (Apple Git-154)",
            "something",
        ] {
            assert!(signs(new), "{new}");
        }
    }
}
