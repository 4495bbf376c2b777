//! The operator's key.

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

use secrecy::{ExposeSecret as _, SecretString};
use ssh_key::{Algorithm, Error, HashAlg, LineEnding, PrivateKey, PublicKey};

use super::error::SigningKeyError;

/// What git signs for: a signature for one purpose is none for another.
const NAMESPACE: &str = "git";
/// A key file has some hundred bytes.
const MAX_FILE: u64 = 64 * 1024;
/// The rights of anybody but the owner.
const OTHERS: u32 = 0o077;

/// A private key of the kind ed25519, read from a file as OpenSSH writes it. It does not show itself.
#[derive(Clone)]
pub struct SigningKey(Arc<PrivateKey>);

impl SigningKey {
    /// Reads a key without a passphrase. As OpenSSH does it, a file of one's own that others can read is refused.
    ///
    /// # Errors
    ///
    /// [`SigningKeyError`], which names the file, what was expected, and what to do.
    pub fn read(path: &Path) -> Result<Self, SigningKeyError> {
        // The option says the name of a file; whoever mistook it must not find the key in a log.
        let name = path.as_os_str().as_encoded_bytes();
        if name.contains(&b'\n') || name.starts_with(b"-----BEGIN") {
            return Err(SigningKeyError::NotAPath);
        }
        let unreadable = |source| SigningKeyError::Unreadable {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        if let Some(mode) = open_to_others(&metadata) {
            return Err(SigningKeyError::OpenToOthers {
                path: path.to_owned(),
                mode,
            });
        }
        match read(file) {
            Ok(text) => Self::parse(&text, path),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Err(malformed(path, "does not hold text"))
            }
            Err(error) => Err(unreadable(error)),
        }
    }

    fn parse(text: &SecretString, path: &Path) -> Result<Self, SigningKeyError> {
        let text = text.expose_secret().trim();
        let of_kind = |kind: &str| SigningKeyError::Kind {
            path: path.to_owned(),
            kind: kind.to_owned(),
        };
        let key = PrivateKey::from_openssh(text).map_err(|error| match error {
            Error::AlgorithmUnknown => of_kind("that is not known here"),
            Error::AlgorithmUnsupported { algorithm } => of_kind(algorithm.as_str()),
            _ => malformed(path, what(text)),
        })?;
        if key.algorithm() != Algorithm::Ed25519 {
            return Err(of_kind(key.algorithm().as_str()));
        }
        if key.is_encrypted() {
            return Err(SigningKeyError::Encrypted {
                path: path.to_owned(),
            });
        }
        Ok(Self(Arc::new(key)))
    }

    /// The public half, as in `authorized_keys` but without a comment: `ssh-ed25519 AAAA…`.
    pub fn public_key(&self) -> String {
        let bare = PublicKey::new(self.0.public_key().key_data().clone(), "");
        // A key that was read can be written.
        bare.to_openssh().unwrap_or_default().trim_end().to_owned()
    }

    /// What people compare keys by: `SHA256:…`.
    pub fn fingerprint(&self) -> String {
        self.0.fingerprint(HashAlg::Sha256).to_string()
    }

    /// Signs what git wants signed, in the form that git stores.
    pub(crate) fn sign(&self, payload: &[u8]) -> Result<String, Error> {
        self.0
            .sign(NAMESPACE, HashAlg::Sha512, payload)?
            .to_pem(LineEnding::LF)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SigningKey").field(&self.fingerprint()).finish()
    }
}

/// The permissions of one's own file, if others than its owner have some. Of a file that is somebody else's, such as a
/// secret that is mounted into a container, its owner decides.
fn open_to_others(metadata: &Metadata) -> Option<u32> {
    let mode = metadata.permissions().mode() & 0o7777;
    let own = metadata.uid() == rustix::process::getuid().as_raw();
    (own && mode & OTHERS != 0).then_some(mode)
}

fn read(file: File) -> io::Result<SecretString> {
    let mut text = String::new();
    file.take(MAX_FILE).read_to_string(&mut text)?;
    Ok(text.into())
}

fn malformed(path: &Path, found: &'static str) -> SigningKeyError {
    SigningKeyError::Malformed {
        path: path.to_owned(),
        found,
    }
}

/// What people take for a private key of OpenSSH.
fn what(text: &str) -> &'static str {
    if text.is_empty() {
        "is empty"
    } else if text.starts_with("ssh-") {
        "is the public half of a key"
    } else if text.starts_with("-----BEGIN OPENSSH PRIVATE KEY") {
        "is damaged"
    } else if text.starts_with("-----BEGIN") {
        "holds a key in another format"
    } else {
        "holds no key"
    }
}

#[cfg(test)]
#[path = "key_tests.rs"]
mod tests;
