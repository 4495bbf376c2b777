//! The directory of one attempt, which the sandbox mounts, and the socket in it.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use fabrica_core::clock::{Entropy as _, SystemEntropy};
use fabrica_core::ids::Fence;
use fabrica_core::ports::GatewayError;
use fabrica_core::protocol::GATEWAY_SOCKET;

/// A socket is made under a name that begins like this, and gets its own once it is ready. What follows differs, since
/// another process may do the same in the same directory at the same time. The whole is no longer than the final name.
const UNFINISHED: &str = "new-";
/// `sun_path` has 108 bytes, the last of which is zero.
const LONGEST_SOCKET_PATH: usize = 107;

/// Where the sockets are, and whose they are.
#[derive(Debug, Clone)]
pub(crate) struct Sockets {
    pub(crate) parent: PathBuf,
    pub(crate) owner: Option<u32>,
}

impl Sockets {
    /// The directory of an attempt: the first and the last eight digits of the session's id, short since a socket's path
    /// is bounded, and the number of the attempt.
    pub(crate) fn leaf(&self, fence: Fence) -> PathBuf {
        let digits = fence.session.as_uuid().simple().to_string();
        self.parent
            .join(format!("{}{}-{}", &digits[..8], &digits[24..], fence.attempt))
    }

    /// Makes the directory if it is missing and listens in it. A socket that is there, of a process that crashed or
    /// stopped, is replaced; the directory is kept, since a sandbox that still runs has mounted it.
    pub(crate) fn listen(&self, leaf: &Path) -> Result<UnixListener, GatewayError> {
        let failed = |action| {
            move |source| GatewayError {
                action,
                directory: leaf.to_owned(),
                source,
            }
        };
        let socket = leaf.join(GATEWAY_SOCKET);
        let length = socket.as_os_str().len();
        if length > LONGEST_SOCKET_PATH {
            let reason =
                format!("the socket's path would have {length} bytes, at most {LONGEST_SOCKET_PATH} fit");
            return Err(failed("listen in")(io::Error::new(
                io::ErrorKind::InvalidInput,
                reason,
            )));
        }
        self.make_parent().map_err(failed("create"))?;
        make_directory(leaf, 0o711).map_err(failed("create"))?;
        self.give(leaf).map_err(failed("create"))?;
        self.bind(leaf, &socket).map_err(failed("listen in"))
    }

    /// Removes the directory of an attempt with all that is in it.
    pub(crate) fn remove(leaf: &Path) -> Result<(), GatewayError> {
        match fs::remove_dir_all(leaf) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(GatewayError {
                action: "remove",
                directory: leaf.to_owned(),
                source,
            }),
            _ => Ok(()),
        }
    }

    fn make_parent(&self) -> io::Result<()> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.parent)?;
        // The sockets are open to every user, so that a sandbox's user can connect: this directory keeps others out.
        // It is not closed here, since it may be one that the operator shares with something else.
        let mode = fs::metadata(&self.parent)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            let reason = format!("its parent is open to other users (mode {mode:o}), it must have mode 700");
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
        }
        self.give(&self.parent)
    }

    fn bind(&self, leaf: &Path, socket: &Path) -> io::Result<UnixListener> {
        let mut random = [0; 4];
        SystemEntropy.fill(&mut random);
        let unfinished = leaf.join(format!("{UNFINISHED}{:08x}", u32::from_ne_bytes(random)));
        let listener = UnixListener::bind(&unfinished)?;
        // To connect needs the right to write, for whatever user the sandbox's is mapped to.
        fs::set_permissions(&unfinished, Permissions::from_mode(0o666))?;
        self.give(&unfinished)?;
        fs::rename(&unfinished, socket)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }

    fn give(&self, path: &Path) -> io::Result<()> {
        match self.owner {
            Some(owner) => chown(path, Some(owner), None),
            None => Ok(()),
        }
    }
}

fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    if !fs::symlink_metadata(path)?.is_dir() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "something that is no directory is in its place",
        ));
    }
    // After the umask had its say.
    fs::set_permissions(path, Permissions::from_mode(mode))
}
