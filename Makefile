# `make` lists what can be made. Everything needs only Rust; the rest is fetched by scripts/setup.
SHELL := /bin/bash
ICESTREAM_CACHE ?= $(HOME)/.cache/icestream
CARGO_TARGET_DIR ?= $(ICESTREAM_CACHE)/target
# Most tests wait for servers most of the time.
RUST_TEST_THREADS ?= 4
export ICESTREAM_CACHE CARGO_TARGET_DIR RUST_TEST_THREADS

# cargo with the RocksDB of scripts/setup; the same for all, so that the dependencies compile once.
CARGO := scripts/cargo
# The release profile and no other, so that the dependencies compile once.
CARGO_FLAGS := --release --locked
BINARY := $(CARGO_TARGET_DIR)/release/icestream

.DEFAULT_GOAL := help
.PHONY: help setup build demo test soak bench bench-peers check fmt lint docs clean

help: ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: ## Get all that the build and the tests need and this machine lacks
	@scripts/setup test

build: ## Build the binary
	@scripts/setup build
	$(CARGO) build $(CARGO_FLAGS) --bin icestream
	@echo "$(BINARY)"

demo: build ## Build, then show the main job on embedded parts (DEMO_ARGS="--records N --kills N")
	"$(BINARY)" demo $(DEMO_ARGS)

test: ## Run every test on real components (TEST_ARGS=name picks some)
	@scripts/setup test
	$(CARGO) test $(CARGO_FLAGS) --features faults $(TEST_ARGS)

soak: ## Every fault at random, for MINUTES (20)
	@scripts/setup test
	ICESTREAM_SOAK_MINUTES=$(or $(MINUTES),20) $(CARGO) test $(CARGO_FLAGS) --features faults --test it -- \
		--nocapture --exact soak::every_fault_at_random_is_survived

bench: ## Measure on a real Kafka (BENCH_ARGS)
	@scripts/setup test
	$(CARGO) bench --locked --bench bench -- $(BENCH_ARGS)

bench-peers: ## Measure Flink and Kafka Connect beside it (BENCH_ARGS)
	@scripts/setup peers
	$(CARGO) bench --locked --bench bench -- --peers $(BENCH_ARGS)

check: ## Formatting, lints and documentation links, all as errors
	@scripts/setup build
	@$(MAKE) --no-print-directory lint docs

fmt: ## Format the code
	cargo fmt

lint: ## Formatting and clippy
	cargo fmt --check
	$(CARGO) clippy $(CARGO_FLAGS) --all-targets --features faults -- -D warnings

docs: ## Build the documentation of the code
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc $(CARGO_FLAGS) --no-deps --lib

clean: ## Remove what was built (not what was fetched)
	cargo clean
