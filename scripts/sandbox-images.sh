#!/usr/bin/env bash
# Makes the sandbox's image on the engines of scripts/with-services.sh, where it is missing or out of date, and takes the
# agent out of it for the tests that run the agent without a sandbox.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${FABRICA_TEST_CACHE:?run this through scripts/with-services.sh}
fabrica=${FABRICA_BINARY:-target/debug/fabrica}
docker=unix://$FABRICA_TEST_DOCKER_SOCKET podman=unix://$FABRICA_TEST_PODMAN_ROOTLESS_SOCKET

DOCKER_HOST=$docker "$fabrica" image build --if-missing --runtime docker --data-directory "$cache/fabrica"
CONTAINER_HOST=$podman "$fabrica" image build --if-missing --runtime podman --data-directory "$cache/fabrica"

export DOCKER_HOST=$docker
image=$(docker image inspect --format '{{.Id}}' fabrica/agent:latest)
agent=$cache/agent/${image#sha256:}
if [[ ! -x $agent/claude ]]; then
    rm -rf "$cache/agent"
    mkdir -p "$agent"
    container=$(docker create --network none "$image" true)
    docker cp --quiet "$container:/usr/local/bin/claude" "$agent/claude.partial" || code=$?
    docker rm "$container" >/dev/null
    [[ -z ${code:-} ]] || exit "$code"
    chmod 755 "$agent/claude.partial"
    mv "$agent/claude.partial" "$agent/claude"
fi
ln -sfn "$agent" "$cache/agent/current"
