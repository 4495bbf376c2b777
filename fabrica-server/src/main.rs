//! The service's program: options, log, signals, exit code.

mod args;

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use fabrica_cli::assembly::{
    API_TOKEN, Assembly, AssemblyError, EXIT_CONFIGURATION, EXIT_UNAVAILABLE, Environment, Role, Settings,
    assemble,
};
use fabrica_core::clock::SystemEntropy;
use fabrica_server::{ApiToken, AppState, HostPolicy, ServerError, Service, api_token, serve};
use futures::{Stream, stream};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use args::{Arguments, LogFormat};

/// How much is logged where `RUST_LOG` does not say.
const LOG_FILTER: &str = "info,sqlx=warn";

/// Why the program ends badly.
#[derive(Debug, Error)]
enum Failed {
    #[error("{error}\n  {} ({})", error.hint(), error.code())]
    Assembly {
        #[from]
        error: AssemblyError,
    },
    #[error("{error} ({})", error.code())]
    Server {
        #[from]
        error: ServerError,
    },
    #[error("signals cannot be received: {0}")]
    Signals(#[from] io::Error),
}

impl Failed {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Assembly { error } => error.exit_code().into(),
            Self::Server {
                error: ServerError::Listen { .. } | ServerError::Store(_),
            } => EXIT_UNAVAILABLE.into(),
            Self::Server {
                error: ServerError::InvalidAddress { .. } | ServerError::UnusableToken(_),
            } => EXIT_CONFIGURATION.into(),
            Self::Server { .. } | Self::Signals(_) => ExitCode::FAILURE,
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    start_log(arguments.log_format);
    match run(&arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            // If the standard error is closed, the exit code is what is left.
            let _ = writeln!(io::stderr(), "error: {failed}");
            failed.exit_code()
        }
    }
}

fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOG_FILTER));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}

async fn run(arguments: &Arguments) -> Result<(), Failed> {
    let environment = Environment::of_process();
    let hosts = HostPolicy::new(&arguments.listen, arguments.public_hosts())?;
    // From here on a signal is not lost: it stops the server as soon as that has started.
    let stop = signals()?;
    let settings = Settings::resolve(&arguments.assembly, &environment, Role::Server)?;
    if let Some(key) = &settings.signing_key {
        tracing::info!(key.fingerprint = key.fingerprint(), "commits are signed");
    }
    let assembly = assemble(&settings).await?;
    let ended = start(arguments, &environment, &assembly, hosts, stop).await;
    assembly.shutdown().await;
    Ok(ended?)
}

async fn start(
    arguments: &Arguments,
    environment: &Environment,
    assembly: &Assembly,
    hosts: HostPolicy,
    stop: impl Stream<Item = ()> + Send,
) -> Result<(), ServerError> {
    let configured = environment.secret(API_TOKEN);
    let refused = |source| ServerError::Listen {
        address: arguments.listen.clone(),
        source,
    };
    // Listen first: a start that fails must not have used up the one showing of the token.
    let listener = TcpListener::bind(&arguments.listen).await.map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    let token = api_token(
        configured.as_ref(),
        &*assembly.store,
        &SystemEntropy,
        &mut io::stdout(),
    )
    .await?;
    if matches!(token, ApiToken::Stored(_)) {
        tracing::info!("the API token is the one that was printed at the first start");
    }
    if !address.ip().is_loopback() {
        tracing::warn!(
            "others can reach this address without encryption: let a proxy that speaks TLS stand in front"
        );
    }
    if let Err(error) = writeln!(io::stdout(), "Fabrica listens on http://{address}") {
        tracing::warn!(%error, server.address = %address, "the address could not be printed");
    }
    let state = AppState::new(assembly.orchestrator.clone(), token.hash(), hosts);
    serve(
        Service {
            listener,
            state,
            drain: arguments.drain.into(),
        },
        stop,
    )
    .await
}

/// SIGTERM and SIGINT, as they come.
fn signals() -> io::Result<impl Stream<Item = ()> + Send> {
    let each = |kind| signal(kind).map(|signal| Box::pin(stream::unfold(signal, next)));
    Ok(stream::select(
        each(SignalKind::terminate())?,
        each(SignalKind::interrupt())?,
    ))
}

async fn next(mut signal: Signal) -> Option<((), Signal)> {
    signal.recv().await.map(|()| ((), signal))
}
