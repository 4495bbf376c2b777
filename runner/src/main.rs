//! The first process of every sandbox; under another name or with arguments, what the agent asks a person with and what
//! git signs with.

use std::process::ExitCode;

use fabrica_core::protocol::exit;
use fabrica_runner::{Environment, harden, helper, run};
use tracing::error;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    // The agent's way to ask is this program too, and git's way to sign; then there is nothing to protect.
    if let Some(ended) = helper(&std::env::args_os().collect::<Vec<_>>()) {
        return ended;
    }
    let hardened = harden();
    let filter = EnvFilter::try_from_env("FABRICA_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    // A runner that others of its user can read would give its token away: rather no session than that.
    if let Err(source) = hardened {
        error!(%source, "the kernel refuses to protect this process");
        return code(exit::ENVIRONMENT);
    }
    let environment = match Environment::read() {
        Ok(environment) => environment,
        Err(problem) => {
            error!(%problem, "the environment is unusable");
            return code(exit::ENVIRONMENT);
        }
    };
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => code(runtime.block_on(run(environment))),
        Err(source) => {
            error!(%source, "the runtime cannot be started");
            code(exit::ENVIRONMENT)
        }
    }
}

fn code(code: i32) -> ExitCode {
    u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from)
}
