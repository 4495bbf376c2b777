//! Limits: in force, or refused.

use super::Rig;
use crate::ports::RuntimeError;
use crate::ports::runtime::{ContainerSpec, Observation, ResourceLimits};

const MEMORY: u64 = 64 << 20;

/// Whether to go on: where the engine says that it does not enforce the limit, the container must be refused.
async fn accepted(rig: &Rig, spec: &ContainerSpec, enforced: bool, word: &str) -> bool {
    if enforced {
        rig.start(spec).await;
        return true;
    }
    let error = rig
        .runtime
        .ensure(spec)
        .await
        .expect_err("a limit that is not enforced is refused");
    assert!(
        matches!(&error, RuntimeError::Unsupported { capability, .. } if capability.contains(word)),
        "{error}"
    );
    assert_eq!(
        rig.observe(spec).await,
        Observation::Gone,
        "nothing is left of what was refused"
    );
    false
}

/// A program that takes more memory than it may is killed.
pub async fn memory_is_limited_or_refused(rig: &Rig) {
    let capabilities = rig.runtime.capabilities().await.expect("the engine answers");
    // `tail` keeps the last line, and here there is only one.
    let mut spec = rig.shell("head -c 200000000 /dev/zero | tail -n 1 >/dev/null; echo $?");
    spec.limits = ResourceLimits {
        memory: Some(MEMORY),
        ..ResourceLimits::default()
    };
    if accepted(rig, &spec, capabilities.memory_limit, "memory").await {
        let (code, log) = rig.end_of(&spec).await;
        assert!(
            code == 137 || log.iter().any(|line| line == "137"),
            "{code} {log:?}"
        );
    }
}

/// A program that starts more processes than it may fails to.
pub async fn processes_are_limited_or_refused(rig: &Rig) {
    let capabilities = rig.runtime.capabilities().await.expect("the engine answers");
    let mut spec = rig.shell("i=0; while [ $i -lt 60 ]; do sleep 1 & i=$((i+1)); done; echo all; wait");
    spec.limits = ResourceLimits {
        pids: Some(20),
        ..ResourceLimits::default()
    };
    if accepted(rig, &spec, capabilities.pids_limit, "processes").await {
        let (_, log) = rig.end_of(&spec).await;
        assert!(!log.contains(&"all".to_owned()), "{log:?}");
        assert!(log.iter().any(|line| line.contains("fork")), "{log:?}");
    }
}

/// A program gets its share of a processor and no more.
pub async fn processors_are_limited_or_refused(rig: &Rig) {
    let capabilities = rig.runtime.capabilities().await.expect("the engine answers");
    // Its own processor time in hundredths of a second, after two seconds of the wall clock.
    let mut spec = rig.shell(
        "end=$(($(cut -d. -f1 /proc/uptime) + 3)); while [ $(cut -d. -f1 /proc/uptime) -lt $end ]; do :; done; \
         set -- $(cat /proc/self/stat /proc/$$/stat | tail -n 1); echo $((${14} + ${15} + ${16} + ${17}))",
    );
    spec.limits = ResourceLimits {
        cpus: Some(0.25),
        ..ResourceLimits::default()
    };
    if accepted(rig, &spec, capabilities.cpu_limit, "processors").await {
        let (_, log) = rig.end_of(&spec).await;
        let spent: u64 = log
            .first()
            .and_then(|line| line.parse().ok())
            .expect("it tells its time");
        assert!(
            (10..=120).contains(&spent),
            "a quarter of two to three seconds, not {spent} hundredths"
        );
    }
}

/// Who accepts that limits are not enforced gets the container; the hardening is not part of that.
pub async fn unenforced_limits_can_be_accepted(rig: &Rig) {
    let mut spec = rig.shell("grep -E '^(CapEff|NoNewPrivs):' /proc/self/status | tr -d '\\t '");
    spec.limits = ResourceLimits {
        memory: Some(MEMORY),
        cpus: Some(1.0),
        pids: Some(64),
    };
    spec.allow_unenforced_limits = true;
    assert_eq!(
        rig.output(&spec).await,
        ["CapEff:0000000000000000", "NoNewPrivs:1"]
    );
}

/// What the engine says of itself is whole.
pub async fn capabilities_are_told(rig: &Rig) {
    let capabilities = rig.runtime.capabilities().await.expect("the engine answers");
    assert!(
        ["docker", "podman"].contains(&capabilities.engine.as_str()),
        "{capabilities:?}"
    );
    assert!(
        capabilities
            .version
            .starts_with(|first: char| first.is_ascii_digit()),
        "{capabilities:?}"
    );
    assert_eq!(
        capabilities.rootless,
        capabilities.host_user != Some(0),
        "{capabilities:?}"
    );
}
