//! Workspaces, memory file systems and mounts.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use super::{PATIENCE, Rig};
use crate::ports::runtime::{Bind, Tmpfs};

/// A memory file system takes files, runs them, and has its size.
pub async fn a_memory_file_system_is_writable_executable_and_limited(rig: &Rig) {
    let mut spec = rig.shell(
        "for d in /tmp /fabrica/home; do printf '#!/bin/sh\\necho ran in $1\\n' >$d/run && chmod +x $d/run && \
         $d/run $d || exit 1; head -c 3000000 /dev/zero >$d/big && echo no limit; done; :",
    );
    spec.tmpfs = ["/tmp", "/fabrica/home"]
        .map(|path| Tmpfs {
            container: path.to_owned(),
            size: 2 << 20,
        })
        .into();
    let log = rig.output(&spec).await;
    assert!(
        log.contains(&"ran in /tmp".to_owned()) && log.contains(&"ran in /fabrica/home".to_owned()),
        "{log:?}"
    );
    assert!(!log.contains(&"no limit".to_owned()), "{log:?}");
}

/// The user may write to the workspace, and run what is there: whether the image has that directory for the user,
/// has it for root, or does not have it.
pub async fn the_workspace_belongs_to_the_user(rig: &Rig) {
    for (place, user) in [
        ("/workspace", 1000),
        ("/home", 1000),
        ("/elsewhere/deep", 1000),
        ("/elsewhere", 1717),
    ] {
        let mut spec = rig.shell(
            "cd \"$1\" && mkdir d && printf '#!/bin/sh\\necho ran\\n' >d/run && chmod +x d/run && d/run",
        );
        spec.command.extend(["sh".to_owned(), place.to_owned()]);
        spec.workspace = place.to_owned();
        spec.user = (user, user);
        assert_eq!(rig.output(&spec).await, ["ran"], "{place} for {user}");
    }
}

/// The workspace starts empty and goes with its container, also for the next one of the same name.
pub async fn the_workspace_goes_with_its_container(rig: &Rig) {
    let spec = rig.shell("ls /workspace; echo data >/workspace/file");
    for _ in 0..2 {
        assert_eq!(rig.output(&spec).await, Vec::<String>::new());
        rig.runtime.remove(&spec.name).await.expect("it is removed");
    }
}

/// A container does not see another's workspace.
pub async fn workspaces_are_apart(rig: &Rig) {
    let first = rig.shell("echo data >/workspace/file; echo written; while :; do sleep 0.1; done");
    rig.start(&first).await;
    rig.until_logged(&first, "written").await;
    let second = rig.shell("ls /workspace");
    assert_eq!(rig.output(&second).await, Vec::<String>::new());
}

fn directory(rig: &Rig, name: &str) -> PathBuf {
    let path = rig.scratch.join(name);
    fs::create_dir(&path).expect("the scratch directory is ours");
    open(&path, 0o777);
    path
}

fn open(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("the scratch directory is ours");
}

/// Directories of the host: one may be read only, the other written to.
pub async fn a_directory_of_the_host_is_mounted_as_asked(rig: &Rig) {
    let read = directory(rig, "read");
    fs::write(read.join("input"), "from the host\n").expect("the scratch directory is ours");
    open(&read.join("input"), 0o666);
    let write = directory(rig, "write");
    let mut spec = rig.shell("cat /read/input; echo changed >/read/input; echo from inside >/write/output");
    spec.binds = vec![
        Bind {
            host: read.clone(),
            container: "/read".to_owned(),
            read_only: true,
        },
        Bind {
            host: write.clone(),
            container: "/write".to_owned(),
            read_only: false,
        },
    ];
    let log = rig.output(&spec).await;
    assert!(log.contains(&"from the host".to_owned()), "{log:?}");
    assert_eq!(
        fs::read_to_string(read.join("input")).expect("it is there"),
        "from the host\n"
    );
    assert_eq!(
        fs::read_to_string(write.join("output")).expect("it is there"),
        "from inside\n"
    );
}

/// A Unix socket of the host can be connected to, by an ordinary user without network and capabilities.
///
/// The socket is mounted as `/dev/log`, where busybox's `logger` connects: a busybox can connect to no other.
pub async fn a_socket_of_the_host_can_be_connected_to(rig: &Rig) {
    let place = directory(rig, "socket");
    let path = place.join("log");
    let socket = UnixDatagram::bind(&path).expect("a socket can be made in the scratch directory");
    open(&path, 0o666);
    socket
        .set_read_timeout(Some(PATIENCE))
        .expect("a socket takes a timeout");
    let mut spec = rig.shell("ls /sockets; logger hello from inside");
    spec.binds = vec![
        Bind {
            host: place.clone(),
            container: "/sockets".to_owned(),
            read_only: true,
        },
        Bind {
            host: path,
            container: "/dev/log".to_owned(),
            read_only: false,
        },
    ];
    assert_eq!(rig.output(&spec).await, ["log"]);
    let heard = tokio::task::spawn_blocking(move || {
        let mut buffer = [0; 1024];
        socket
            .recv(&mut buffer)
            .map(|length| String::from_utf8_lossy(&buffer[..length]).into_owned())
    });
    let heard = heard
        .await
        .expect("the listener ends")
        .expect("something was sent");
    assert!(heard.contains("hello from inside"), "{heard:?}");
}
