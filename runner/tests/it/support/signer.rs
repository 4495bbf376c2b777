//! Signatures as OpenSSH makes and takes them.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::git;

/// Makes a key, `signing-key` in a directory, and returns its public half.
pub(crate) fn make_key(directory: &Path) -> String {
    let path = directory.join("signing-key");
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"])
        .arg(&path)
        .status();
    assert!(made.unwrap().success());
    let public = std::fs::read_to_string(path.with_extension("pub")).unwrap();
    public.trim().to_owned()
}

/// Signs something for git.
pub(crate) fn sign(key: &Path, payload: &[u8]) -> Vec<u8> {
    let mut child = Command::new("ssh-keygen")
        .args(["-q", "-Y", "sign", "-n", "git", "-f"])
        .arg(key)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(payload).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    output.stdout
}

/// Whether git verifies a commit, if nobody but one signer is allowed, with one key.
pub(crate) fn verifies(repository: &Path, allowed: &Path, (signer, key): (&str, &str), commit: &str) -> bool {
    std::fs::write(allowed, format!("{signer} namespaces=\"git\" {key}\n")).unwrap();
    let setting = format!("gpg.ssh.allowedSignersFile={}", allowed.display());
    git(repository, &["-c", &setting, "verify-commit", commit])
        .status
        .success()
}
