//! What Podman tells, in our words.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use fabrica_core::ports::runtime::{Capabilities, ImageInfo, Observation};
use podman_api::models::{
    ImageData, Info, InspectContainerData, InspectContainerHostConfig, InspectContainerState, InspectMount,
};

use crate::engine::{Facts, Inspected, MountFact, MountKind, Terms, unsigned};

pub(super) fn facts(info: Info, socket: &Path) -> Facts {
    let host = info.host.as_ref();
    let security = host.and_then(|host| host.security.as_ref());
    let rootless = security.and_then(|security| security.rootless).unwrap_or(false);
    // A rootless Podman on cgroup v1 ignores every limit; elsewhere it enforces what it was given a controller for.
    let ignores = rootless && host.and_then(|host| host.cgroup_version.as_deref()) == Some("v1");
    let controllers = host
        .and_then(|host| host.cgroup_controllers.as_deref())
        .unwrap_or_default();
    let enforces = |controller: &str| !ignores && controllers.iter().any(|one| one == controller);
    let host_user = if rootless {
        std::fs::metadata(socket).ok().map(|metadata| metadata.uid())
    } else {
        Some(0)
    };
    Facts {
        capabilities: Capabilities {
            engine: "podman".to_owned(),
            version: info
                .version
                .and_then(|version| version.version)
                .unwrap_or_default(),
            rootless,
            host_user,
            memory_limit: enforces("memory"),
            cpu_limit: enforces("cpu"),
            pids_limit: enforces("pids"),
        },
        seccomp: security
            .and_then(|security| security.seccomp_enabled)
            .unwrap_or(false),
    }
}

pub(super) fn inspected(found: InspectContainerData) -> Inspected {
    // What is not told is not held: `Terms::default` keeps no promise.
    let mut terms = found.host_config.as_ref().map(terms).unwrap_or_default();
    let (user, labels) = found
        .config
        .map(|config| (config.user, config.labels))
        .unwrap_or_default();
    let no_caps = |caps: &Option<Vec<String>>| caps.as_ref().is_none_or(Vec::is_empty);
    terms.no_capabilities &= no_caps(&found.bounding_caps) && no_caps(&found.effective_caps);
    terms.user = user.unwrap_or_default();
    terms.mounts = found.mounts.unwrap_or_default().into_iter().map(mount).collect();
    Inspected {
        id: found.id.unwrap_or_default(),
        labels: labels.unwrap_or_default().into_iter().collect(),
        observation: found.state.map_or(
            Observation::Pending {
                reason: "unknown".to_owned(),
            },
            observation,
        ),
        terms,
    }
}

fn terms(host: &InspectContainerHostConfig) -> Terms {
    let options = host.security_opt.as_deref().unwrap_or_default();
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
        no_capabilities: host.cap_add.as_ref().is_none_or(Vec::is_empty),
        no_new_privileges: options.iter().any(|one| one == "no-new-privileges"),
        seccomp_off: options.iter().any(|one| one == "seccomp=unconfined"),
        network: host.network_mode.clone().unwrap_or_default(),
        user: String::new(),
        host_namespaces: namespaces
            .iter()
            .filter(|(_, mode)| shared(mode))
            .map(|(name, _)| *name)
            .collect(),
        devices: host.devices.as_ref().map_or(0, Vec::len),
        mounts: Vec::new(),
        tmpfs: host.tmpfs.iter().flat_map(|all| all.keys().cloned()).collect(),
    }
}

fn mount(point: InspectMount) -> MountFact {
    let (kind, source) = match point.type_.as_deref() {
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

fn observation(state: InspectContainerState) -> Observation {
    match state.status.as_deref() {
        // `stopping`: it got its signal and has not ended.
        Some("running" | "paused" | "stopping") => Observation::Running,
        Some(status @ ("created" | "configured" | "initialized")) => Observation::Pending {
            reason: status.to_owned(),
        },
        _ => Observation::Exited {
            code: state.exit_code.map_or(-1, i64::from),
            out_of_memory: state.oom_killed.unwrap_or(false),
            reason: state.error.unwrap_or_default(),
        },
    }
}

pub(super) fn image(image: ImageData) -> ImageInfo {
    ImageInfo {
        id: image.id.unwrap_or_default(),
        size: unsigned(image.size),
        labels: image.labels.unwrap_or_default().into_iter().collect(),
    }
}
