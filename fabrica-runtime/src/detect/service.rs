//! A Podman service of our own, for machines where only the program is installed.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

/// How long Podman may take to listen: its first start sets up its storage.
const START: Duration = Duration::from_mins(1);
const STOP: Duration = Duration::from_secs(10);
const LAST_LINES: usize = 5;

/// What Podman needs of our environment: where things are, its own settings, and the way to a registry. Everything else
/// stays here, since model keys and tokens stand in the same environment.
fn needed(name: &str) -> bool {
    const PREFIXES: [&str; 6] = [
        "XDG_",
        "LC_",
        "CONTAINERS_",
        "_CONTAINERS_",
        "STORAGE_",
        "SSL_CERT_",
    ];
    const NAMES: [&str; 14] = [
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "LANG",
        "TMPDIR",
        "DBUS_SESSION_BUS_ADDRESS",
        "REGISTRY_AUTH_FILE",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "http_proxy",
        "https_proxy",
        "no_proxy",
    ];
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A running `podman system service`, which ends with this value.
#[derive(Debug)]
pub(super) struct Service {
    child: Child,
    directory: PathBuf,
    socket: PathBuf,
}

impl Service {
    /// Starts it, and waits until it answers.
    pub(super) async fn start(program: &Path, place: &Path) -> Result<Self, String> {
        let directory = private_directory(place)?;
        match Self::launch(program, &directory) {
            Ok(mut service) => match service.listening().await {
                Ok(()) => Ok(service),
                Err(reason) => {
                    let said = service.last_lines();
                    service.stop().await;
                    Err(format!("{reason}{said}"))
                }
            },
            Err(reason) => {
                remove(&directory);
                Err(reason)
            }
        }
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    fn launch(program: &Path, directory: &Path) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("cannot run {}: {error}", program.display());
        let socket = directory.join("podman.sock");
        let log = File::create(directory.join("log")).map_err(failed)?;
        let child = Command::new(program)
            // Should this process be killed, the service ends by itself once nobody is connected any more. While it is
            // used there is a connection at all times: the one that watches.
            .args(["system", "service", "--time=300"])
            .arg(format!("unix://{}", socket.display()))
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(needed)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .current_dir("/")
            // A terminal's interrupt is for Fabrica, which needs the service to stop its containers.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        info!(process = child.id(), socket = %socket.display(), "started a Podman service");
        Ok(Self {
            child,
            directory: directory.to_owned(),
            socket,
        })
    }

    async fn listening(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + START;
        loop {
            if UnixStream::connect(&self.socket).await.is_ok() {
                return Ok(());
            }
            match self.child.try_wait() {
                Ok(None) => {}
                Ok(Some(status)) => return Err(format!("podman ended with {status}")),
                Err(error) => return Err(format!("podman cannot be waited for: {error}")),
            }
            if Instant::now() > deadline {
                return Err(format!("podman does not listen after {} s", START.as_secs()));
            }
            sleep(Duration::from_millis(25)).await;
        }
    }

    fn last_lines(&self) -> String {
        let log = fs::read(self.directory.join("log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().filter(|line| !line.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(LAST_LINES)..]
            .iter()
            .flat_map(|line| [": ", line])
            .collect()
    }

    fn process(&self) -> Option<Pid> {
        self.child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw)
    }

    /// Ends it and waits for that.
    pub(super) async fn stop(mut self) {
        let Some(process) = self.process() else { return };
        // It may have ended by itself, which is as good.
        let _ = kill_process(process, Signal::TERM);
        if timeout(STOP, self.child.wait()).await.is_err() {
            warn!(
                process = process.as_raw_nonzero(),
                "a Podman service did not end when asked to, and is killed"
            );
            let _ = kill_process_group(process, Signal::KILL);
            let _ = self.child.wait().await;
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Without root, Podman serves from a child of the process that was started: both are in this group.
        if let Some(process) = self.process() {
            let _ = kill_process_group(process, Signal::KILL);
        }
        remove(&self.directory);
    }
}

fn private_directory(place: &Path) -> Result<PathBuf, String> {
    loop {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = place.join(format!("fabrica-podman-{}-{number}", std::process::id()));
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(format!("cannot make the directory {}: {error}", path.display())),
        }
    }
}

fn remove(directory: &Path) {
    if let Err(error) = fs::remove_dir_all(directory) {
        warn!(directory = %directory.display(), %error, "could not remove a Podman service's directory");
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn program(directory: &Path, script: &str) -> PathBuf {
        let path = directory.join("podman");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[tokio::test]
    async fn a_program_that_ends_is_an_error_with_its_last_words_and_leaves_nothing() {
        let place = tempfile::tempdir().unwrap();
        let bin = tempfile::tempdir().unwrap();
        let podman = program(bin.path(), "echo no storage >&2; exit 125");
        let error = Service::start(&podman, place.path()).await.unwrap_err();
        assert!(error.contains("125") && error.contains("no storage"), "{error}");
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_an_error() {
        let place = tempfile::tempdir().unwrap();
        let error = Service::start(Path::new("/no/podman"), place.path())
            .await
            .unwrap_err();
        assert!(error.contains("/no/podman"), "{error}");
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }
}
