# shellcheck shell=bash
# How each service of with-services.sh is found, started and stopped. Sourced by it; uses its $here, $state, $cache,
# $worker and the locks' descriptors $turn and $users.
# shellcheck disable=SC2154

# What comes before a command to run it as root, or as the worker: the ordinary user who owns PostgreSQL and the
# rootless containers. All of it ends in exec, so the process id that the shell sees is the program's.
as_root=(sudo -n)
as_worker=()
owned_by_worker=()
if [[ $(id -u) == 0 ]]; then
    as_root=()
    owned_by_worker=(-o "$worker" -g "$worker")
fi

say() { echo "services: $*" >&2; }
fail() {
    echo "error: $*" >&2
    exit 1
}

# fail_with_log NAME LOG HINT
fail_with_log() {
    [[ ! -e $2 ]] || tail -n 20 "$2" >&2
    echo "error: failed to start $1 (its log: $2)" >&2
    fail "hint: $3"
}

need() {
    command -v "$1" >/dev/null || fail "$1 is missing
hint: run scripts/install-packages.sh test"
}

can_be_root() { "${as_root[@]}" true 2>/dev/null; }

prepare_directories() {
    need curl
    if [[ $(id -u) == 0 ]]; then
        prepare_worker
        as_worker=(setpriv --reuid "$worker" --regid "$worker" --init-groups env -i "USER=$worker" "PATH=$PATH" LANG=C.UTF-8
            "HOME=$(getent passwd "$worker" | cut -d: -f6)" "XDG_RUNTIME_DIR=$state/rootless")
    fi
    install -d -m 700 "${owned_by_worker[@]}" "$state/rootless" "$state/postgres"
}

# An ordinary user with subordinate ids, whose home holds the rootless images.
prepare_worker() {
    local file first
    getent passwd "$worker" >/dev/null ||
        useradd --create-home --home-dir "$cache/home" --shell /usr/sbin/nologin "$worker"
    for file in /etc/subuid /etc/subgid; do
        ! grep -qs "^$worker:" "$file" || continue
        # After every range that is given already.
        first=$(awk -F: '$2 + $3 > last { last = $2 + $3 } END { print last > 100000 ? last : 100000 }' "$file")
        echo "$worker:$first:65536" >>"$file"
    done
}

# answers SOCKET: whether an engine listens there.
answers() { [[ -S $1 ]] && curl -fsS -m 5 -o /dev/null --unix-socket "$1" http://engine/_ping 2>/dev/null; }

# given NAME VALUE: whether the caller named one; it has to answer then.
given() {
    [[ -n $2 ]] || return 1
    answers "$2" || fail "no engine answers at $1=$2
hint: start it, or unset $1 to have one started"
}

# running PIDFILE PROGRAM: whether that program runs in the process group which the file names. Not only its leader:
# rootless Podman's own parent may end before the process that serves.
running() {
    local leader file process program
    { [[ -r $1 ]] && read -r leader <"$1"; } || return 1
    for file in /proc/[0-9]*/stat; do
        { read -r process <"$file"; } 2>/dev/null || continue
        # After the name in brackets: state, parent, group.
        read -r _ _ process _ <<<"${process##*) }"
        [[ $process == "$leader" ]] || continue
        program=$({ tr '\0' ' ' <"${file%stat}cmdline"; } 2>/dev/null) || continue
        [[ $program != *"$2"* ]] || return 0
    done
    return 1
}

# launch NAME AS COMMAND…: in a session of its own, with the locks closed and its output in a log.
launch() {
    local name=$1
    local -n as=$2
    shift 2
    say "starting $name"
    setsid "${as[@]}" "$@" >"$state/$name.log" 2>&1 </dev/null {turn}>&- {users}>&- &
    echo $! >"$state/$name.pid"
}

# await NAME SOCKET HINT: until the service that was just launched answers.
await() {
    local name=$1 socket=$2 hint=$3 pid
    pid=$(<"$state/$name.pid")
    for _ in {1..600}; do
        ! answers "$socket" || return 0
        # What root started has a socket of root's.
        [[ ! -S $socket || -w $socket ]] || "${as_root[@]}" chown "$(id -u)" "$socket"
        [[ -d /proc/$pid ]] || break
        sleep 0.05
    done
    fail_with_log "$name" "$state/$name.log" "$hint"
}

# stop NAME PROGRAM AS: ends what launch started, and waits for it.
stop() {
    local name=$1 program=$2 pid
    local -n as=$3
    running "$state/$name.pid" "$program" || return 0
    pid=$(<"$state/$name.pid")
    "${as[@]}" kill -TERM -- "-$pid" 2>/dev/null || true
    for _ in {1..600}; do
        running "$state/$name.pid" "$program" || break
        sleep 0.05
    done
    if running "$state/$name.pid" "$program"; then
        say "$name ($pid) did not stop within 30 s"
        "${as[@]}" kill -KILL -- "-$pid"
        return 1
    fi
    rm -f "$state/$name.pid"
}

postgres_program() {
    local found
    found=$(command -v initdb) || found=$(compgen -G '/usr/lib/postgresql/*/bin/initdb' | sort -V | tail -n 1) || true
    [[ -n $found ]] || need initdb
    echo "$(dirname "$(readlink -f "$found")")/$1"
}

ensure_postgres() {
    local data=$cache/postgres log=$state/postgres/server.log url=$state/postgres/url password port
    [[ -z ${FABRICA_TEST_DATABASE_URL:-} ]] || return 0
    export FABRICA_TEST_DATABASE_URL
    if running "$data/postmaster.pid" postgres; then
        FABRICA_TEST_DATABASE_URL=$(<"$url")
        return 0
    fi
    say 'starting postgres'
    rm -rf "$data"
    install -d -m 700 "${owned_by_worker[@]}" "$data"
    password=$(od -An -tx1 -N16 /dev/urandom | tr -d ' \n')
    echo "$password" | install -m 600 "${owned_by_worker[@]}" /dev/stdin "$state/postgres/password"
    # The cluster is thrown away, and the tests end its processes, never the machine: nothing needs to reach the disk.
    "${as_worker[@]}" "$(postgres_program initdb)" -D "$data" -U fabrica -A scram-sha-256 \
        --pwfile="$state/postgres/password" -E UTF8 --no-locale --no-sync >"$state/initdb.log" 2>&1 ||
        fail_with_log initdb "$state/initdb.log" 'set FABRICA_TEST_DATABASE_URL to a superuser URL of another server'
    for _ in {1..5}; do
        port=$((20000 + RANDOM % 12000))
        ! (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || continue
        if "${as_worker[@]}" "$(postgres_program pg_ctl)" -D "$data" -l "$log" -w -s start -o "-c listen_addresses=127.0.0.1 \
            -c port=$port -c unix_socket_directories=$state/postgres -c max_connections=300 -c fsync=${FABRICA_TEST_FSYNC:-off}" >"$state/pg_ctl.log" {turn}>&- {users}>&-; then
            FABRICA_TEST_DATABASE_URL=postgres://fabrica:$password@127.0.0.1:$port/postgres
            (umask 077 && echo "$FABRICA_TEST_DATABASE_URL" >"$url")
            return 0
        fi
    done
    fail_with_log postgres "$log" 'set FABRICA_TEST_DATABASE_URL to a superuser URL of another server'
}

ensure_docker() {
    local socket=$state/docker.sock host=${DOCKER_HOST:-}
    export FABRICA_TEST_DOCKER_SOCKET=${FABRICA_TEST_DOCKER_SOCKET:-}
    ! given FABRICA_TEST_DOCKER_SOCKET "$FABRICA_TEST_DOCKER_SOCKET" || return 0
    if [[ $host == unix://* ]] && given DOCKER_HOST "${host#unix://}"; then
        socket=${host#unix://}
    elif answers /var/run/docker.sock; then
        socket=/var/run/docker.sock
    elif ! answers "$socket"; then
        need dockerd
        can_be_root || fail 'no Docker daemon answers, and starting one needs root
hint: join the group "docker" of a running daemon, or leave docker out of FABRICA_TEST_SERVICES'
        # Its images stay for the next run, so only one daemon may have them: the lock above sees to that.
        launch docker as_root dockerd --host "unix://$socket" --group "$(id -gn)" --data-root "$cache/docker" \
            --exec-root "$state/docker" --pidfile "$state/docker.own.pid"
        await docker "$socket" 'dockerd needs root, iptables and cgroups; or set DOCKER_HOST to a running daemon'
    fi
    FABRICA_TEST_DOCKER_SOCKET=$socket
}

# podman_service NAME AS SOCKET: the service with the settings that this machine needs.
podman_service() {
    local name=$1 as=$2 socket=$3
    need podman
    rm -f "$socket"
    # Passed as text: the user need not be able to read this repository.
    # shellcheck disable=SC2016
    launch "$name" "$as" env FABRICA_PODMAN_STATE="$(dirname "$socket")" bash -c \
        'cd / && eval "$1" && exec podman system service --time=0 "unix://$2"' "$name" "$(<"$here/podman-environment.sh")" "$socket"
    await "$name" "$socket" 'try "podman info" as the same user; scripts/install-packages.sh test installs what it needs'
}

ensure_podman() {
    local socket=$state/podman.sock
    export FABRICA_TEST_PODMAN_SOCKET=${FABRICA_TEST_PODMAN_SOCKET:-}
    ! given FABRICA_TEST_PODMAN_SOCKET "$FABRICA_TEST_PODMAN_SOCKET" || return 0
    if ! answers "$socket"; then
        can_be_root || fail 'no rootful Podman service answers, and starting one needs root
hint: set FABRICA_TEST_PODMAN_SOCKET, or leave podman out of FABRICA_TEST_SERVICES'
        podman_service podman as_root "$socket"
    fi
    FABRICA_TEST_PODMAN_SOCKET=$socket
}

ensure_podman_rootless() {
    local socket=$state/rootless/podman.sock
    export FABRICA_TEST_PODMAN_ROOTLESS_SOCKET=${FABRICA_TEST_PODMAN_ROOTLESS_SOCKET:-}
    export FABRICA_TEST_ROOTLESS_USER=${FABRICA_TEST_ROOTLESS_USER:-$worker}
    ! given FABRICA_TEST_PODMAN_ROOTLESS_SOCKET "$FABRICA_TEST_PODMAN_ROOTLESS_SOCKET" || return 0
    if ! answers "$socket"; then
        rm -f "$state/rootless/keep-pause"
        ! pause_process >/dev/null || touch "$state/rootless/keep-pause"
        podman_service podman-rootless as_worker "$socket"
    fi
    FABRICA_TEST_PODMAN_ROOTLESS_SOCKET=$socket
}

stop_services() {
    local pid code=0
    local -a stopping=()
    # Only here are all containers Fabrica's: this daemon and this user exist for its tests alone. Images stay.
    if running "$state/docker.pid" dockerd; then
        engine_post "$state/docker.sock" containers/prune volumes/prune
    fi
    if [[ $(id -u) == 0 ]] && running "$state/podman-rootless.pid" 'podman system service'; then
        podman --url "unix://$state/rootless/podman.sock" rm --all --force --time 0 >/dev/null 2>&1 || true
        engine_post "$state/rootless/podman.sock" volumes/prune
    fi
    stop docker dockerd as_root & stopping+=($!)
    stop podman 'podman system service' as_root & stopping+=($!)
    stop podman-rootless 'podman system service' as_worker & stopping+=($!)
    stop_postgres & stopping+=($!)
    for pid in "${stopping[@]}"; do wait "$pid" || code=1; done
    if [[ ! -e $state/rootless/keep-pause ]] && pid=$(pause_process); then "${as_worker[@]}" kill "$pid"; fi
    return "$code"
}

# pause_process: the process, if any, by which rootless Podman keeps its user namespace open, and which nobody ends.
pause_process() {
    local pid directory=${XDG_RUNTIME_DIR:-/tmp/podman-run-$(id -u)}
    [[ $(id -u) != 0 ]] || directory=$state/rootless
    { pid=$(cat "$directory/libpod/tmp/pause.pid") && [[ $(tr '\0' ' ' <"/proc/$pid/cmdline") == *' -P '* ]]; } 2>/dev/null &&
        echo "$pid"
}

# engine_post SOCKET PATH…: by the interface that both engines have.
engine_post() {
    local socket=$1 path
    shift
    for path in "$@"; do
        curl -sS -m 60 -o /dev/null -X POST --unix-socket "$socket" "http://engine/$path" || true
    done
}

stop_postgres() {
    running "$cache/postgres/postmaster.pid" postgres || return 0
    "${as_worker[@]}" "$(postgres_program pg_ctl)" -D "$cache/postgres" -m fast -w -s stop && rm -rf "$cache/postgres"
}
