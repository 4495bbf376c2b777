//! What a container cannot do, seen from inside.

use super::Rig;
use crate::ports::RuntimeError;
use crate::ports::runtime::Observation;

/// No capabilities in any set, no-new-privileges, and a seccomp filter.
pub async fn the_process_has_no_privileges(rig: &Rig) {
    let spec = rig
        .shell("grep -E '^(Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs|Seccomp):' /proc/self/status | tr -d '\\t '");
    let status = rig.output(&spec).await;
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(status.contains(&format!("{set}:0000000000000000")), "{status:?}");
    }
    assert!(status.contains(&"NoNewPrivs:1".to_owned()), "{status:?}");
    assert!(status.contains(&"Seccomp:2".to_owned()), "{status:?}");
}

/// The root file system refuses a write, also where the image lets everybody write.
pub async fn the_root_is_read_only(rig: &Rig) {
    let mut spec =
        rig.shell("for d in / /home /etc /var/tmp /workspace; do touch $d/x && echo wrote $d; done; :");
    "/elsewhere".clone_into(&mut spec.workspace);
    let log = rig.output(&spec).await;
    assert!(!log.iter().any(|line| line.starts_with("wrote")), "{log:?}");
    assert!(
        log.iter().any(|line| line.contains("Read-only file system")),
        "{log:?}"
    );
}

/// There is no network but the container's own loopback.
pub async fn there_is_no_network(rig: &Rig) {
    let spec = rig.shell("for n in /sys/class/net/*; do echo ${n##*/}; done; wc -l </proc/net/route");
    assert_eq!(rig.output(&spec).await, ["lo", "1"]);
}

/// Other processes, of the host or of other containers, are not to be seen.
pub async fn it_sees_only_its_own_processes(rig: &Rig) {
    let other = rig.idle();
    rig.start(&other).await;
    let spec = rig.shell("cd /proc; set -- [0-9]*; echo $#; readlink /proc/1/exe");
    assert_eq!(rig.output(&spec).await, ["1", "/bin/busybox"]);
}

/// The engine's socket and the host's devices are not there.
pub async fn nothing_of_the_host_is_there(rig: &Rig) {
    let spec = rig.shell(
        "find / -xdev -type s 2>/dev/null; for d in /dev/kmsg /dev/mem /dev/sda /dev/vda /dev/fuse; do \
         [ ! -e $d ] || echo $d; done; :",
    );
    assert_eq!(rig.output(&spec).await, Vec::<String>::new());
}

/// A container that would run as root is refused before anything is made.
pub async fn root_is_refused(rig: &Rig) {
    for user in [(0, 0), (0, 1000), (1000, 0)] {
        let mut spec = rig.idle();
        spec.user = user;
        let error = rig.runtime.ensure(&spec).await.expect_err("nothing runs as root");
        assert!(matches!(error, RuntimeError::Denied { .. }), "{error}");
        assert_eq!(rig.observe(&spec).await, Observation::Gone);
    }
}
