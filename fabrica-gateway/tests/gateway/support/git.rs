//! The real git client, and a way for it to reach a Unix socket.

use std::path::{Path, PathBuf};
use std::process::Output;

use tempfile::TempDir;
use tokio::net::{TcpListener, UnixStream};
use tokio::process::Command;
use tokio::task::JoinHandle;

use super::{BRANCH, RUNNER, Rig};

/// What a git command did.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) ok: bool,
    /// Both of its outputs.
    pub(crate) text: String,
}

impl Outcome {
    /// Its output, if it went well.
    pub(crate) fn good(self) -> String {
        assert!(self.ok, "git failed: {}", self.text);
        self.text
    }

    /// Its output, if it did not.
    pub(crate) fn bad(self) -> String {
        assert!(!self.ok, "git should have failed: {}", self.text);
        self.text
    }
}

/// Runs git without anybody's configuration.
pub(crate) async fn git(directory: &Path, arguments: &[&str]) -> Outcome {
    let mut command = Command::new("git");
    command
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    for (name, value) in [
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_TERMINAL_PROMPT", "0"),
        ("GIT_AUTHOR_NAME", "a"),
        ("GIT_AUTHOR_EMAIL", "a@localhost"),
        ("GIT_COMMITTER_NAME", "a"),
        ("GIT_COMMITTER_EMAIL", "a@localhost"),
        ("LC_ALL", "C"),
    ] {
        command.env(name, value);
    }
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .current_dir(directory)
        .args(arguments)
        .output()
        .await
        .unwrap();
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&stdout),
        String::from_utf8_lossy(&stderr)
    );
    Outcome {
        ok: status.success(),
        text,
    }
}

/// Makes a bare repository `owner/name.git` with two commits on `main` and a tag.
pub(crate) async fn bare_repository(root: &Path) -> PathBuf {
    let bare = root.join("owner/name.git");
    let work = root.join("seed");
    std::fs::create_dir_all(&work).unwrap();
    let bare_name = bare.to_str().unwrap();
    git(root, &["init", "-q", "--bare", "-b", "main", bare_name])
        .await
        .good();
    git(root, &["-C", bare_name, "config", "http.receivepack", "true"])
        .await
        .good();
    git(
        root,
        &["-C", bare_name, "config", "receive.advertisePushOptions", "true"],
    )
    .await
    .good();
    git(&work, &["init", "-q", "-b", "main"]).await.good();
    for n in 1..=2 {
        std::fs::write(work.join("file"), format!("{n}\n")).unwrap();
        git(&work, &["add", "."]).await.good();
        git(&work, &["commit", "-q", "-m", &format!("commit {n}")])
            .await
            .good();
    }
    git(
        &work,
        &[
            "push",
            "-q",
            bare_name,
            "main",
            "main:refs/tags/v1",
            "main:refs/heads/other",
        ],
    )
    .await
    .good();
    bare
}

/// The refs of a repository, a line each.
pub(crate) async fn refs(repository: &Path) -> String {
    git(repository, &["for-each-ref", "--format=%(refname) %(objectname)"])
        .await
        .good()
}

/// Forwards a port to the rig's socket, as the runner does inside a sandbox.
#[derive(Debug)]
pub(crate) struct Forwarder {
    pub(crate) address: String,
    task: JoinHandle<()>,
}

impl Forwarder {
    pub(crate) async fn start(rig: &Rig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let socket = rig.socket();
        let task = tokio::spawn(async move {
            while let Ok((mut tcp, _)) = listener.accept().await {
                let socket = socket.clone();
                tokio::spawn(async move {
                    if let Ok(mut unix) = UnixStream::connect(socket).await {
                        let _ = tokio::io::copy_bidirectional(&mut tcp, &mut unix).await;
                    }
                });
            }
        });
        Self { address, task }
    }

    pub(crate) fn url(&self, token: &str) -> String {
        format!("http://fabrica:{token}@{}/git/repository.git", self.address)
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A sandbox: a clone through the gateway with one commit on the session's branch.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) forwarder: Forwarder,
    pub(crate) clone: PathBuf,
    pub(crate) home: TempDir,
}

impl Sandbox {
    pub(crate) async fn new(rig: &Rig) -> Self {
        Self::cloned(rig, &[]).await
    }

    pub(crate) async fn cloned(rig: &Rig, options: &[&str]) -> Self {
        let forwarder = Forwarder::start(rig).await;
        let home = tempfile::tempdir().unwrap();
        let url = forwarder.url(RUNNER);
        let arguments = [&["clone", "-q"], options, &[url.as_str(), "clone"]].concat();
        git(home.path(), &arguments).await.good();
        let clone = home.path().join("clone");
        git(&clone, &["switch", "-q", "-c", BRANCH]).await.good();
        std::fs::write(clone.join("work"), "work\n").unwrap();
        git(&clone, &["add", "."]).await.good();
        git(&clone, &["commit", "-q", "-m", "work"]).await.good();
        Self {
            forwarder,
            clone,
            home,
        }
    }

    pub(crate) async fn git(&self, arguments: &[&str]) -> Outcome {
        git(&self.clone, arguments).await
    }

    /// Pushes and says what git printed.
    pub(crate) async fn push(&self, arguments: &[&str]) -> Outcome {
        self.git(&[&["push"], arguments].concat()).await
    }

    /// Pushes what the gateway must refuse: every kind of foreign ref, deletion, options.
    pub(crate) async fn push_what_is_forbidden(&self) {
        let own = format!("HEAD:refs/heads/{BRANCH}");
        let foreign = "only the session's own branch and checkpoints may be pushed";
        let attempts: [(&[&str], &str); 10] = [
            (&["origin", "HEAD:refs/heads/main"], foreign),
            (&["--force", "origin", "HEAD:refs/heads/main"], foreign),
            (&["--force", "origin", "HEAD:refs/heads/other"], foreign),
            (&["origin", "HEAD:refs/tags/v2"], foreign),
            (&["origin", "HEAD:refs/notes/x"], foreign),
            (
                &[
                    "origin",
                    "HEAD:refs/fabrica/018f4e1c-7a52-4cc3-9d51-0a6f3ad1c2b5/checkpoint",
                ],
                foreign,
            ),
            (&["origin", &own, "HEAD:refs/heads/main"], foreign),
            (&["--atomic", "origin", &own, "HEAD:refs/heads/new"], foreign),
            (
                &["origin", ":refs/heads/other"],
                "the gateway never deletes a ref",
            ),
            (&["-o", "ci.skip", "origin", &own], "push"),
        ];
        for (arguments, expected) in attempts {
            let text = self.push(arguments).await.bad();
            assert!(text.contains(expected), "{arguments:?}: {text}");
        }
    }
}
