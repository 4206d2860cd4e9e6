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
# Tests have the feature `faults`, and in our own crate overflow checks and debug assertions.
OURS := --config profile.release.package.icestream
TEST_FLAGS := $(CARGO_FLAGS) --features faults $(OURS).overflow-checks=true $(OURS).debug-assertions=true
# Unit tests by themselves are rather built quickly than run quickly.
UNIT_FLAGS := $(TEST_FLAGS) $(OURS).opt-level=0 $(OURS).codegen-units=256 $(OURS).incremental=true

.DEFAULT_GOAL := help
.PHONY: help setup build demo unit test soak fuzz memcheck mutants bench bench-peers check fmt lint docs deps advisories clean

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

unit: ## Run the library's tests, which need no server (TEST_ARGS=name picks some)
	@scripts/setup build
	$(CARGO) test $(UNIT_FLAGS) --lib $(TEST_ARGS)

test: ## Run every test on real components (TEST_ARGS=name picks some)
	@scripts/setup test
	$(CARGO) test $(TEST_FLAGS) $(TEST_ARGS)

soak: ## Every fault at random, for MINUTES (20)
	@scripts/setup test
	ICESTREAM_SOAK_MINUTES=$(or $(MINUTES),20) $(CARGO) test $(TEST_FLAGS) --test it -- \
		--nocapture --exact soak::every_fault_at_random_is_survived

fuzz: ## Fuzz what reads bytes from outside, each target for SECONDS (30); FUZZ_TARGETS="a b" picks some
	@scripts/setup build
	scripts/fuzz $(or $(SECONDS),30) $(FUZZ_TARGETS)

memcheck: ## Run the tests of what has `unsafe` code under AddressSanitizer (TEST_ARGS=name picks some)
	@scripts/setup build
	scripts/memcheck $(TEST_ARGS)

mutants: ## Change the protocol everywhere, a place at a time: do its tests notice? (MUTANTS_ARGS)
	@scripts/setup rust mutants
	scripts/mutants $(MUTANTS_ARGS)

bench: ## Measure on a real Kafka (BENCH_ARGS)
	@scripts/setup test
	$(CARGO) bench --locked --bench bench -- $(BENCH_ARGS)

bench-peers: ## Measure Flink and Kafka Connect beside it (BENCH_ARGS)
	@scripts/setup peers
	$(CARGO) bench --locked --bench bench -- --peers $(BENCH_ARGS)

check: ## Formatting, lints, documentation links and dependencies, all as errors
	@scripts/setup check
	@$(MAKE) --no-print-directory lint docs deps

fmt: ## Format the code
	cargo fmt

lint: ## Formatting and clippy, of what ships and of the tests
	cargo fmt --check
	$(CARGO) clippy $(CARGO_FLAGS) -- -D warnings
	$(CARGO) clippy $(CARGO_FLAGS) --all-targets --features faults -- -D warnings

docs: ## Build the documentation of the code
	RUSTDOCFLAGS='-D warnings -A rustdoc::private_intra_doc_links' $(CARGO) doc $(CARGO_FLAGS) --no-deps --lib --document-private-items

deps: ## Licences, sources and duplicates of the dependencies, and whether each is used
	scripts/tool cargo-deny --locked check -D unmatched-skip -D unnecessary-skip bans licenses sources
	scripts/tool cargo-machete

advisories: ## Known vulnerabilities of the dependencies, from a database that is fetched
	@scripts/setup rust tools
	scripts/tool cargo-deny --locked check advisories

clean: ## Remove what was built (not what was fetched)
	cargo clean
