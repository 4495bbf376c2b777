//! Why the parts could not be put together.

use std::io;
use std::path::PathBuf;

use fabrica_core::ports::{RuntimeError, StoreError};
use fabrica_gateway::{SetupError, SigningKeyError};
use fabrica_store::ConnectError;
use thiserror::Error;

/// Why the parts could not be put together. Its text holds no secret.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AssemblyError {
    /// An option or its environment variable has a value that cannot be used.
    #[error("{option}: {reason}")]
    Setting {
        /// The option, as it is written.
        option: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The database cannot be opened.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The database is open and does not work.
    #[error(transparent)]
    Database(#[from] StoreError),
    /// No engine, or one that does not answer.
    #[error(transparent)]
    Engine(#[from] RuntimeError),
    /// The gateway cannot be set up.
    #[error(transparent)]
    Gateway(#[from] SetupError),
    /// What commits are to be signed with cannot be used.
    #[error("--signing-key-file: {0}")]
    SigningKey(#[from] SigningKeyError),
    /// There is no runner binary.
    #[error("there is no fabrica-runner: looked for {}", looked.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "))]
    RunnerMissing {
        /// Where it was looked for.
        looked: Vec<PathBuf>,
    },
    /// The runner would not run in every image.
    #[error("{} is linked dynamically: it would not run in every image", .0.display())]
    RunnerNotStatic(PathBuf),
    /// A file or directory cannot be used.
    #[error("cannot {action} {}: {source}", path.display())]
    Directory {
        /// What was to be done: `create`, `read`, `write`.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// No directory was found that the engine's user can reach.
    #[error("user {user}, who runs the container engine, can reach none of {}", tried.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "))]
    Unreachable {
        /// The engine's user.
        user: u32,
        /// What was tried.
        tried: Vec<PathBuf>,
    },
}

/// The program was used in a wrong way, or the plan is wrong.
pub const EXIT_USAGE: u8 = 2;
/// The engine or the database is not available (`EX_UNAVAILABLE`).
pub const EXIT_UNAVAILABLE: u8 = 69;
/// Something is not set up (`EX_CONFIG`).
pub const EXIT_CONFIGURATION: u8 = 78;

impl AssemblyError {
    /// Stable code of this error.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Setting { .. } => "settings.invalid",
            Self::Connect(error) => error.code(),
            Self::Database(error) => error.code(),
            Self::Engine(error) => error.code(),
            Self::Gateway(error) => error.code(),
            Self::SigningKey(error) => error.code(),
            Self::RunnerMissing { .. } => "runner.missing",
            Self::RunnerNotStatic(_) => "runner.not_static",
            Self::Directory { .. } => "directory.unusable",
            Self::Unreachable { .. } => "directory.unreachable",
        }
    }

    /// What to do, in a sentence.
    pub fn hint(&self) -> String {
        match self {
            Self::Setting { .. } => "see --help for what is accepted".into(),
            Self::Connect(error) => error.advice().into(),
            Self::Database(_) => {
                "check --database (or DATABASE_URL) and that the database runs; `fabrica doctor` shows more".into()
            }
            Self::Engine(error) => error.failure().advice,
            Self::Gateway(_) => "check the addresses and tokens of the model and of the forges".into(),
            Self::SigningKey(error) => error.advice(),
            Self::RunnerMissing { .. } | Self::RunnerNotStatic(_) => {
                "in a checkout `make runner` builds it; else name it with --runner (or FABRICA_RUNNER)".into()
            }
            Self::Directory { .. } => {
                "choose a directory that you may write with --data-directory (or FABRICA_DATA_DIRECTORY)".into()
            }
            Self::Unreachable { .. } => {
                "choose a directory outside of private homes with --data-directory (or FABRICA_DATA_DIRECTORY)".into()
            }
        }
    }

    /// The exit code of a program that ends because of this.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Setting { .. } | Self::Connect(ConnectError::InvalidAddress { .. }) => EXIT_USAGE,
            Self::Connect(_) | Self::Database(_) | Self::Engine(_) => EXIT_UNAVAILABLE,
            _ => EXIT_CONFIGURATION,
        }
    }
}
