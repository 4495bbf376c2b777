#!/usr/bin/env bash
# The benchmarks, with the services of scripts/with-services.sh at hand: called by `make bench`.
set -euo pipefail
cd "$(dirname "$0")/.."
FABRICA_BINARY=target/release/fabrica scripts/sandbox-images.sh
exec cargo bench --package fabrica-cli --bench report
