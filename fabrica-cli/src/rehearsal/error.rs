//! What can go wrong while a rehearsal is set up or looked at.

use std::{io, path::PathBuf};

/// Why a stand-in could not be started, or its repository not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RehearsalError {
    /// No port of 127.0.0.1 could be opened.
    #[error("could not listen on 127.0.0.1")]
    Listen(#[source] io::Error),

    /// A file or directory of the rehearsal could not be written.
    #[error("could not write {}", path.display())]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },

    /// The git command line, or its `http-backend`, could not be started.
    #[error("could not start {program}")]
    GitUnavailable {
        /// What was to be started.
        program: String,
        /// What the operating system said.
        source: io::Error,
    },

    /// A git command ended with an error.
    #[error("git {command} failed: {message}")]
    Git {
        /// The subcommand.
        command: String,
        /// The end of what it wrote to its standard error.
        message: String,
    },

    /// A repository's name is not `owner/name`, each of letters, digits, `.`, `_` and `-`.
    #[error("invalid repository name {0:?}")]
    RepositoryName(String),
}
