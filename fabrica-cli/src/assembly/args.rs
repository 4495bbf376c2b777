//! The options that the binaries share, in groups to flatten into a command.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, ValueEnum};
use fabrica_core::ports::store::OnDeadline;
use fabrica_core::protocol::Identity;
use secrecy::SecretString;
use url::Url;

use super::forge_option::ForgeOption;

/// The image of plans that name none.
pub const DEFAULT_IMAGE: &str = "fabrica/agent:latest";
/// Where the model's API is, unless told otherwise.
pub const DEFAULT_MODEL_URL: &str = "https://api.anthropic.com";

/// Everything that [`assemble`](super::assemble) needs to know.
#[derive(Debug, Clone, Args)]
pub struct AssemblyArgs {
    /// The database.
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// Where files go.
    #[command(flatten)]
    pub data: DataArgs,
    /// The container engine.
    #[command(flatten)]
    pub runtime: RuntimeArgs,
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The forges.
    #[command(flatten)]
    pub forge: ForgeArgs,
    /// Which repositories are accepted.
    #[command(flatten)]
    pub repositories: RepositoryArgs,
    /// What sandboxes are like.
    #[command(flatten)]
    pub sandbox: SandboxArgs,
    /// How the worker works.
    #[command(flatten)]
    pub worker: WorkerArgs,
}

/// Where sessions are kept.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Storage")]
pub struct DatabaseArgs {
    /// PostgreSQL URL, `sqlite:PATH` or a path; the default is a SQLite file in the data directory. A password belongs
    /// into the environment variable
    #[arg(long, value_name = "URL", env = "DATABASE_URL", hide_env_values = true, value_parser = secret)]
    pub database: Option<SecretString>,
}

/// Where files go.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Storage")]
pub struct DataArgs {
    /// Directory for the embedded database, downloads and the runner [default: the user's data directory]
    #[arg(long, value_name = "PATH", env = "FABRICA_DATA_DIRECTORY")]
    pub data_directory: Option<PathBuf>,
    /// Directory for the sandboxes' sockets; its path must be short [default: the user's runtime directory]
    #[arg(
        long,
        value_name = "PATH",
        env = "FABRICA_SOCKET_DIRECTORY",
        hide_short_help = true
    )]
    pub socket_directory: Option<PathBuf>,
}

/// The container engine.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Sandboxes")]
pub struct RuntimeArgs {
    /// Container engine; `auto` takes what answers first
    #[arg(
        long,
        value_name = "ENGINE",
        env = "FABRICA_RUNTIME",
        value_enum,
        default_value_t
    )]
    pub runtime: RuntimeName,
}

/// A container engine by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum RuntimeName {
    /// Whatever answers first: `DOCKER_HOST`, the Docker socket, the user's Podman socket, the `podman` program.
    #[default]
    Auto,
    /// Docker.
    Docker,
    /// Podman.
    Podman,
}

/// The model. Its key comes from `ANTHROPIC_API_KEY` or `ANTHROPIC_AUTH_TOKEN`, or from a file.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// Address of the model's API
    #[arg(long, value_name = "URL", env = "FABRICA_MODEL_URL", default_value = DEFAULT_MODEL_URL)]
    pub model_url: Url,
    /// File with the model's API key, instead of `ANTHROPIC_API_KEY` (or `ANTHROPIC_AUTH_TOKEN`)
    #[arg(long, value_name = "PATH", env = "FABRICA_MODEL_KEY_FILE")]
    pub model_key_file: Option<PathBuf>,
}

/// The forges. Tokens come from `GITHUB_TOKEN` (github.com), `FABRICA_FORGE_TOKEN` (the one forge that is configured),
/// `FABRICA_FORGE_TOKEN_<HOST>` or files.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Forges and repositories")]
pub struct ForgeArgs {
    /// A forge beside github.com: `github=HOST[,API-URL]`, `gitea=HOST[,API-URL]` (also Forgejo); repeatable
    #[arg(long, value_name = "KIND=HOST", env = "FABRICA_FORGES", value_delimiter = ' ')]
    pub forge: Vec<ForgeOption>,
    /// File with the token of a host; repeatable. Instead of `GITHUB_TOKEN`, `FABRICA_FORGE_TOKEN` (the one forge that is
    /// configured) and `FABRICA_FORGE_TOKEN_<HOST>`
    #[arg(long, value_name = "HOST=PATH", env = "FABRICA_FORGE_TOKEN_FILES", value_delimiter = ' ', value_parser = host_and_path)]
    pub forge_token_file: Vec<(String, PathBuf)>,
}

/// Which repositories are accepted.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Forges and repositories")]
pub struct RepositoryArgs {
    /// Accept repositories on this host only; repeatable
    #[arg(
        long,
        value_name = "HOST",
        env = "FABRICA_REPOSITORY_HOSTS",
        value_delimiter = ','
    )]
    pub repository_host: Vec<String>,
    /// Accept unencrypted HTTP for this host; repeatable
    #[arg(
        long,
        value_name = "HOST[:PORT]",
        env = "FABRICA_PLAIN_HTTP_HOSTS",
        value_delimiter = ','
    )]
    pub plain_http_host: Vec<String>,
    /// A host of a private network where a code host may keep files in Git LFS, without a port; repeatable. The code hosts
    /// themselves, and hosts that the internet reaches, need not be named
    #[arg(
        long,
        value_name = "HOST",
        env = "FABRICA_LFS_HOSTS",
        value_delimiter = ',',
        hide_short_help = true
    )]
    pub lfs_host: Vec<String>,
}

/// What sandboxes are like.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Sandboxes")]
pub struct SandboxArgs {
    /// Image of plans that name none
    #[arg(long, value_name = "IMAGE", env = "FABRICA_IMAGE", default_value = DEFAULT_IMAGE)]
    pub image: String,
    /// Memory of a sandbox whose plan does not say
    #[arg(long, value_name = "SIZE", env = "FABRICA_MEMORY", default_value = "4GiB")]
    pub memory: ByteSize,
    /// Processors of a sandbox whose plan does not say
    #[arg(long, value_name = "NUMBER", env = "FABRICA_CPUS", default_value = "2", value_parser = cpus)]
    pub cpus: f64,
    /// Wall time of an attempt whose plan does not say
    #[arg(long, value_name = "DURATION", env = "FABRICA_WALL", default_value = "1h", value_parser = wall)]
    pub wall: Duration,
    /// Accept an engine that does not enforce the limits
    #[arg(long, env = "FABRICA_ALLOW_UNENFORCED_LIMITS", value_parser = clap::builder::FalseyValueParser::new())]
    pub allow_unenforced_limits: bool,
    /// The runner's static binary [default: fabrica-runner beside this program, or from a checkout's target directory]
    #[arg(long, value_name = "PATH", env = "FABRICA_RUNNER")]
    pub runner: Option<PathBuf>,
    /// A Claude Code binary to mount into sandboxes, for images that have none
    #[arg(long, value_name = "PATH", env = "FABRICA_CLAUDE")]
    pub claude: Option<PathBuf>,
}

/// How the worker works.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Queue")]
pub struct WorkerArgs {
    /// How many sessions this process starts to run at once
    #[arg(long, value_name = "NUMBER", env = "FABRICA_CONCURRENCY", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub concurrency: u16,
    /// How many sessions may run at once over all processes on the database [default: no limit]
    #[arg(long, value_name = "NUMBER", env = "FABRICA_MAX_RUNNING", hide_short_help = true, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_running: Option<u32>,
    /// How many of them with the same repository [default: no limit]
    #[arg(long, value_name = "NUMBER", env = "FABRICA_MAX_RUNNING_PER_REPOSITORY", hide_short_help = true, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_running_per_repository: Option<u32>,
    /// How many of them of the same submitter [default: no limit]
    #[arg(long, value_name = "NUMBER", env = "FABRICA_MAX_RUNNING_PER_SUBMITTER", hide_short_help = true, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_running_per_submitter: Option<u32>,
    /// The least time between the starts of two sandboxes
    #[arg(long, value_name = "DURATION", env = "FABRICA_START_INTERVAL", default_value = "100ms", hide_short_help = true, value_parser = humantime::parse_duration)]
    pub start_interval: Duration,
    /// How long a process that does not answer keeps its sessions before another one takes over
    #[arg(long, value_name = "DURATION", env = "FABRICA_LEASE", default_value = "15s", hide_short_help = true, value_parser = a_second)]
    pub lease: Duration,
    /// How often the queue is looked at although nothing was heard of it
    #[arg(long, value_name = "DURATION", env = "FABRICA_POLL", default_value = "5s", hide_short_help = true, value_parser = not_zero)]
    pub poll: Duration,
    /// How often the engine's containers are compared with the database
    #[arg(long, value_name = "DURATION", env = "FABRICA_RECONCILE", default_value = "5s", hide_short_help = true, value_parser = not_zero)]
    pub reconcile: Duration,
    /// How long an agent may say nothing before a message tells of it
    #[arg(long, value_name = "DURATION", env = "FABRICA_STALL_AFTER", default_value = "5m", hide_short_help = true, value_parser = not_zero)]
    pub stall_after: Duration,
    /// How often an agent's work is made safe outside of its sandbox, in a ref of its own on the git host; `0s` is only when
    /// it asks or is stopped
    #[arg(long, value_name = "DURATION", env = "FABRICA_CHECKPOINT", default_value = "5m", hide_short_help = true, value_parser = zero_or_a_second)]
    pub checkpoint: Duration,
    /// How long an agent's question waits for its answer, where the plan does not say [default: for ever]
    #[arg(long, value_name = "DURATION", env = "FABRICA_QUESTION_DEADLINE", hide_short_help = true, value_parser = a_second)]
    pub question_deadline: Option<Duration>,
    /// What happens then, where the plan does not say
    #[arg(
        long,
        value_name = "WHAT",
        env = "FABRICA_ON_QUESTION_DEADLINE",
        default_value = "fail",
        hide_short_help = true
    )]
    pub on_question_deadline: OnQuestionDeadline,
    /// Who commits are by, where the agent does not say
    #[arg(long, value_name = "NAME <ADDRESS>", env = "FABRICA_COMMITTER", default_value = "Fabrica <fabrica@localhost>", hide_short_help = true, value_parser = identity)]
    pub committer: Identity,
    /// What their commits are signed with: an OpenSSH private key of the kind ed25519 without a passphrase, which only its
    /// owner may read. It never enters a sandbox [default: they are not signed]
    #[arg(
        long,
        value_name = "FILE",
        env = "FABRICA_SIGNING_KEY_FILE",
        hide_env_values = true,
        hide_short_help = true
    )]
    pub signing_key_file: Option<PathBuf>,
    /// What models cost, in the form of the list that is built in: its entries go before those; for `limits.cost_usd`
    #[arg(long, value_name = "FILE", env = "FABRICA_PRICES", hide_short_help = true)]
    pub prices: Option<PathBuf>,
    /// Where people reach this service, such as `https://fabrica.example.com`: pull requests link to their session there
    #[arg(long, value_name = "URL", env = "FABRICA_PUBLIC_URL", hide_short_help = true)]
    pub public_url: Option<Url>,
    /// How long containers of failed sessions are kept, stopped, for inspection
    #[arg(long, value_name = "DURATION", env = "FABRICA_KEEP_FAILED", default_value = "0s", hide_short_help = true, value_parser = humantime::parse_duration)]
    pub keep_failed: Duration,
    /// How long sessions are kept after their end [default: for ever]
    #[arg(long, value_name = "DURATION", env = "FABRICA_KEEP_SESSIONS", hide_short_help = true, value_parser = humantime::parse_duration)]
    pub keep_sessions: Option<Duration>,
    /// How long transcripts are kept after their session's end [default: as long as the session]
    #[arg(long, value_name = "DURATION", env = "FABRICA_KEEP_TRANSCRIPTS", hide_short_help = true, value_parser = humantime::parse_duration)]
    pub keep_transcripts: Option<Duration>,
    /// How long artifacts are kept after their session's end [default: as long as the session]
    #[arg(long, value_name = "DURATION", env = "FABRICA_KEEP_ARTIFACTS", hide_short_help = true, value_parser = humantime::parse_duration)]
    pub keep_artifacts: Option<Duration>,
}

/// What happens to a session whose question nobody answers in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnQuestionDeadline {
    /// It fails.
    Fail,
    /// The agent decides by itself.
    Proceed,
}

impl From<OnQuestionDeadline> for OnDeadline {
    fn from(what: OnQuestionDeadline) -> Self {
        match what {
            OnQuestionDeadline::Fail => Self::Fail,
            OnQuestionDeadline::Proceed => Self::Proceed,
        }
    }
}

/// Takes a text as a secret, so that it never shows in debug output.
///
/// # Errors
///
/// Never.
pub fn secret(text: &str) -> Result<SecretString, std::convert::Infallible> {
    Ok(text.to_owned().into())
}

fn cpus(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(cpus) if (0.1..=1_024.0).contains(&cpus) => Ok(cpus),
        _ => Err("expected a number from 0.1 to 1024".into()),
    }
}

fn identity(text: &str) -> Result<Identity, String> {
    let expected = || "expected a name and an address, such as `Fabrica <fabrica@example.com>`".to_owned();
    let (name, rest) = text.split_once('<').ok_or_else(expected)?;
    let (name, email) = (name.trim(), rest.strip_suffix('>').ok_or_else(expected)?.trim());
    let odd = |c: char| c.is_control() || matches!(c, '<' | '>');
    if name.is_empty() || email.is_empty() || name.contains(odd) || email.contains(odd) {
        return Err(expected());
    }
    Ok(Identity {
        name: name.to_owned(),
        email: email.to_owned(),
    })
}

fn a_second(text: &str) -> Result<Duration, String> {
    at_least(
        text,
        Duration::from_secs(1),
        "of at least a second, such as `15s`",
    )
}

fn zero_or_a_second(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration.is_zero() || duration >= Duration::from_secs(1) => Ok(duration),
        _ => Err("expected `0s`, or a duration of at least a second, such as `5m`".into()),
    }
}

fn not_zero(text: &str) -> Result<Duration, String> {
    at_least(text, Duration::from_millis(10), "of at least 10 ms, such as `5s`")
}

fn at_least(text: &str, least: Duration, expected: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration >= least => Ok(duration),
        _ => Err(format!("expected a duration {expected}")),
    }
}

fn wall(text: &str) -> Result<Duration, String> {
    at_least(
        text,
        Duration::from_secs(1),
        "of at least a second, such as `90m` or `1h 30m`",
    )
}

fn host_and_path(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((host, path)) if !host.is_empty() && !path.is_empty() => {
            Ok((host.to_ascii_lowercase(), PathBuf::from(path)))
        }
        _ => Err("expected HOST=PATH".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_a_name_and_an_address() {
        let read = identity("Fabrica <fabrica@example.com>").unwrap();
        assert_eq!(
            (read.name.as_str(), read.email.as_str()),
            ("Fabrica", "fabrica@example.com")
        );
        for wrong in [
            "",
            "Fabrica",
            "<a@b>",
            "Fabrica <>",
            "Fabrica <a",
            "Fab\nrica <a@b>",
            "A <b <c>>",
        ] {
            assert!(identity(wrong).is_err(), "{wrong:?}");
        }
    }
}
