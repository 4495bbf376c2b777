//! The options of the service.

use clap::{Parser, ValueEnum};
use fabrica_cli::assembly::AssemblyArgs;
use fabrica_server::Drain;

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
    /// What SIGTERM and SIGINT do. Either way nothing more is claimed or accepted. `handover`: sandboxes go on running,
    /// the sessions are given to another process on this machine, or wait for this one's restart; ends within 10 s.
    /// `finish`: waits for the sessions that run here; a second signal hands over
    #[arg(long, value_name = "HOW", env = "FABRICA_DRAIN", value_enum, default_value_t)]
    pub(crate) drain: DrainHow,
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

/// What a signal does with the sessions that run here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum DrainHow {
    /// They go on under another process.
    #[default]
    Handover,
    /// They are waited for.
    Finish,
}

impl From<DrainHow> for Drain {
    fn from(how: DrainHow) -> Self {
        match how {
            DrainHow::Handover => Self::Handover,
            DrainHow::Finish => Self::Finish,
        }
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
