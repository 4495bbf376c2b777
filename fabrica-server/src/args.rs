//! The options of the service.

use std::time::Duration;

use clap::{Parser, ValueEnum};
use fabrica_cli::assembly::AssemblyArgs;

/// The Fabrica service: takes plans over HTTP, and works on them.
///
/// Every route but /health wants the bearer token `FABRICA_API_TOKEN`. Without that variable the first start makes a
/// token and prints it once. The service speaks plain HTTP: let a proxy that speaks TLS stand in front before others
/// may reach it, and name its host with --public-host.
#[derive(Debug, Parser)]
#[command(name = "fabrica-server", version)]
pub(crate) struct Arguments {
    /// Address to listen on; port 0 takes a free one
    #[arg(
        long,
        value_name = "HOST:PORT",
        env = "FABRICA_LISTEN",
        default_value = "127.0.0.1:8080"
    )]
    pub(crate) listen: String,
    /// Host by which clients reach the service, beside the loopback names and the one that is listened on; repeatable
    #[arg(
        long,
        value_name = "HOST",
        env = "FABRICA_PUBLIC_HOSTS",
        value_delimiter = ','
    )]
    pub(crate) public_host: Vec<String>,
    /// How long running sessions may go on after SIGTERM or SIGINT; then, or at a second signal, they go back to the
    /// queue
    #[arg(long, value_name = "DURATION", env = "FABRICA_DRAIN_TIMEOUT", default_value = "10s", value_parser = humantime::parse_duration)]
    pub(crate) drain_timeout: Duration,
    /// Form of the log, which goes to the standard error; `RUST_LOG` says how much
    #[arg(
        long,
        value_name = "FORM",
        env = "FABRICA_LOG_FORMAT",
        value_enum,
        default_value_t
    )]
    pub(crate) log_format: LogFormat,
    #[command(flatten)]
    pub(crate) assembly: AssemblyArgs,
}

impl Arguments {
    /// The public hosts; an empty value, as a compose file may pass it, is none.
    pub(crate) fn public_hosts(&self) -> impl Iterator<Item = &str> {
        self.public_host
            .iter()
            .map(|host| host.trim())
            .filter(|host| !host.is_empty())
    }
}

/// The form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}
