# shellcheck shell=bash
# Settings for Podman where the machine needs some (no systemd, cgroup v1 or hybrid, no CAP_SYS_RESOURCE), else nothing.
# usage: source scripts/podman-environment.sh          in bash
#        eval "$(bash scripts/podman-environment.sh)"  in another shell
# Sets CONTAINERS_CONF and CONTAINERS_STORAGE_CONF, to files in FABRICA_PODMAN_STATE (default: target/services).
# A machine or a user that has a containers.conf or storage.conf of its own keeps it.

fabrica_podman_containers_conf() {
    local nofile nproc
    echo '[engine]'
    if [[ ! -d /run/systemd/system ]]; then
        printf 'cgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
    fi
    # crun refuses hybrid cgroups.
    if [[ $(stat -fc %T /sys/fs/cgroup) != cgroup2fs ]] && PATH=$PATH:/usr/sbin command -v runc >/dev/null; then
        echo 'runtime = "runc"'
    fi
    # Podman raises these limits for each container, which needs CAP_SYS_RESOURCE (bit 24).
    # Soft must equal hard: Podman 4.3 swaps the two in its API.
    nofile=$(ulimit -Hn) nproc=$(ulimit -Hu)
    if [[ $nofile != unlimited && $nofile -lt 1048576 ]] &&
        (((0x$(sed -n 's/^CapBnd:[[:space:]]*//p' /proc/self/status) >> 24 & 1) == 0)); then
        [[ $nproc != unlimited && $nproc -lt 32768 ]] || nproc=32768
        printf '[containers]\ndefault_ulimits = ["nofile=%s:%s", "nproc=%s:%s"]\n' "$nofile" "$nofile" "$nproc" "$nproc"
    fi
}

fabrica_podman_environment() {
    local state data=${XDG_DATA_HOME:-$HOME/.local/share} user_configuration=${XDG_CONFIG_HOME:-$HOME/.config}/containers
    local configuration
    state=${FABRICA_PODMAN_STATE:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/target/services}
    configuration=$(fabrica_podman_containers_conf)
    [[ $configuration != '[engine]' ]] || return 0
    if [[ -z ${CONTAINERS_CONF:-} && ! -e /etc/containers/containers.conf && ! -e $user_configuration/containers.conf ]]; then
        mkdir -p "$state"
        CONTAINERS_CONF=$state/containers.$(id -u).conf
        echo "$configuration" >"$CONTAINERS_CONF"
        export CONTAINERS_CONF
    fi
    # Without a storage.conf an ordinary user gets vfs, which copies the image for every container;
    # overlay works without root from Linux 5.13 on.
    if [[ $(id -u) != 0 && -z ${CONTAINERS_STORAGE_CONF:-} && ! -e $user_configuration/storage.conf &&
        ! -d $data/containers/storage/vfs-images ]] && printf '5.13\n%s\n' "$(uname -r)" | sort -VC; then
        mkdir -p "$state"
        CONTAINERS_STORAGE_CONF=$state/storage.$(id -u).conf
        cat >"$CONTAINERS_STORAGE_CONF" <<END
[storage]
driver = "overlay"
graphroot = "$data/containers/storage"
runroot = "${XDG_RUNTIME_DIR:-/tmp/podman-run-$(id -u)}/containers"
END
        export CONTAINERS_STORAGE_CONF
    fi
}

fabrica_podman_environment
if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
    [[ -z ${CONTAINERS_CONF:-} ]] || printf 'export CONTAINERS_CONF=%q\n' "$CONTAINERS_CONF"
    [[ -z ${CONTAINERS_STORAGE_CONF:-} ]] || printf 'export CONTAINERS_STORAGE_CONF=%q\n' "$CONTAINERS_STORAGE_CONF"
fi
unset -f fabrica_podman_containers_conf fabrica_podman_environment
