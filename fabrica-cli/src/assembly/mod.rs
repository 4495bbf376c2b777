//! What both binaries share: the options, and putting the parts together.
//!
//! Secrets come from the environment or from files, are read once, and are never handed to child processes.
//!
//! ```
//! use clap::Parser;
//! use fabrica_cli::assembly::{AssemblyArgs, Environment, Role, Settings};
//!
//! #[derive(Parser)]
//! struct Options {
//!     #[command(flatten)]
//!     assembly: AssemblyArgs,
//! }
//!
//! let options = Options::parse_from(["example", "--memory", "2GiB", "--database", "sqlite:/tmp/example.sqlite"]);
//! let settings = Settings::resolve(&options.assembly, &Environment::default(), Role::Server)?;
//! assert!(!settings.repositories.local_paths);
//! // let assembly = fabrica_cli::assembly::assemble(&settings).await?;
//! # Ok::<(), fabrica_cli::assembly::AssemblyError>(())
//! ```

mod args;
mod directories;
mod engine;
mod error;
mod forge_option;
mod parts;
mod presence;
mod runner;
mod secrets;
mod settings;
mod store;

pub use args::{
    AssemblyArgs, DEFAULT_IMAGE, DEFAULT_MODEL_URL, DataArgs, DatabaseArgs, ForgeArgs, ModelArgs,
    RepositoryArgs, RuntimeArgs, RuntimeName, SandboxArgs, WorkerArgs, secret,
};
pub use directories::{Directories, current_user};
pub use engine::{Engine, connect_engine};
pub use error::{AssemblyError, EXIT_CONFIGURATION, EXIT_UNAVAILABLE, EXIT_USAGE};
pub use forge_option::{ForgeKind, ForgeOption};
pub use parts::{Assembly, assemble, assemble_on};
pub use runner::{find_runner, hex, stage_agent, stage_runner};
pub use secrets::{
    API_TOKEN, DATABASE_URL, Environment, FORGE_TOKEN, GITHUB_TOKEN, MODEL_API_KEY, MODEL_AUTH_TOKEN,
    command, host_token_variable, is_secret,
};
pub use settings::{ForgeSettings, Role, Settings, repository_policy, signing_key};
pub use store::{open_store, shown_database};
