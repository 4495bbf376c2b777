#!/usr/bin/env bash
# The fault suite: kills, freezes and cuts off real servers, engines and databases, and looks whether any promise breaks.
# usage: scripts/with-services.sh scripts/run-chaos.sh [--short] [--seed NUMBER] [--only PROMISE]…
# It starts a PostgreSQL, a Docker daemon and a Podman service of its own, since it kills them, too. The report goes to
# target/chaos/report.json, the logs of everything to target/chaos/logs.
set -euo pipefail
cd "$(dirname "$0")/.."
state=${FABRICA_TEST_STATE:?run this through scripts/with-services.sh}/chaos
as_root=(sudo -n)
[[ $(id -u) != 0 ]] || as_root=()

# One suite at a time has these daemons.
mkdir -p "$state"
exec {turn}>"$state/turn.lock"
flock --nonblock "$turn" || { echo "error: another fault suite is running" >&2; exit 1; }

# What a suite that was killed left behind: only processes whose ids it wrote down, and that are what it started.
end_left_behind() {
    local file pid
    for file in "$state"/*.group; do
        [[ -e $file ]] || continue
        pid=$(<"$file")
        if [[ $({ tr '\0' ' ' <"/proc/$pid/cmdline"; } 2>/dev/null) == *chaos* ]]; then
            "${as_root[@]}" kill -TERM -- "-$pid" 2>/dev/null || true
        fi
        rm -f "$file"
    done
}
end_left_behind
trap end_left_behind EXIT

scripts/sandbox-images.sh
cargo test --quiet --package fabrica-server --test chaos -- "$@" {turn}>&-
