#!/usr/bin/env bash
# The benchmarks, with the services of scripts/with-services.sh at hand: called by `make bench`. All of them write into
# the same target/bench/report.json. BENCH=store runs those of the store alone.
set -euo pipefail
cd "$(dirname "$0")/.."
if [[ ${BENCH:-} != store ]]; then
    FABRICA_BINARY=target/release/fabrica scripts/sandbox-images.sh
    cargo bench --package fabrica-cli --bench report
fi
exec cargo bench --package fabrica-store --bench store
