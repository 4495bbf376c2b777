#!/usr/bin/env bash
# Runs a command with a PostgreSQL, a Docker daemon, and a rootful and a rootless Podman API service at hand.
# usage: scripts/with-services.sh COMMAND [ARGUMENT…]
#
# What answers already is used: FABRICA_TEST_DATABASE_URL, FABRICA_TEST_DOCKER_SOCKET (or DOCKER_HOST, or
# /var/run/docker.sock), FABRICA_TEST_PODMAN_SOCKET, FABRICA_TEST_PODMAN_ROOTLESS_SOCKET. The rest is started.
# The command sees those four, and
#   FABRICA_TEST_ROOTLESS_USER  whose containers the rootless Podman runs
#   FABRICA_TEST_STATE          sockets, process ids and logs (default: /run/fabrica-test, or under XDG_RUNTIME_DIR)
#   FABRICA_TEST_CACHE          images and data (default: /var/lib/fabrica-test, or ~/.cache/fabrica-test)
# FABRICA_TEST_SERVICES chooses: "postgres docker podman podman-rootless" by default.
#
# Invocations share what they start; the last one to end stops it. Locks say who is still there, and they vanish
# with their process, so services that a killed invocation left behind are used, and stopped, by the next one.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
services=${FABRICA_TEST_SERVICES:-postgres docker podman podman-rootless}
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
if [[ $(id -u) == 0 ]]; then
    state=${FABRICA_TEST_STATE:-/run/fabrica-test}
    cache=${FABRICA_TEST_CACHE:-/var/lib/fabrica-test}
    worker=fabrica-test
else
    state=${FABRICA_TEST_STATE:-${XDG_RUNTIME_DIR:-/tmp}/fabrica-test-$(id -u)}
    cache=${FABRICA_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/fabrica-test}
    worker=$(id -un)
fi
export FABRICA_TEST_STATE=$state FABRICA_TEST_CACHE=$cache

# shellcheck source=scripts/services.sh
source "$here/services.sh"

[[ $# -gt 0 ]] || fail "usage: $0 COMMAND [ARGUMENT…]"
install -d -m 711 "$state" "$cache"
[[ -O $state ]] || fail "$state belongs to somebody else"
exec {turn}>"$state/turn.lock" {users}>"$state/users.lock"

# shellcheck disable=SC2317
finish() {
    local code=$?
    trap - EXIT
    trap '' INT TERM HUP
    flock "$turn"
    flock --unlock "$users"
    if flock --nonblock "$users"; then stop_services || code=1; fi
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# One invocation at a time starts or stops services.
flock "$turn"
flock --shared "$users"
prepare_directories
for service in $services; do
    case $service in
    postgres) ensure_postgres ;;
    docker) ensure_docker ;;
    podman) ensure_podman ;;
    podman-rootless) ensure_podman_rootless ;;
    *) fail "unknown service '$service' in FABRICA_TEST_SERVICES" ;;
    esac
done
flock --unlock "$turn"

# In the background, so that a signal to this script reaches the command at once; with the locks closed, so that
# nothing which the command leaves behind keeps them. A terminal sends its interrupt to both anyway.
env --default-signal=INT,QUIT -- "$@" <&0 {turn}>&- {users}>&- &
command=$!
trap : INT
trap 'kill -TERM "$command" 2>/dev/null || true' TERM HUP
while :; do
    code=0
    wait "$command" || code=$?
    kill -0 "$command" 2>/dev/null || break
done
exit "$code"
