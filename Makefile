# What people run: `make demo`, `make test`. Everything else is a part of those two.
.DEFAULT_GOAL := help
.PHONY: help demo test chaos bench build runner check lint doc deny setup-demo setup-test setup-ci

HOST := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
export CARGO_TERM_PROGRESS_WHEN ?= never
only_store := $(filter store,$(BENCH))

help: ## Says what there is
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

demo: setup-demo build runner ## Runs the main job with the real Claude Code CLI against a scripted model
	scripts/demo.sh

test: setup-test build runner ## Runs every test, with real databases and real container engines
	scripts/with-services.sh scripts/run-tests.sh

chaos: setup-test build runner ## Injects a thousand faults, and writes target/chaos/report.json; CHAOS='--seed 1' repeats
	scripts/with-services.sh scripts/run-chaos.sh $(CHAOS)

bench: setup-test $(if $(only_store),,runner) ## Measures, and writes target/bench/report.json; BENCH=store is quick
	$(if $(only_store),,cargo build --release -p fabrica-cli -p fabrica-server)
	$(if $(only_store),FABRICA_TEST_SERVICES=postgres) FABRICA_TEST_FSYNC=on BENCH='$(BENCH)' \
	    scripts/with-services.sh scripts/run-benches.sh

build: ## Builds the programs
	cargo build -p fabrica-cli -p fabrica-server

runner: ## Builds the static runner that is mounted into sandboxes
	RUSTFLAGS='-C target-feature=+crt-static' \
	    cargo build --release -p fabrica-runner --target $(HOST) --target-dir target/runner

check: lint doc deny ## Format, lints, docs, licences
	cargo fmt --all --check

lint: ## Lints, with warnings as errors
	cargo clippy --workspace --all-targets --all-features -- -D warnings

doc: ## Builds the documentation, with warnings as errors
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps

deny: ## Checks licences, sources and banned crates of the dependencies
	cargo deny --log-level error check bans licenses sources

setup-demo setup-test setup-ci: setup-%:
	scripts/install-packages.sh $*
