//! The `fabrica` command as a program: what needs no engine.
#![expect(
    clippy::unwrap_used,
    reason = "a test's helper fails the test, as its assertions do"
)]

mod bad_plans;
mod sessions;
mod surroundings;
mod transcript;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// A home of its own for one test, and the program in it.
struct Place {
    directory: TempDir,
}

/// What the program said.
#[derive(Debug)]
struct Said {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Place {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn database(&self) -> String {
        self.path("fabrica.sqlite").display().to_string()
    }

    /// The program without the environment of whoever runs the test, and without an engine.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fabrica"));
        command
            .env_clear()
            .env("PATH", self.directory.path())
            .env("HOME", self.directory.path())
            .env("XDG_RUNTIME_DIR", self.directory.path())
            .env("FABRICA_DATA_DIRECTORY", self.path("data"))
            .env("DATABASE_URL", self.database())
            .current_dir(self.directory.path())
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Said {
        said(self.command(arguments).output().unwrap())
    }

    fn run_plan(&self, plan: impl AsRef<[u8]>) -> Said {
        std::fs::write(self.path("plan.md"), plan).unwrap();
        self.run(&["run", "plan.md"])
    }

    fn run_stdin(&self, arguments: &[&str], input: &str) -> Said {
        let mut command = self.command(arguments);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        said(child.wait_with_output().unwrap())
    }
}

fn said(output: Output) -> Said {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said {
        code: output.status.code().unwrap(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

impl Said {
    /// That it ended with that exit code, saying that stable code, and what to do.
    #[track_caller]
    fn assert_refused(&self, exit: i32, code: &str) {
        assert_eq!(self.code, exit, "{self:#?}");
        assert!(self.stderr.starts_with("error: "), "{self:#?}");
        assert!(self.stderr.contains(&format!("({code})")), "{code}: {self:#?}");
        assert!(self.stderr.contains("hint: "), "{self:#?}");
    }
}

/// An engine that nothing listens for at its usual place, so that none is found when none is named.
fn absent_engine() -> &'static str {
    let silent = |paths: &[&str]| paths.iter().all(|path| !Path::new(path).exists());
    if silent(&["/run/podman/podman.sock"]) {
        return "podman";
    }
    assert!(
        silent(&["/var/run/docker.sock"]),
        "both engines listen at their usual places: stop one for this test"
    );
    "docker"
}
