//! What the options and the environment come to.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use fabrica_core::orchestrator::{Options, SandboxOptions};
use fabrica_core::plan::RepositoryPolicy;
use fabrica_core::ports::runtime::ResourceLimits;
use fabrica_core::ports::store::{ClaimLimits, Deadline, Retention};
use fabrica_core::pricing::PriceList;
use fabrica_gateway::{ModelCredential, ModelUpstream, SigningKey};
use secrecy::{ExposeSecret as _, SecretString};
use url::Host;

use super::args::{
    AssemblyArgs, DatabaseArgs, ForgeArgs, ModelArgs, RepositoryArgs, RuntimeName, SandboxArgs, WorkerArgs,
};
use super::directories::Directories;
use super::error::AssemblyError;
use super::forge_option::ForgeOption;
use super::secrets::{self, Environment};

/// Who assembles: a person on their own machine may do more than those who reach a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The command line: repositories in local directories are accepted.
    Cli,
    /// The service: they are not, since they would be read with the service's rights.
    Server,
}

/// A forge with its token.
#[derive(Debug, Clone)]
pub struct ForgeSettings {
    /// Kind, host, API.
    pub forge: ForgeOption,
    /// The token; without one only public repositories can be fetched, and nothing be published.
    pub token: Option<SecretString>,
}

/// Everything that [`assemble`](super::assemble) needs, checked and complete.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The database that was named; `None` is the embedded one.
    pub database: Option<SecretString>,
    /// Where files go.
    pub directories: Directories,
    /// The engine.
    pub runtime: RuntimeName,
    /// Where the model is, and how to show oneself there.
    pub model: ModelUpstream,
    /// The forges, github.com among them.
    pub forges: Vec<ForgeSettings>,
    /// Which repositories are accepted.
    pub repositories: RepositoryPolicy,
    /// Hosts of private networks that may keep files in Git LFS.
    pub large_file_hosts: BTreeSet<String>,
    /// Sandboxes, the runner.
    pub sandbox: SandboxArgs,
    /// What models cost.
    pub prices: Arc<PriceList>,
    /// What commits are signed with, if they are.
    pub signing_key: Option<SigningKey>,
    /// The queue, leases, retention.
    pub worker: WorkerArgs,
}

impl Settings {
    /// Reads the files that the options name, and puts the environment's secrets to them.
    ///
    /// # Errors
    ///
    /// [`AssemblyError::Setting`], [`AssemblyError::Directory`], [`AssemblyError::SigningKey`].
    pub fn resolve(
        args: &AssemblyArgs,
        environment: &Environment,
        role: Role,
    ) -> Result<Self, AssemblyError> {
        Ok(Self {
            database: database(&args.database),
            directories: Directories::resolve(&args.data, environment),
            runtime: args.runtime.runtime,
            model: model(&args.model, environment)?,
            forges: forges(&args.forge, environment)?,
            repositories: repository_policy(&args.repositories, role),
            large_file_hosts: large_file_hosts(&args.repositories)?,
            sandbox: args.sandbox.clone(),
            prices: prices(args.worker.prices.as_deref())?,
            signing_key: signing_key(&args.worker)?,
            worker: args.worker.clone(),
        })
    }

    /// Whether there is a credential for the model.
    pub const fn has_model_credential(&self) -> bool {
        !matches!(self.model.credential, ModelCredential::None)
    }

    /// The orchestrator's options but for what only the running machine tells.
    pub(super) fn apply(&self, options: &mut Options) {
        let SandboxOptions {
            wall,
            limits,
            image,
            allow_unenforced_limits,
            ..
        } = &mut options.sandbox;
        *wall = self.sandbox.wall;
        *limits = ResourceLimits {
            memory: Some(self.sandbox.memory.as_u64()),
            cpus: Some(self.sandbox.cpus),
            ..*limits
        };
        image.clone_from(&self.sandbox.image);
        *allow_unenforced_limits = self.sandbox.allow_unenforced_limits;
        let worker = &self.worker;
        options.concurrency = usize::from(worker.concurrency);
        options.limits = ClaimLimits {
            global: worker.max_running,
            per_repository: worker.max_running_per_repository,
            per_submitter: worker.max_running_per_submitter,
        };
        options.start_interval = worker.start_interval;
        options.lease = worker.lease;
        options.poll = worker.poll;
        options.reconcile = worker.reconcile;
        options.stall_after = worker.stall_after;
        options.checkpoint = (!worker.checkpoint.is_zero()).then_some(worker.checkpoint);
        options.question_deadline = worker.question_deadline.map(|after| Deadline {
            after,
            then: worker.on_question_deadline.into(),
        });
        options.keep_failed = worker.keep_failed;
        options.retention = Retention {
            sessions: worker.keep_sessions,
            transcripts: worker.keep_transcripts,
            artifacts: worker.keep_artifacts,
        };
        options.prices.clone_from(&self.prices);
        options.committer.clone_from(&worker.committer);
        options.signing_key = self.signing_key.as_ref().map(SigningKey::public_key);
        options.public_url = worker.public_url.as_ref().map(ToString::to_string);
        options.repositories.clone_from(&self.repositories);
    }
}

/// The operator's prices before those that are built in.
fn prices(file: Option<&Path>) -> Result<Arc<PriceList>, AssemblyError> {
    let builtin = PriceList::builtin();
    let Some(file) = file else {
        return Ok(Arc::new(builtin));
    };
    let refused = |reason: String| AssemblyError::Setting {
        option: "--prices",
        reason: format!("{}: {reason}", file.display()),
    };
    let text = std::fs::read_to_string(file).map_err(|error| refused(error.to_string()))?;
    let list = PriceList::parse(&text).map_err(|error| refused(error.to_string()))?;
    Ok(Arc::new(builtin.with(list)))
}

/// The key in the file that was named; an empty value, as a compose file may pass it, is none.
///
/// # Errors
///
/// [`AssemblyError::SigningKey`].
pub fn signing_key(args: &WorkerArgs) -> Result<Option<SigningKey>, AssemblyError> {
    let file = (args.signing_key_file.as_deref()).filter(|file| !file.as_os_str().is_empty());
    Ok(file.map(SigningKey::read).transpose()?)
}

/// The database that was named; an empty value, as a compose file may pass it, is none.
pub(super) fn database(args: &DatabaseArgs) -> Option<SecretString> {
    args.database
        .clone()
        .filter(|database| !database.expose_secret().trim().is_empty())
}

fn model(args: &ModelArgs, environment: &Environment) -> Result<ModelUpstream, AssemblyError> {
    let refused = |reason: &str| AssemblyError::Setting {
        option: "--model-url",
        reason: reason.into(),
    };
    if !matches!(args.model_url.scheme(), "https" | "http") || !args.model_url.has_host() {
        return Err(refused("expected an address that begins with https://"));
    }
    if !args.model_url.username().is_empty() || args.model_url.password().is_some() {
        return Err(refused(
            "the address holds credentials: use ANTHROPIC_API_KEY or --model-key-file",
        ));
    }
    let credential = if let Some(path) = &args.model_key_file {
        ModelCredential::ApiKey(secrets::from_file("--model-key-file", path)?)
    } else if let Some(key) = environment.secret(secrets::MODEL_API_KEY) {
        ModelCredential::ApiKey(key)
    } else if let Some(token) = environment.secret(secrets::MODEL_AUTH_TOKEN) {
        ModelCredential::Bearer(token)
    } else {
        ModelCredential::None
    };
    Ok(ModelUpstream {
        base_url: args.model_url.clone(),
        credential,
    })
}

/// github.com unless it was named otherwise, and those that were named, each with its own token: no token ever goes to
/// a host that it was not given for.
fn forges(args: &ForgeArgs, environment: &Environment) -> Result<Vec<ForgeSettings>, AssemblyError> {
    let setting = |reason: String| AssemblyError::Setting {
        option: "--forge",
        reason,
    };
    let mut options = args.forge.clone();
    let mut hosts = BTreeSet::new();
    if let Some(twice) = options.iter().find(|option| !hosts.insert(option.host.clone())) {
        return Err(setting(format!("{} is named twice", twice.host)));
    }
    // `FABRICA_FORGE_TOKEN` is for the one forge that was named; if none was, for github.com.
    let only = match options.as_slice() {
        [] => Some("github.com".to_owned()),
        [one] => Some(one.host.clone()),
        _ => None,
    };
    if !hosts.contains("github.com") {
        options.push(ForgeOption::github_com().map_err(setting)?);
    }
    if let Some((host, _)) = args
        .forge_token_file
        .iter()
        .find(|(host, _)| !options.iter().any(|option| option.host == *host))
    {
        let reason = format!("{host} is not a forge that was named with --forge");
        return Err(AssemblyError::Setting {
            option: "--forge-token-file",
            reason,
        });
    }
    options
        .into_iter()
        .map(|forge| {
            let file = args.forge_token_file.iter().find(|(host, _)| *host == forge.host);
            let token = match file {
                Some((_, path)) => Some(secrets::from_file("--forge-token-file", path)?),
                None => environment
                    .secret(&secrets::host_token_variable(&forge.host))
                    .or_else(|| {
                        let general = only.as_deref() == Some(forge.host.as_str());
                        general
                            .then(|| environment.secret(secrets::FORGE_TOKEN))
                            .flatten()
                    })
                    .or_else(|| {
                        (forge.host == "github.com")
                            .then(|| environment.secret(secrets::GITHUB_TOKEN))
                            .flatten()
                    }),
            };
            Ok(ForgeSettings { forge, token })
        })
        .collect()
}

/// Which repositories are accepted.
pub fn repository_policy(args: &RepositoryArgs, role: Role) -> RepositoryPolicy {
    let named = |hosts: &[String]| -> Vec<String> {
        hosts
            .iter()
            .map(|host| host.trim().to_ascii_lowercase())
            .filter(|host| !host.is_empty())
            .collect()
    };
    let hosts = named(&args.repository_host);
    RepositoryPolicy {
        local_paths: role == Role::Cli,
        hosts: (!hosts.is_empty()).then_some(hosts),
        plain_http: named(&args.plain_http_host),
    }
}

/// As addresses name them: in lower case, IPv6 in brackets.
fn large_file_hosts(args: &RepositoryArgs) -> Result<BTreeSet<String>, AssemblyError> {
    let named = args.lfs_host.iter().map(|host| host.trim());
    named
        .filter(|host| !host.is_empty())
        .map(|host| match Host::parse(host) {
            Ok(parsed) => Ok(parsed.to_string()),
            Err(error) => Err(AssemblyError::Setting {
                option: "--lfs-host",
                reason: format!("{host:?} is not a host ({error}): expected a name or an address, without a port, IPv6 in brackets"),
            }),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, FromArgMatches as _};

    use super::*;

    fn parse(arguments: &[&str]) -> AssemblyArgs {
        let command = AssemblyArgs::augment_args(clap::Command::new("test").no_binary_name(true));
        // The environment of whoever runs the tests must not decide them.
        let command = command.mut_args(|argument| argument.env(None::<&'static str>));
        AssemblyArgs::from_arg_matches(&command.get_matches_from(arguments)).unwrap()
    }

    fn resolve<const N: usize>(arguments: &[&str], environment: [(&str, &str); N]) -> Settings {
        Settings::resolve(&parse(arguments), &Environment::from(environment), Role::Cli).unwrap()
    }

    /// Hosts with their tokens, `-` for none.
    fn tokens(settings: &Settings) -> String {
        let token = |forge: &ForgeSettings| {
            forge
                .token
                .as_ref()
                .map_or("-", |token| token.expose_secret())
                .to_owned()
        };
        let each: Vec<String> = settings
            .forges
            .iter()
            .map(|forge| format!("{}={}", forge.forge.host, token(forge)))
            .collect();
        each.join(" ")
    }

    #[test]
    fn without_options_github_gets_the_general_token() {
        let settings = resolve(
            &[],
            [("FABRICA_FORGE_TOKEN", "general"), ("GITHUB_TOKEN", "github")],
        );
        assert_eq!(tokens(&settings), "github.com=general");
        assert_eq!(
            tokens(&resolve(&[], [("GITHUB_TOKEN", "github")])),
            "github.com=github"
        );
    }

    #[test]
    fn a_token_goes_to_its_own_host_only() {
        let one = ["--forge", "gitea=git.example.com"];
        let settings = resolve(
            &one,
            [("FABRICA_FORGE_TOKEN", "general"), ("GITHUB_TOKEN", "github")],
        );
        assert_eq!(tokens(&settings), "git.example.com=general github.com=github");
        let two = [
            "--forge",
            "gitea=a.example.com",
            "--forge",
            "github=b.example.com",
        ];
        let settings = resolve(
            &two,
            [
                ("FABRICA_FORGE_TOKEN", "general"),
                ("FABRICA_FORGE_TOKEN_B_EXAMPLE_COM", "b"),
            ],
        );
        assert_eq!(tokens(&settings), "a.example.com=- b.example.com=b github.com=-");
    }

    #[test]
    fn the_models_key_goes_before_its_token_and_files_before_both() {
        use ModelCredential::{ApiKey, Bearer, None as Nothing};
        let both = [("ANTHROPIC_API_KEY", "key"), ("ANTHROPIC_AUTH_TOKEN", "token")];
        assert!(matches!(resolve(&[], both).model.credential, ApiKey(_)));
        assert!(matches!(
            resolve(&[], [("ANTHROPIC_AUTH_TOKEN", "token")]).model.credential,
            Bearer(_)
        ));
        assert!(matches!(
            resolve(&[], [("ANTHROPIC_API_KEY", "")]).model.credential,
            Nothing
        ));
    }

    #[test]
    fn what_cannot_be_used_names_its_option() {
        let refused = |arguments: &[&str]| {
            Settings::resolve(&parse(arguments), &Environment::default(), Role::Cli)
                .unwrap_err()
                .to_string()
        };
        insta::assert_snapshot!(
            [
                refused(&["--model-url", "ftp://x"]),
                refused(&["--model-url", "https://user:canary@x/"]),
                refused(&["--forge", "gitea=x", "--forge", "github=x"]),
                refused(&["--forge-token-file", "x=/dev/null"]),
                refused(&["--lfs-host", "storage:9000"]),
            ]
            .join("\n")
        );
    }

    #[test]
    fn hosts_of_large_files_are_compared_as_addresses_name_them() {
        let settings = resolve(&["--lfs-host", "Storage.Internal,10.0.0.9, [FD00::1],"], []);
        let hosts: Vec<&str> = settings.large_file_hosts.iter().map(String::as_str).collect();
        assert_eq!(hosts, ["10.0.0.9", "[fd00::1]", "storage.internal"]);
    }

    #[test]
    fn only_the_command_line_takes_local_repositories() {
        let settings = |role| Settings::resolve(&parse(&[]), &Environment::default(), role).unwrap();
        assert!(settings(Role::Cli).repositories.local_paths);
        assert!(!settings(Role::Server).repositories.local_paths);
        assert_eq!(settings(Role::Server).repositories.hosts, None);
    }
}
