//! The Claude Code binary that goes into the image: the pinned one, from the package registry, or one that is named.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use fabrica_cli::assembly::command;
use serde::Deserialize;

use super::Narrator;
use crate::exit::Exit;
use crate::problem::Problem;

/// The pinned version.
pub(crate) const VERSION: &str = "2.1.330";

/// Where the binary comes from.
#[derive(Debug, Clone)]
pub(super) enum Agent {
    /// The pinned version, by its package.
    Pinned { package: String },
    /// A file of the user's.
    File(PathBuf),
}

/// What `npm pack --json` tells.
#[derive(Debug, Deserialize)]
struct Packed {
    filename: String,
    version: String,
    #[serde(default)]
    integrity: String,
}

impl Agent {
    pub(super) fn choose(file: Option<&Path>) -> Result<Self, Problem> {
        if let Some(file) = file {
            return Ok(Self::File(file.to_owned()));
        }
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "x64",
            "aarch64" => "arm64",
            other => {
                let message = format!("there is no Claude Code for {other}");
                return Err(
                    Problem::new(Exit::Failure, "image.agent", message).hint("name one with --claude-binary")
                );
            }
        };
        Ok(Self::Pinned {
            package: format!("@anthropic-ai/claude-code-linux-{architecture}@{VERSION}"),
        })
    }

    /// What identifies it, without reading it as a whole.
    pub(super) fn identity(&self) -> Result<String, Problem> {
        match self {
            Self::Pinned { package } => Ok(package.clone()),
            Self::File(path) => {
                let found = fs::metadata(path).map_err(|error| unreadable(path, &error))?;
                Ok(format!(
                    "{} {} {}.{}",
                    path.display(),
                    found.len(),
                    found.mtime(),
                    found.mtime_nsec()
                ))
            }
        }
    }

    /// The binary's path; downloads it if it is not in the cache.
    pub(super) async fn fetch(&self, cache: &Path, narrator: &Narrator) -> Result<PathBuf, Problem> {
        let package = match self {
            Self::File(path) => return Ok(path.clone()),
            Self::Pinned { package } => package,
        };
        let directory = cache.join(format!("claude-{VERSION}"));
        let binary = directory.join("claude");
        if binary.is_file() {
            return Ok(binary);
        }
        narrator.step(&format!("downloading Claude Code {VERSION} (180 MB)"));
        let partial = tempfile::Builder::new()
            .prefix("claude-")
            .tempdir_in(cache)
            .map_err(|error| written(cache, &error))?;
        let packed = pack(package, partial.path(), narrator).await?;
        narrator.step("unpacking Claude Code");
        unpack(&partial.path().join(&packed.filename), partial.path()).await?;
        let unpacked = partial.path().join("package").join("claude");
        fs::set_permissions(&unpacked, Permissions::from_mode(0o755))
            .and_then(|()| fs::create_dir_all(&directory))
            .and_then(|()| fs::rename(&unpacked, &binary))
            .map_err(|error| written(&binary, &error))?;
        Ok(binary)
    }
}

/// `npm pack` compares the archive with the registry's checksum, and fails if they differ.
async fn pack(package: &str, directory: &Path, narrator: &Narrator) -> Result<Packed, Problem> {
    let mut child = command("npm")
        .args([
            "pack",
            package,
            "--json",
            "--ignore-scripts",
            "--loglevel=warn",
            "--pack-destination",
        ])
        .arg(directory)
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| missing("npm", &error, "npm"))?;
    let (stderr, stdout) = (child.stderr.take(), child.stdout.take());
    let talk = async {
        match stderr {
            Some(stderr) => narrator.follow(stderr).await,
            None => Vec::new(),
        }
    };
    let data = async {
        let mut text = Vec::new();
        if let Some(mut stdout) = stdout {
            // What cannot be read is no JSON, which is told below.
            let _ = tokio::io::AsyncReadExt::read_to_end(&mut stdout, &mut text).await;
        }
        text
    };
    let (talk, data, status) = tokio::join!(talk, data, child.wait());
    match status {
        Ok(status) if status.success() => packed(&data),
        Ok(status) => Err(not_downloaded(&format!("npm pack ended with {status}")).diagnosis(talk)),
        Err(error) => Err(not_downloaded(&error.to_string())),
    }
}

/// What npm answered, if it is what was asked for.
fn packed(answer: &[u8]) -> Result<Packed, Problem> {
    let packed: Vec<Packed> = serde_json::from_slice(answer)
        .map_err(|error| not_downloaded(&format!("npm's answer is not understood: {error}")))?;
    let wanted = |packed: &Packed| {
        packed.version == VERSION && packed.integrity.starts_with("sha512-") && !packed.filename.contains('/')
    };
    let reason = || not_downloaded(&format!("npm did not deliver version {VERSION} with a checksum"));
    packed.into_iter().next().filter(wanted).ok_or_else(reason)
}

fn not_downloaded(reason: &str) -> Problem {
    let message = format!("Claude Code could not be downloaded: {reason}");
    Problem::new(Exit::Failure, "image.agent_download", message)
        .hint("check npm's registry and proxy settings, or name a binary with --claude-binary")
}

async fn unpack(archive: &Path, directory: &Path) -> Result<(), Problem> {
    let output = command("tar")
        .arg("--extract")
        .arg("--gzip")
        .arg("--no-same-owner")
        .arg("--file")
        .arg(archive)
        .arg("--directory")
        .arg(directory)
        .arg("package/claude")
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(|error| missing("tar", &error, "tar"))?;
    if output.status.success() {
        return Ok(());
    }
    let lines = String::from_utf8_lossy(&output.stderr)
        .lines()
        .map(str::to_owned)
        .collect::<Vec<_>>();
    Err(Problem::new(
        Exit::Failure,
        "image.agent_download",
        "Claude Code's package could not be unpacked",
    )
    .diagnosis(lines)
    .hint("check the free space of the data directory"))
}

/// A program could not be started, most likely because it is not there.
pub(super) fn missing(program: &str, error: &std::io::Error, package: &str) -> Problem {
    Problem::new(
        Exit::CONFIGURATION,
        "image.program_missing",
        format!("cannot start {program}: {error}"),
    )
    .hint(format!("install it, on Debian with `apt-get install {package}`"))
}

pub(super) fn written(path: &Path, error: &std::io::Error) -> Problem {
    Problem::new(
        Exit::Failure,
        "directory.unusable",
        format!("cannot write {}: {error}", path.display()),
    )
    .hint("check the data directory's rights and free space, or choose another one with --data-directory")
}

pub(super) fn unreadable(path: &Path, error: &std::io::Error) -> Problem {
    Problem::new(
        Exit::Usage,
        "image.file_unreadable",
        format!("cannot read {}: {error}", path.display()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_pinned_version_with_a_checksum_is_taken() {
        let answer = |version: &str, integrity: &str, name: &str| {
            format!(r#"[{{"filename":"{name}","version":"{version}","integrity":"{integrity}","size":1}}]"#)
        };
        assert!(packed(answer(VERSION, "sha512-x", "claude.tgz").as_bytes()).is_ok());
        for (version, integrity, name) in [
            ("2.1.0", "sha512-x", "claude.tgz"),
            (VERSION, "", "claude.tgz"),
            (VERSION, "sha512-x", "../x.tgz"),
        ] {
            let problem = packed(answer(version, integrity, name).as_bytes()).unwrap_err();
            assert_eq!(problem.code, "image.agent_download");
        }
        assert!(packed(b"[]").is_err());
    }
}
