//! What Docker tells, in our words.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use bollard::models::{
    ContainerInspectResponse, ContainerState, ContainerStateStatusEnum, HostConfig, ImageInspect, MountPoint,
    SystemInfo,
};
use fabrica_core::ports::runtime::{Capabilities, ImageInfo, Observation};

use crate::engine::{Facts, Inspected, MountFact, MountKind, Terms, unsigned};

pub(super) fn facts(info: SystemInfo, socket: Option<&Path>) -> Facts {
    let security = info.security_options.unwrap_or_default();
    let named = |name: &str| {
        security
            .iter()
            .find(|option| option.split(',').any(|part| part == name))
    };
    let rootless = named("name=rootless").is_some();
    let host_user = if rootless {
        socket
            .and_then(|path| std::fs::metadata(path).ok())
            .map(|metadata| metadata.uid())
    } else if named("name=userns").is_some() {
        None
    } else {
        Some(0)
    };
    Facts {
        capabilities: Capabilities {
            engine: "docker".to_owned(),
            version: info.server_version.unwrap_or_default(),
            rootless,
            host_user,
            memory_limit: info.memory_limit.unwrap_or(false),
            cpu_limit: info.cpu_cfs_quota.unwrap_or(false),
            pids_limit: info.pids_limit.unwrap_or(false),
        },
        seccomp: named("name=seccomp").is_some_and(|option| !option.contains("profile=unconfined")),
    }
}

pub(super) fn inspected(found: ContainerInspectResponse) -> Inspected {
    let config = found.config.unwrap_or_default();
    let mut terms = terms(&found.host_config.unwrap_or_default());
    terms.user = config.user.unwrap_or_default();
    terms.mounts = found.mounts.unwrap_or_default().into_iter().map(mount).collect();
    Inspected {
        id: found.id.unwrap_or_default(),
        labels: config.labels.unwrap_or_default().into_iter().collect(),
        observation: observation(found.state.unwrap_or_default()),
        terms,
    }
}

fn terms(host: &HostConfig) -> Terms {
    let options = host.security_opt.as_deref().unwrap_or_default();
    let dropped = host.cap_drop.as_deref().unwrap_or_default();
    let added = host.cap_add.as_deref().unwrap_or_default();
    let namespaces = [
        ("pid", &host.pid_mode),
        ("ipc", &host.ipc_mode),
        ("uts", &host.uts_mode),
        ("user", &host.userns_mode),
    ];
    let shared = |mode: &&Option<String>| {
        mode.as_deref()
            .is_some_and(|mode| mode == "host" || mode.starts_with("container:"))
    };
    Terms {
        memory: host.memory.unwrap_or(0),
        nano_cpus: host.nano_cpus.unwrap_or(0),
        pids: host.pids_limit.unwrap_or(0),
        read_only_root: host.readonly_rootfs.unwrap_or(false),
        privileged: host.privileged.unwrap_or(false),
        no_capabilities: added.is_empty() && dropped.iter().any(|one| one.eq_ignore_ascii_case("all")),
        no_new_privileges: options.iter().any(|one| {
            matches!(
                one.as_str(),
                "no-new-privileges" | "no-new-privileges:true" | "no-new-privileges=true"
            )
        }),
        seccomp_off: options
            .iter()
            .any(|one| matches!(one.as_str(), "seccomp=unconfined" | "seccomp:unconfined")),
        network: host.network_mode.clone().unwrap_or_default(),
        user: String::new(),
        host_namespaces: namespaces
            .iter()
            .filter(|(_, mode)| shared(mode))
            .map(|(name, _)| *name)
            .collect(),
        devices: host.devices.as_ref().map_or(0, Vec::len)
            + host.device_requests.as_ref().map_or(0, Vec::len),
        mounts: Vec::new(),
        tmpfs: host.tmpfs.iter().flat_map(|all| all.keys().cloned()).collect(),
    }
}

fn mount(point: MountPoint) -> MountFact {
    let (kind, source) = match point.typ.as_deref() {
        Some("bind") => (MountKind::Bind, point.source),
        Some("volume") => (MountKind::Volume, point.name),
        _ => (MountKind::Other, point.source),
    };
    MountFact {
        kind,
        source: source.unwrap_or_default(),
        destination: point.destination.unwrap_or_default(),
        writable: point.rw.unwrap_or(true),
    }
}

fn observation(state: ContainerState) -> Observation {
    use ContainerStateStatusEnum as Status;
    match state.status {
        Some(Status::RUNNING | Status::PAUSED | Status::RESTARTING) => Observation::Running,
        // A program that could not be started leaves the container as it was, with an error and a code.
        Some(Status::CREATED) if state.exit_code.unwrap_or(0) == 0 => Observation::Pending {
            reason: "created".to_owned(),
        },
        _ => Observation::Exited {
            code: state.exit_code.unwrap_or(-1),
            out_of_memory: state.oom_killed.unwrap_or(false),
            reason: state.error.unwrap_or_default(),
        },
    }
}

pub(super) fn image(image: ImageInspect) -> ImageInfo {
    ImageInfo {
        id: image.id.unwrap_or_default(),
        size: unsigned(image.size),
        labels: image
            .config
            .and_then(|config| config.labels)
            .unwrap_or_default()
            .into_iter()
            .collect(),
    }
}
