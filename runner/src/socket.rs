//! The gateway's socket. Whoever serves the session puts a socket into the shared directory; when another process of
//! Fabrica takes over, it puts its own in the same place. The one before may be frozen: it goes on accepting
//! connections and never answers. So the place is watched, and what is connected to an earlier socket is cut.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::info;

/// How often the socket is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// The place where the gateway is; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Socket(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    /// The last socket that was seen in the place. One that is missing says nothing: its owner may serve on.
    present: watch::Sender<Option<Identity>>,
    disturbances: AtomicU64,
}

/// What tells one socket from another in the same place. The time is there since inodes are used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    made: (i64, i64),
}

/// A connection to the gateway.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: UnixStream,
    pub(crate) replaced: Replaced,
}

/// Tells when the socket of a connection is not the gateway's any more.
#[derive(Debug)]
pub(crate) struct Replaced {
    present: watch::Receiver<Option<Identity>>,
    known: Option<Identity>,
}

impl Socket {
    pub(crate) fn new(path: PathBuf) -> Self {
        let socket = Self(Arc::new(Shared {
            path,
            present: watch::Sender::new(None),
            disturbances: AtomicU64::new(0),
        }));
        // That there is none yet is no error.
        let _ = socket.look();
        socket
    }

    /// Looks at the socket for as long as it runs.
    pub(crate) async fn watch(self) {
        loop {
            sleep(LOOK).await;
            let _ = self.look();
        }
    }

    /// Connects to the socket that is there now.
    pub(crate) async fn connect(&self) -> io::Result<Connection> {
        // Looked at before, not after: if it changes in between, the connection is cut once for nothing, instead of never.
        let connected = match self.look() {
            Ok(known) => UnixStream::connect(&self.0.path).await.map(|stream| Connection {
                stream,
                replaced: Replaced {
                    present: self.0.present.subscribe(),
                    known: Some(known),
                },
            }),
            Err(error) => Err(error),
        };
        if connected.is_err() {
            self.disturbed();
        }
        connected
    }

    /// Tells when there is another socket than now.
    pub(crate) fn changes(&self) -> Replaced {
        let present = self.0.present.subscribe();
        let known = *present.borrow();
        Replaced { present, known }
    }

    /// How often the gateway was away so far. If the number grows during a step that fails, the step may be innocent.
    pub(crate) fn disturbances(&self) -> u64 {
        self.0.disturbances.load(Ordering::Relaxed)
    }

    /// Counts a time that the gateway was away.
    pub(crate) fn disturbed(&self) {
        self.0.disturbances.fetch_add(1, Ordering::Relaxed);
    }

    fn look(&self) -> io::Result<Identity> {
        let metadata = std::fs::metadata(&self.0.path)?;
        let now = Identity {
            device: metadata.dev(),
            inode: metadata.ino(),
            made: (metadata.mtime(), metadata.mtime_nsec()),
        };
        let changed = self.0.present.send_if_modified(|present| {
            let before = present.replace(now);
            before.is_some_and(|before| before != now)
        });
        if changed {
            info!("another process serves the session now");
            self.disturbed();
        }
        Ok(now)
    }
}

impl Replaced {
    /// Waits until there is another socket than the one that was known, and knows that one from then on.
    pub(crate) async fn wait(&mut self) {
        let known = self.known;
        let other = |present: &Option<Identity>| present.is_some() && *present != known;
        let present = self.present.wait_for(other).await.map(|present| *present);
        match present {
            Ok(present) => self.known = present,
            // Nobody watches any more.
            Err(_) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio::net::UnixListener;
    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn put_in_place(path: &Path) -> UnixListener {
        let unfinished = path.with_extension("new");
        let listener = UnixListener::bind(&unfinished).unwrap();
        std::fs::rename(&unfinished, path).unwrap();
        listener
    }

    #[tokio::test]
    async fn a_connection_hears_that_another_socket_took_the_place_and_not_that_one_is_missing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("gateway.sock");
        let socket = Socket::new(path.clone());
        assert!(socket.connect().await.is_err());
        assert_eq!(socket.disturbances(), 1);
        let _first = put_in_place(&path);
        let mut connection = socket.connect().await.unwrap();
        let watching = tokio::spawn(socket.clone().watch());
        assert_eq!(socket.disturbances(), 1, "the first one is no change");
        std::fs::remove_file(&path).unwrap();
        let early = timeout(LOOK * 3, connection.replaced.wait()).await;
        assert!(early.is_err(), "its owner may serve on");
        let _second = put_in_place(&path);
        timeout(SOON, connection.replaced.wait()).await.unwrap();
        assert_eq!(socket.disturbances(), 2);
        let mut fresh = socket.connect().await.unwrap();
        let quiet = timeout(LOOK * 3, fresh.replaced.wait()).await;
        assert!(quiet.is_err(), "the new connection is to the new socket");
        watching.abort();
    }

    #[tokio::test]
    async fn connecting_notices_a_change_by_itself() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("gateway.sock");
        let _first = put_in_place(&path);
        let socket = Socket::new(path.clone());
        let mut changes = socket.changes();
        let _second = put_in_place(&path);
        let _connection = socket.connect().await.unwrap();
        timeout(SOON, changes.wait()).await.unwrap();
    }
}
