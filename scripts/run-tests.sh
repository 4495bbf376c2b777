#!/usr/bin/env bash
# Every test, with the services of scripts/with-services.sh at hand: called by `make test`.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/test-images.sh
# The end-to-end tests run the real agent in the real image, on each engine.
scripts/sandbox-images.sh
export FABRICA_TEST_CLAUDE=$FABRICA_TEST_CACHE/agent/current/claude

if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --workspace --all-features --no-fail-fast "$@"
else
    cargo test --workspace --all-features --lib --bins --tests --no-fail-fast "$@"
fi
scripts/run-chaos.sh --short
cargo test --workspace --all-features --doc
cargo run --quiet --package fabrica-core --features testing --example embed
