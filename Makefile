# What people run: `make demo`, `make test`. Everything else is a part of those two.
.DEFAULT_GOAL := help
.PHONY: help demo test bench build runner check lint doc deny setup-demo setup-test setup-ci

HOST := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
export CARGO_TERM_PROGRESS_WHEN ?= never

help: ## Says what there is
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

demo: setup-demo build runner ## Runs the main job with the real Claude Code CLI against a scripted model
	scripts/demo.sh

test: setup-test build runner ## Runs every test, with real databases and real container engines
	scripts/with-services.sh scripts/run-tests.sh

bench: setup-test runner ## Measures, and writes target/bench/report.json
	cargo build --release -p fabrica-cli -p fabrica-server
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
