//! Key files as `ssh-keygen` and people make them.

use std::fs::{self, Permissions};
use std::path::PathBuf;
use std::process::Command;

use super::*;

/// A key of a kind, made by the real program.
fn key(directory: &Path, kind: &str, passphrase: &str) -> PathBuf {
    let path = directory.join(kind);
    let status = Command::new("ssh-keygen")
        .args([
            "-q",
            "-C",
            "a comment of two\twords",
            "-t",
            kind,
            "-N",
            passphrase,
            "-f",
        ])
        .arg(&path)
        .status();
    assert!(status.unwrap().success());
    path
}

fn code(path: &Path) -> &'static str {
    let error = SigningKey::read(path).unwrap_err();
    let words = error.to_string();
    assert!(words.contains(&path.display().to_string()), "{words}");
    assert!(
        words.contains("expected") || words.starts_with("cannot read"),
        "{words}"
    );
    assert!(!error.advice().is_empty());
    error.code()
}

#[test]
fn a_key_of_ssh_keygen_is_read_and_shows_its_public_half_only() {
    let directory = tempfile::tempdir().unwrap();
    let path = key(directory.path(), "ed25519", "");
    let read = SigningKey::read(&path).unwrap();
    let public = fs::read_to_string(path.with_extension("pub")).unwrap();
    let expected: Vec<_> = public.split(' ').take(2).collect();
    assert_eq!(read.public_key(), expected.join(" "), "without the comment");
    let shown = Command::new("ssh-keygen").arg("-lf").arg(&path).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert_eq!(shown.split(' ').nth(1), Some(read.fingerprint().as_str()));
    assert_eq!(
        format!("{read:?}"),
        format!("SigningKey({:?})", read.fingerprint())
    );
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("\n{}\n\n", text.replace('\n', "\r\n"))).unwrap();
    assert!(SigningKey::read(&path).is_ok(), "as an editor may leave it");
}

#[test]
fn a_file_that_others_can_read_is_refused_as_openssh_does_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = key(directory.path(), "ed25519", "");
    for (mode, refused) in [
        (0o600, false),
        (0o400, false),
        (0o640, true),
        (0o604, true),
        (0o620, true),
    ] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let openssh = Command::new("ssh-keygen").arg("-yf").arg(&path).output().unwrap();
        assert_eq!(openssh.status.success(), !refused, "{mode:o}");
        if refused {
            assert_eq!(code(&path), "signing.key_open_to_others", "{mode:o}");
        } else {
            assert!(SigningKey::read(&path).is_ok(), "{mode:o}");
        }
    }
}

#[test]
fn keys_with_a_passphrase_and_of_other_kinds_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let encrypted = key(directory.path(), "ed25519", "a passphrase");
    assert_eq!(code(&encrypted), "signing.key_encrypted");
    for kind in ["rsa", "ecdsa"] {
        assert_eq!(
            code(&key(directory.path(), kind, "")),
            "signing.key_kind",
            "{kind}"
        );
    }
}

#[test]
fn what_is_no_private_key_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let good = fs::read_to_string(key(directory.path(), "ed25519", "")).unwrap();
    let mut lines: Vec<_> = good.lines().collect();
    lines.remove(2);
    let damaged = lines.join("\n");
    let path = directory.path().join("file");
    for (content, words) in [
        (String::new(), "is empty"),
        ("ssh-ed25519 AAAA me".to_owned(), "the public half"),
        (
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----".to_owned(),
            "another format",
        ),
        (damaged, "is damaged"),
        ("canary".to_owned(), "holds no key"),
    ] {
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        assert_eq!(code(&path), "signing.key_malformed", "{words}");
        let said = SigningKey::read(&path).unwrap_err().to_string();
        assert!(said.contains(words) && !said.contains("canary"), "{said}");
    }
    fs::write(&path, b"\xff\xfe").unwrap();
    assert_eq!(code(&path), "signing.key_malformed");
    assert_eq!(
        code(directory.path().join("nothing").as_path()),
        "signing.key_unreadable"
    );
    let mistaken = SigningKey::read(Path::new(&good)).unwrap_err();
    assert_eq!(mistaken.code(), "signing.key_not_a_path");
    assert!(!mistaken.to_string().contains("BEGIN"), "{mistaken}");
}
