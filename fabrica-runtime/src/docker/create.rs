//! What Docker is asked to create.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigLogConfig, Mount, MountType, RestartPolicy,
    RestartPolicyNameEnum,
};

use crate::engine::{Creation, signed, tmpfs_options};

/// Without limits, the log of a container that writes on and on would fill the disk.
const LOG_SIZE: &str = "10m";

pub(super) fn body(plan: &Creation<'_>) -> ContainerCreateBody {
    let spec = plan.spec;
    ContainerCreateBody {
        image: Some(spec.image.clone()),
        // The whole command is the entry point, so that neither the image's entry point nor its command counts.
        entrypoint: Some(spec.command.clone()),
        cmd: Some(Vec::new()),
        env: Some(
            spec.environment
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect(),
        ),
        user: Some(plan.user()),
        working_dir: Some(spec.working_directory.clone()),
        labels: Some(plan.labels.clone().into_iter().collect()),
        stop_signal: Some("SIGTERM".to_owned()),
        healthcheck: Some(HealthConfig {
            test: Some(vec!["NONE".to_owned()]),
            ..HealthConfig::default()
        }),
        network_disabled: Some(true),
        host_config: Some(host_config(plan)),
        ..ContainerCreateBody::default()
    }
}

fn host_config(plan: &Creation<'_>) -> HostConfig {
    let limits = plan.limits;
    let tmpfs = plan.spec.tmpfs.iter();
    HostConfig {
        network_mode: Some("none".to_owned()),
        cap_drop: Some(vec!["ALL".to_owned()]),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        readonly_rootfs: Some(true),
        privileged: Some(false),
        ipc_mode: Some("private".to_owned()),
        mounts: Some(mounts(plan)),
        tmpfs: Some(
            tmpfs
                .map(|one| (one.container.clone(), tmpfs_options(one.size).join(",")))
                .collect(),
        ),
        memory: limits.memory.map(signed),
        memory_swap: limits.memory.map(signed),
        nano_cpus: plan.nano_cpus(),
        pids_limit: limits.pids.map(i64::from),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(HashMap::from([
                ("max-size".to_owned(), LOG_SIZE.to_owned()),
                ("max-file".to_owned(), "2".to_owned()),
            ])),
        }),
        ..HostConfig::default()
    }
}

fn mounts(plan: &Creation<'_>) -> Vec<Mount> {
    let binds = plan.spec.binds.iter().map(|bind| Mount {
        typ: Some(MountType::BIND),
        source: Some(bind.host.to_string_lossy().into_owned()),
        target: Some(bind.container.clone()),
        read_only: Some(bind.read_only),
        ..Mount::default()
    });
    binds.chain([workspace(plan)]).collect()
}

/// The workspace volume, which exists by now.
pub(super) fn workspace(plan: &Creation<'_>) -> Mount {
    Mount {
        typ: Some(MountType::VOLUME),
        source: Some(plan.spec.name.to_string()),
        target: Some(plan.spec.workspace.clone()),
        read_only: Some(false),
        ..Mount::default()
    }
}
