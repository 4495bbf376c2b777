//! What Podman is asked to create. The body is written out, since podman-api misspells one of its keys.

use serde_json::{Value, json};

use crate::engine::{Creation, signed, tmpfs_options};

/// Processors are given as microseconds of each such period.
const CPU_PERIOD: u64 = 100_000;
const LOG_SIZE: u64 = 10 << 20;
const SIGTERM: i32 = 15;

pub(super) fn body(plan: &Creation<'_>) -> Value {
    let spec = plan.spec;
    json!({
        "name": spec.name,
        "image": spec.image,
        // The whole command is the entry point, so that neither the image's entry point nor its command counts.
        "entrypoint": spec.command,
        "command": [],
        "env": spec.environment,
        "user": plan.user(),
        "work_dir": spec.working_directory,
        "labels": plan.labels,
        "stop_signal": SIGTERM,
        "healthconfig": { "Test": ["NONE"] },
        "image_volume_mode": "ignore",
        "netns": { "nsmode": "none" },
        "cap_drop": ["ALL"],
        "no_new_privileges": true,
        "read_only_filesystem": true,
        "privileged": false,
        "restart_policy": "no",
        // The volume is the user's already; `U` gives the user what the image has at that place as well.
        "volumes": [{ "Name": spec.name, "Dest": spec.workspace, "Options": ["U"] }],
        "mounts": mounts(plan),
        "resource_limits": limits(plan),
        "log_configuration": { "driver": "k8s-file", "size": LOG_SIZE },
    })
}

fn mounts(plan: &Creation<'_>) -> Vec<Value> {
    let binds = plan.spec.binds.iter().map(|bind| {
        json!({
            "type": "bind",
            "source": bind.host,
            "destination": bind.container,
            "options": ["rbind", if bind.read_only { "ro" } else { "rw" }],
        })
    });
    let tmpfs = plan.spec.tmpfs.iter().map(|one| {
        let mut options = tmpfs_options(one.size);
        // Podman copies the image's files there unless told otherwise; Docker does not.
        options.push("notmpcopyup".to_owned());
        json!({ "type": "tmpfs", "source": "tmpfs", "destination": one.container, "options": options })
    });
    binds.chain(tmpfs).collect()
}

fn limits(plan: &Creation<'_>) -> Value {
    let mut limits = json!({});
    if let Some(bytes) = plan.limits.memory.map(signed) {
        limits["memory"] = json!({ "limit": bytes, "swap": bytes });
    }
    if let Some(nano) = plan.nano_cpus() {
        limits["cpu"] = json!({ "quota": nano / 10_000, "period": CPU_PERIOD });
    }
    if let Some(pids) = plan.limits.pids {
        limits["pids"] = json!({ "limit": pids });
    }
    limits
}
