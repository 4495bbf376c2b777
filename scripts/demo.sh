#!/usr/bin/env bash
# Runs the demo with the programs of this checkout: called by `make demo`.
set -euo pipefail
cd "$(dirname "$0")/.."
# Settings that Podman needs on machines without systemd; nothing elsewhere.
# shellcheck source=scripts/podman-environment.sh
source scripts/podman-environment.sh
exec target/debug/fabrica demo "$@"
