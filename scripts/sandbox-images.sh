#!/usr/bin/env bash
# Makes the sandbox's image on the engines of scripts/with-services.sh, where it is missing or out of date.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${FABRICA_TEST_CACHE:?run this through scripts/with-services.sh}
fabrica=${FABRICA_BINARY:-target/debug/fabrica}

for socket in "$FABRICA_TEST_DOCKER_SOCKET:docker" "$FABRICA_TEST_PODMAN_ROOTLESS_SOCKET:podman"; do
    engine=${socket##*:} path=${socket%:*}
    if [[ $engine == docker ]]; then export DOCKER_HOST=unix://$path; else export CONTAINER_HOST=unix://$path; fi
    "$fabrica" image build --if-missing --runtime "$engine" --data-directory "$cache/fabrica"
done
