//! Which Fabrica processes of this machine live: each holds the lock on a file of its own, which the operating system takes
//! away from a process that ends, however it ends. A process that is only frozen keeps it.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use fabrica_core::ids::WorkerId;
use fabrica_core::ports::Presence;

/// What the files' names end with.
const ENDING: &str = ".worker";

/// The files of the processes that share a sockets' directory, and can therefore adopt one another's sandboxes.
#[derive(Debug)]
pub(super) struct LockFiles {
    files: Arc<Files>,
    /// Locked for as long as this process lives.
    lock: File,
}

#[derive(Debug)]
struct Files {
    directory: PathBuf,
    /// The installation's name, so that processes on another database are left to their own.
    installation: String,
    own: PathBuf,
}

impl LockFiles {
    /// Shows that this worker lives.
    pub(super) fn announce(sockets: &Path, installation: &str, worker: &WorkerId) -> io::Result<Self> {
        let directory = sockets.join("workers");
        DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        let own = directory.join(format!("{installation}.{worker}{ENDING}"));
        // Others must never see the file without its lock: it gets its name once it is locked.
        let unfinished = directory.join(format!("{installation}.{worker}.new"));
        let file = File::create(&unfinished)?;
        file.lock()?;
        fs::rename(&unfinished, &own)?;
        Ok(Self {
            files: Arc::new(Files {
                directory,
                installation: installation.to_owned(),
                own,
            }),
            lock: file,
        })
    }
}

impl Drop for LockFiles {
    fn drop(&mut self) {
        // If either fails, others find the file without its lock once this process has ended, and remove it.
        let _ = fs::remove_file(&self.files.own);
        let _ = self.lock.unlock();
    }
}

impl Files {
    fn dead(&self) -> io::Result<Vec<WorkerId>> {
        let mut dead = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            if path != self.own
                && let Some(worker) = self.worker(&path)
                && is_unlocked(&path)
            {
                dead.push(worker);
            }
        }
        Ok(dead)
    }

    fn worker(&self, path: &Path) -> Option<WorkerId> {
        let name = path.file_name()?.to_str()?;
        let worker = name
            .strip_prefix(&self.installation)?
            .strip_prefix('.')?
            .strip_suffix(ENDING)?;
        Some(WorkerId::new(worker))
    }
}

/// Whether nobody holds the lock. A file that cannot be asked proves nothing.
fn is_unlocked(path: &Path) -> bool {
    let Ok(file) = File::open(path) else {
        return false;
    };
    match file.try_lock() {
        Ok(()) => true,
        Err(TryLockError::WouldBlock) => false,
        Err(TryLockError::Error(error)) => {
            tracing::warn!(%error, path = %path.display(), "a worker's lock cannot be looked at");
            false
        }
    }
}

#[async_trait]
impl Presence for LockFiles {
    async fn dead(&self) -> Vec<WorkerId> {
        let files = self.files.clone();
        match tokio::task::spawn_blocking(move || files.dead()).await {
            Ok(Ok(dead)) => dead,
            Ok(Err(error)) => {
                tracing::warn!(%error, "dead workers cannot be looked for");
                Vec::new()
            }
            Err(error) => {
                tracing::warn!(%error, "the search for dead workers ended badly");
                Vec::new()
            }
        }
    }

    async fn bury(&self, worker: &WorkerId) {
        let Files {
            directory,
            installation,
            ..
        } = &*self.files;
        let path = directory.join(format!("{installation}.{worker}{ENDING}"));
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, path = %path.display(), "a dead worker's file stays"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(name: &str) -> WorkerId {
        WorkerId::new(name)
    }

    #[tokio::test]
    async fn only_workers_of_the_same_database_whose_process_is_gone_are_dead() {
        let place = tempfile::tempdir().unwrap();
        let announce =
            |installation, name| LockFiles::announce(place.path(), installation, &worker(name)).unwrap();
        let (first, second) = (announce("here", "first"), announce("here", "second"));
        let _stranger = announce("elsewhere", "stranger");
        assert_eq!(first.dead().await, []);
        // As if the process had been killed: the lock goes, the file stays.
        let path = second.files.own.clone();
        let kept = std::mem::ManuallyDrop::new(second);
        assert!(kept.files.own.exists());
        kept.lock.unlock().unwrap();
        assert_eq!(first.dead().await, [worker("second")]);
        fs::write(place.path().join("workers/elsewhere.dead.worker"), "").unwrap();
        assert_eq!(first.dead().await, [worker("second")]);
        first.bury(&worker("second")).await;
        assert!(!path.exists());
        assert_eq!(first.dead().await, []);
    }

    #[tokio::test]
    async fn a_worker_that_ends_properly_leaves_no_file() {
        let place = tempfile::tempdir().unwrap();
        let only = LockFiles::announce(place.path(), "here", &worker("only")).unwrap();
        drop(only);
        assert_eq!(fs::read_dir(place.path().join("workers")).unwrap().count(), 0);
    }
}
