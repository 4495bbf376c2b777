//! What runs inside the sandbox: it clones, lets the agent work, verifies, pushes and reports.
//!
//! The runner is the first process of a container without a network. Its only way out is the gateway's Unix socket.
//! It holds the runner's token, which opens `/session/…` and pushing; the agent, which runs as the same user, must
//! never see it. Hence the order of things: the process makes itself unreadable first, every child starts from a
//! cleared environment, and before git gets the token to push, every other process in the sandbox is dead.
//!
//! ```
//! use fabrica_runner::{Environment, EnvironmentError};
//!
//! let variables = [("HOME", "/home/agent"), ("PATH", "/usr/bin:/bin"), ("FABRICA_AGENT_TOKEN", "fag_…")];
//! let error = Environment::from_variables(variables.map(|(name, value)| (name.into(), value.into()))).unwrap_err();
//! assert_eq!(error, EnvironmentError::Missing("FABRICA_RUNNER_TOKEN"));
//! ```

mod agent;
mod asking;
mod checked;
mod checkpoint;
mod commands;
mod distrusted;
mod environment;
mod forwarder;
mod gateway;
mod inbox;
mod process;
mod report;
mod repository;
mod run;
mod session;
mod signing;
mod socket;
mod stop;
mod text;
mod transcript;
mod upload;
mod verification;

pub use asking::helper;
pub use environment::{Environment, EnvironmentError, Token};
pub use process::harden;
pub use run::run;
