//! Whether a container is held as tightly as its spec says: what the engine tells about it, against the spec.

use fabrica_core::ports::runtime::{Bind, Capabilities, ContainerSpec, ResourceLimits};

use crate::engine::{MountFact, MountKind, Terms, nano_cpus, signed, user};

const MEMORY: &str = "the memory limit";
const CPUS: &str = "the limit of processors";
const PIDS: &str = "the limit of processes";

/// The limits that the engine enforces, and the first one that it does not.
pub(crate) fn enforceable(
    limits: ResourceLimits,
    capabilities: &Capabilities,
) -> (ResourceLimits, Option<&'static str>) {
    let mut missing = None;
    let mut kept = limits;
    if limits.pids.is_some() && !capabilities.pids_limit {
        kept.pids = None;
        missing = Some(PIDS);
    }
    if limits.cpus.is_some() && !capabilities.cpu_limit {
        kept.cpus = None;
        missing = Some(CPUS);
    }
    if limits.memory.is_some() && !capabilities.memory_limit {
        kept.memory = None;
        missing = Some(MEMORY);
    }
    (kept, missing)
}

/// The first promise that the container does not keep.
pub(crate) fn weakness(spec: &ContainerSpec, terms: &Terms) -> Option<String> {
    hardening(spec, terms)
        .map(str::to_owned)
        .or_else(|| mounts(spec, terms))
        .or_else(|| {
            if spec.allow_unenforced_limits {
                None
            } else {
                limits(spec, terms).map(str::to_owned)
            }
        })
}

fn hardening(spec: &ContainerSpec, terms: &Terms) -> Option<&'static str> {
    let promises = [
        (
            !terms.privileged && terms.no_capabilities,
            "a container without capabilities",
        ),
        (terms.no_new_privileges, "no-new-privileges"),
        (!terms.seccomp_off, "the seccomp profile"),
        (terms.read_only_root, "a read-only root"),
        (terms.network == "none", "a container without network"),
        (
            terms.host_namespaces.is_empty(),
            "namespaces of the container's own",
        ),
        (terms.devices == 0, "a container without devices of the host"),
        (terms.user == user(spec), "the user"),
    ];
    promises
        .into_iter()
        .find_map(|(kept, promise)| (!kept).then_some(promise))
}

fn limits(spec: &ContainerSpec, terms: &Terms) -> Option<&'static str> {
    let limits = spec.limits;
    let promises = [
        (
            limits.memory.is_none_or(|bytes| terms.memory == signed(bytes)),
            MEMORY,
        ),
        (
            limits
                .cpus
                .is_none_or(|cpus| near(terms.nano_cpus, nano_cpus(cpus))),
            CPUS,
        ),
        (limits.pids.is_none_or(|pids| terms.pids == i64::from(pids)), PIDS),
    ];
    promises
        .into_iter()
        .find_map(|(kept, promise)| (!kept).then_some(promise))
}

/// An engine that counts in hundred-thousandths of a processor may round.
fn near(told: i64, asked: i64) -> bool {
    (told - asked).abs() <= 10_000
}

fn mounts(spec: &ContainerSpec, terms: &Terms) -> Option<String> {
    let workspace = terms.mounts.iter().any(|mount| {
        mount.kind == MountKind::Volume
            && mount.source == spec.name.as_str()
            && mount.destination == spec.workspace
            && mount.writable
    });
    if !workspace {
        return Some(format!("the workspace at {}", spec.workspace));
    }
    if let Some(bind) = spec
        .binds
        .iter()
        .find(|bind| !terms.mounts.iter().any(|mount| is(mount, bind)))
    {
        return Some(format!("the mount at {}", bind.container));
    }
    if let Some(tmpfs) = spec
        .tmpfs
        .iter()
        .find(|tmpfs| !terms.tmpfs.contains(&tmpfs.container))
    {
        return Some(format!("the memory file system at {}", tmpfs.container));
    }
    let stranger = terms
        .mounts
        .iter()
        .find(|mount| mount.kind == MountKind::Bind && !spec.binds.iter().any(|bind| is(mount, bind)));
    stranger.map(|mount| format!("a container without the host's {}", mount.source))
}

fn is(mount: &MountFact, bind: &Bind) -> bool {
    mount.kind == MountKind::Bind
        && mount.destination == bind.container
        && mount.writable != bind.read_only
        && bind.host.as_os_str() == mount.source.as_str()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use fabrica_core::ports::runtime::{ContainerName, Tmpfs};

    use super::*;

    fn spec() -> ContainerSpec {
        ContainerSpec {
            name: ContainerName::from_engine("fabrica-x-1"),
            labels: BTreeMap::new(),
            image: "image".to_owned(),
            command: vec!["true".to_owned()],
            environment: BTreeMap::new(),
            user: (1000, 1000),
            working_directory: "/".to_owned(),
            binds: vec![Bind {
                host: "/run/s".into(),
                container: "/run/fabrica".to_owned(),
                read_only: true,
            }],
            workspace: "/workspace".to_owned(),
            tmpfs: vec![Tmpfs {
                container: "/tmp".to_owned(),
                size: 1 << 20,
            }],
            limits: ResourceLimits {
                memory: Some(1 << 30),
                cpus: Some(1.5),
                pids: Some(64),
            },
            allow_unenforced_limits: false,
        }
    }

    type Break = fn(&mut Terms);

    fn kept() -> Terms {
        let mount = |kind, source: &str, destination: &str, writable| MountFact {
            kind,
            source: source.to_owned(),
            destination: destination.to_owned(),
            writable,
        };
        Terms {
            memory: 1 << 30,
            nano_cpus: 1_500_000_000,
            pids: 64,
            read_only_root: true,
            no_capabilities: true,
            no_new_privileges: true,
            network: "none".to_owned(),
            user: "1000:1000".to_owned(),
            mounts: vec![
                mount(MountKind::Volume, "fabrica-x-1", "/workspace", true),
                mount(MountKind::Bind, "/run/s", "/run/fabrica", false),
            ],
            tmpfs: vec!["/tmp".to_owned()],
            ..Terms::default()
        }
    }

    #[test]
    fn a_container_that_is_as_asked_has_no_weakness() {
        assert_eq!(weakness(&spec(), &kept()), None);
    }

    #[test]
    fn every_hardening_promise_is_checked_even_if_unenforced_limits_are_allowed() {
        let breaks: [(Break, &str); 12] = [
            (|t| t.privileged = true, "a container without capabilities"),
            (|t| t.no_capabilities = false, "a container without capabilities"),
            (|t| t.no_new_privileges = false, "no-new-privileges"),
            (|t| t.seccomp_off = true, "the seccomp profile"),
            (|t| t.read_only_root = false, "a read-only root"),
            (|t| t.network = "bridge".to_owned(), "a container without network"),
            (
                |t| t.host_namespaces = vec!["pid"],
                "namespaces of the container's own",
            ),
            (|t| t.devices = 1, "a container without devices of the host"),
            (|t| t.user = "0:0".to_owned(), "the user"),
            (|t| t.mounts[1].writable = true, "the mount at /run/fabrica"),
            (|t| drop(t.mounts.remove(0)), "the workspace at /workspace"),
            (|t| t.tmpfs.clear(), "the memory file system at /tmp"),
        ];
        for (break_it, promise) in breaks {
            let mut terms = kept();
            break_it(&mut terms);
            assert_eq!(weakness(&spec(), &terms).as_deref(), Some(promise));
            let lenient = ContainerSpec {
                allow_unenforced_limits: true,
                ..spec()
            };
            assert_eq!(weakness(&lenient, &terms).as_deref(), Some(promise));
        }
    }

    #[test]
    fn a_mount_of_the_host_that_nobody_asked_for_is_a_weakness() {
        let mut terms = kept();
        let mut extra = terms.mounts[1].clone();
        extra.source = "/".to_owned();
        extra.destination = "/host".to_owned();
        terms.mounts.push(extra);
        assert_eq!(
            weakness(&spec(), &terms).as_deref(),
            Some("a container without the host's /")
        );
    }

    #[test]
    fn a_limit_that_is_not_in_force_is_a_weakness_unless_that_is_allowed() {
        let breaks: [(Break, &str); 3] = [
            (|t| t.memory = 0, MEMORY),
            (|t| t.nano_cpus = 0, CPUS),
            (|t| t.pids = 2048, PIDS),
        ];
        for (break_it, promise) in breaks {
            let mut terms = kept();
            break_it(&mut terms);
            assert_eq!(weakness(&spec(), &terms).as_deref(), Some(promise));
            let lenient = ContainerSpec {
                allow_unenforced_limits: true,
                ..spec()
            };
            assert_eq!(weakness(&lenient, &terms), None);
        }
    }

    #[test]
    fn limits_that_an_engine_lacks_are_left_out_and_the_first_is_named() {
        let none = Capabilities {
            engine: "podman".to_owned(),
            version: "4.3.1".to_owned(),
            rootless: true,
            host_user: Some(1000),
            memory_limit: false,
            cpu_limit: false,
            pids_limit: true,
        };
        let (kept, missing) = enforceable(spec().limits, &none);
        assert_eq!(
            kept,
            ResourceLimits {
                memory: None,
                cpus: None,
                pids: Some(64)
            }
        );
        assert_eq!(missing, Some(MEMORY));
    }
}
