//! Why a file is no signing key.

use std::path::PathBuf;

use thiserror::Error;

/// Why a file cannot be used as a signing key. Nothing of its content is in the text.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SigningKeyError {
    /// What should be a file's name is a key. It is not repeated.
    #[error("this is the key itself: expected the name of a file")]
    NotAPath,
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Others than its owner may use the file.
    #[error("{} is open to others (mode {mode:04o}): expected a file that only its owner may read (mode 0600)", path.display())]
    OpenToOthers {
        /// The file.
        path: PathBuf,
        /// The permission bits of the file.
        mode: u32,
    },
    /// The file holds something else.
    #[error("{} {found}: expected an OpenSSH private key (`-----BEGIN OPENSSH PRIVATE KEY-----`)", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What it is, as a verb with its object.
        found: &'static str,
    },
    /// The key needs a passphrase, and nobody is there to type it.
    #[error("{} is protected by a passphrase: expected a key without one", path.display())]
    Encrypted {
        /// The file.
        path: PathBuf,
    },
    /// A key of another kind.
    #[error("{} holds a key of the kind {kind}: expected ssh-ed25519", path.display())]
    Kind {
        /// The file.
        path: PathBuf,
        /// The kind, by its name in SSH.
        kind: String,
    },
}

impl SigningKeyError {
    /// Stable code of this error.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotAPath => "signing.key_not_a_path",
            Self::Unreadable { .. } => "signing.key_unreadable",
            Self::OpenToOthers { .. } => "signing.key_open_to_others",
            Self::Malformed { .. } => "signing.key_malformed",
            Self::Encrypted { .. } => "signing.key_encrypted",
            Self::Kind { .. } => "signing.key_kind",
        }
    }

    /// What to do, in a sentence.
    pub fn advice(&self) -> String {
        let make = "`ssh-keygen -t ed25519 -N '' -f FILE` makes one";
        match self {
            Self::NotAPath => "write the key to a file with mode 0600, and name the file".into(),
            Self::Unreadable { .. } => {
                format!("name a private key that the user who runs Fabrica may read; {make}")
            }
            Self::OpenToOthers { path, .. } => format!("run: chmod 600 {}", path.display()),
            Self::Malformed { .. } | Self::Kind { .. } => make.into(),
            Self::Encrypted { path } => format!(
                "make a key of Fabrica's own without a passphrase, or remove this one's: ssh-keygen -p -N '' -f {}",
                path.display()
            ),
        }
    }
}
