//! `/git/signature`: what is signed, for whom, and what never is. The signatures are verified by OpenSSH.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use fabrica_core::ports::SinkError;
use fabrica_core::protocol::MAX_SIGNED_BYTES;
use fabrica_gateway::SigningKey;
use tempfile::TempDir;

use crate::support::{AGENT, RUNNER, Rig, RigOptions, code, header, token};

const COMMIT: &str = "tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\n\
    author Somebody <somebody@example.com> 1790000000 +0200\n\
    committer Fabrica <fabrica@localhost> 1790000000 +0200\n\
    \n\
    Add a greeting\n";

/// A gateway with a key that `ssh-keygen` made.
struct Signing {
    rig: Rig,
    directory: TempDir,
}

impl Signing {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(&path)
            .status();
        assert!(made.unwrap().success());
        let options = RigOptions {
            signing_key: Some(SigningKey::read(&path).unwrap()),
            ..RigOptions::default()
        };
        let rig = Rig::with(options).await;
        Self { rig, directory }
    }

    async fn ask(&self, token: &str, payload: impl Into<reqwest::Body>) -> reqwest::Response {
        self.rig.post("/git/signature", token, payload).await
    }

    /// That it is refused with a status and a code, in text for whoever runs git; and how.
    async fn refused(&self, payload: impl Into<reqwest::Body>, status: u16, expected: &str) -> String {
        let refused = self.ask(AGENT, payload).await;
        assert_eq!((refused.status().as_u16(), code(&refused)), (status, expected));
        let words = refused.text().await.unwrap();
        assert!(words.starts_with("fabrica: "), "{words}");
        words
    }

    /// Whether OpenSSH takes the signature for one of the operator's over the payload, made for git.
    fn verifies(&self, payload: &str, signature: &str, namespace: &str) -> bool {
        let path = |name: &str| self.directory.path().join(name);
        let public = fs::read_to_string(path("key.pub")).unwrap();
        fs::write(path("allowed"), format!("fabrica@localhost {public}")).unwrap();
        fs::write(path("signature"), signature).unwrap();
        fs::write(path("payload"), payload).unwrap();
        verify(self.directory.path(), namespace)
    }
}

fn verify(directory: &Path, namespace: &str) -> bool {
    let payload = fs::File::open(directory.join("payload")).unwrap();
    let verified = Command::new("ssh-keygen")
        .args([
            "-Y",
            "verify",
            "-f",
            "allowed",
            "-I",
            "fabrica@localhost",
            "-s",
            "signature",
        ])
        .args(["-n", namespace])
        .current_dir(directory)
        .stdin(payload)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    verified.unwrap().success()
}

#[tokio::test]
async fn a_commit_of_the_sessions_committer_is_signed_for_whoever_runs_git() {
    let signing = Signing::new().await;
    for token in [AGENT, RUNNER] {
        let answer = signing.ask(token, COMMIT).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(header(&answer, "cache-control"), Some("no-store"));
        let signature = answer.text().await.unwrap();
        assert!(
            signature.ends_with("-----END SSH SIGNATURE-----\n"),
            "{signature}"
        );
        assert!(signing.verifies(COMMIT, &signature, "git"));
        assert!(!signing.verifies(&COMMIT.replace("Add", "Rob"), &signature, "git"));
        assert!(
            !signing.verifies(COMMIT, &signature, "file"),
            "it is good for git only"
        );
    }
}

#[tokio::test]
async fn nothing_is_signed_in_somebody_elses_name() {
    let signing = Signing::new().await;
    for other in [
        "Somebody <fabrica@localhost>",
        "Fabrica <somebody@example.com>",
        "fabrica <fabrica@localhost>",
    ] {
        let payload = COMMIT.replace("Fabrica <fabrica@localhost>", other);
        let words = signing.refused(payload, 403, "signing.committer_refused").await;
        assert!(
            words.contains("only commits by Fabrica <fabrica@localhost>"),
            "{words}"
        );
    }
}

#[tokio::test]
async fn nothing_but_a_commit_without_a_signature_is_signed() {
    let signing = Signing::new().await;
    let tag = "object 4b825dc642cb6eb9a060e54bf8d69288fbee4904\ntype tree\ntag v1\n\
        tagger Fabrica <fabrica@localhost> 1790000000 +0200\n\nRelease\n";
    let words = signing.refused(tag, 403, "signing.tag_refused").await;
    assert!(words.contains("tags are not signed"), "{words}");
    let signed = COMMIT.replacen("\n\n", "\ngpgsig -----BEGIN SSH SIGNATURE-----\n x\n\n", 1);
    signing.refused(signed, 403, "signing.signed_already").await;
    for garbage in ["", "I owe the bearer a thousand dollars", &COMMIT[5..]] {
        signing
            .refused(garbage.to_owned(), 403, "signing.not_a_commit")
            .await;
    }
}

#[tokio::test]
async fn a_commit_has_a_greatest_length() {
    let signing = Signing::new().await;
    let fits = format!("{COMMIT}{}", "x".repeat(MAX_SIGNED_BYTES - COMMIT.len()));
    assert_eq!(signing.ask(AGENT, fits.clone()).await.status(), 200);
    signing.refused(fits + "x", 413, "signing.too_large").await;
}

#[tokio::test]
async fn without_a_key_nothing_is_signed() {
    let rig = Rig::new().await;
    let refused = rig.post("/git/signature", AGENT, COMMIT).await;
    assert_eq!(
        (refused.status().as_u16(), code(&refused)),
        (403, "signing.not_configured")
    );
}

#[tokio::test]
async fn only_the_sessions_tokens_and_only_its_present_attempt_get_signatures() {
    let mut signing = Signing::new().await;
    let wrong = signing.ask("wrong", COMMIT).await;
    assert_eq!(
        (wrong.status().as_u16(), code(&wrong)),
        (401, "gateway.token_refused")
    );
    let tell = |answer| signing.rig.sink.authorizations.lock().unwrap().push_back(answer);
    tell(Err(SinkError::Fenced));
    tell(Err(SinkError::Unavailable(
        "canary: password of the database".into(),
    )));
    signing.refused(COMMIT, 409, "session.fenced").await;
    let words = signing.refused(COMMIT, 503, "session.unavailable").await;
    assert!(!words.contains("canary"), "{words}");
    let access = signing.rig.access(2);
    signing.rig.reopen(access).await;
    let stale = signing.ask(AGENT, COMMIT).await;
    assert_eq!(
        (stale.status().as_u16(), code(&stale)),
        (401, "gateway.token_refused")
    );
    assert_eq!(signing.ask(&token(AGENT, 2), COMMIT).await.status(), 200);
}

#[tokio::test]
async fn while_the_lease_is_unknown_a_signature_may_be_asked_for_again() {
    let signing = Signing::new().await;
    let unknown = &signing.rig.sink.lease_unknown;
    unknown.store(true, std::sync::atomic::Ordering::SeqCst);
    signing.refused(COMMIT, 503, "gateway.lease_unknown").await;
    unknown.store(false, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(signing.ask(AGENT, COMMIT).await.status(), 200);
}
