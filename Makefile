# Every command of the project. `make help` lists them; CI runs the same ones (.ci/run).
#
# Nothing here needs more than cargo: without cargo-nextest the tests run under `cargo test`.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

CARGO ?= cargo
# Where cargo builds.
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
# Profile of `make dev`: dev builds soonest, release runs fastest.
PROFILE ?= dev
BIN_DIR := $(TARGET_DIR)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))
# Only one cluster test at a time: .config/nextest.toml. Everything else two at a time on two cores.
TEST_THREADS ?= $(shell nproc 2>/dev/null || echo 2)
# Extra arguments, e.g. `make test-run TEST_ARGS='-p steersman-state'`, `make dev DEV_ARGS='--data-dir /var/tmp/s'`.
TEST_ARGS ?= --workspace
DEV_ARGS ?=
BENCH_ARGS ?=
SIM_ARGS ?=
CHAOS_ARGS ?=
# First seed of a sweep.
FROM ?= 1

# The simulation is a workspace of its own with flags of its own (chaos-tests/sim/.cargo/config.toml), which variables of
# the environment would override.
SIM := cd chaos-tests/sim && env -u CARGO_TARGET_DIR -u RUSTFLAGS $(CARGO)

# Fuzzers are a workspace of their own: LLVM's coverage instrumentation, for the target alone, not for build scripts.
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
FUZZ_FLAGS := --cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
  -Cllvm-args=-sanitizer-coverage-trace-compares
FUZZ := cd fuzz && env CARGO_TARGET_DIR=../target/fuzz RUSTFLAGS="$(FUZZ_FLAGS)" $(CARGO)
# Names of the targets, or one of them; seconds for each.
FUZZ_TARGETS := $(patsubst fuzz/targets/%.rs,%,$(wildcard fuzz/targets/*.rs))
TARGET ?= $(FUZZ_TARGETS)
FUZZ_SECONDS ?= 10

.PHONY: help verify fmt-check lint tidy fix build test test-build test-run test-sim test-doc test-fuzz dev release bench \
  sim chaos fuzz cxx test-chaos seeded-bugs

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

verify: fmt-check lint tidy ## formatting, lints and the rules of the house; never writes

fmt-check:
	$(CARGO) fmt --all -- --check
	$(SIM) fmt -- --check
	cd fuzz && $(CARGO) fmt -- --check

lint:
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

tidy: ## only the rules of the house: who may name what, headers, lengths, promises, links
	$(CARGO) test --locked -q -p steersman-tidy

fix: ## format, mend what clippy can mend by itself, refresh the pages that are made from sources
	$(CARGO) clippy --workspace --all-targets --fix --allow-dirty --allow-staged
	$(CARGO) fmt --all
	$(SIM) fmt
	cd fuzz && $(CARGO) fmt
	$(CARGO) run -q -p steersman-tidy

build: ## the binary, unoptimized: target/debug/steersman
	$(CARGO) build --locked -p steersman

release: ## the binary, optimized: target/release/steersman
	$(CARGO) build --locked --release -p steersman

test: test-build test-run test-doc test-sim test-chaos test-fuzz ## build the binary and run every test

# All targets in one build, so that the binary and the tests that start it share one set of features.
test-build:
	$(CARGO) build --locked --workspace --all-targets

test-run:
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
	  set -x; $(CARGO) nextest run --locked --all-targets --no-fail-fast --test-threads $(TEST_THREADS) $(TEST_ARGS); \
	else \
	  echo 'cargo-nextest is not installed: running under cargo test'; \
	  set -x; $(CARGO) test --locked --lib --bins --tests --examples --no-fail-fast $(TEST_ARGS) -- --test-threads=1; \
	fi

# Examples in comments.
test-doc:
	$(CARGO) test --locked --doc $(TEST_ARGS)

dev: ## three masters and two workers on this machine; Ctrl-C stops them
	$(CARGO) build --locked -p steersman --profile $(PROFILE)
	exec $(BIN_DIR)/steersman dev $(DEV_ARGS)

bench: ## the figures of docs/benchmarks.md (release build; BENCH_ARGS)
	$(CARGO) build --locked --release -p steersman -p steersman-chaos-tests --bins
	$(TARGET_DIR)/release/steersman-bench $(BENCH_ARGS)

sim: ## simulated clusters from seeds: make sim SEED=7 ENGINE=full, make sim SEEDS=2000
	$(SIM) build --locked -q
ifdef SEEDS
	target/sim/debug/steersman-sim sweep --engine $(or $(ENGINE),both) --seeds $(FROM)..$$(( $(FROM) + $(SEEDS) )) $(SIM_ARGS)
else
	target/sim/debug/steersman-sim --engine $(or $(ENGINE),full) --seed $(or $(SEED),1) $(SIM_ARGS)
endif

test-sim:
	$(SIM) test --locked

# Each target on its kept corpus, then on what it makes of it; new inputs stay in target/fuzz/corpus.
fuzz: cxx ## fuzz every decoder: make fuzz FUZZ_SECONDS=3600 TARGET=snapshot
	$(FUZZ) build --locked --release --target $(HOST)
	@for target in $(TARGET); do \
	  mkdir -p target/fuzz/corpus/$$target target/fuzz/crashes; \
	  echo "== $$target, $(FUZZ_SECONDS) s"; \
	  target/fuzz/$(HOST)/release/$$target -max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=4096 -max_len=65536 \
	    -artifact_prefix=target/fuzz/crashes/$$target- -print_final_stats=1 -verbosity=0 $(FUZZ_ARGS) \
	    target/fuzz/corpus/$$target fuzz/corpus/$$target; \
	done

test-fuzz: fuzz

# libFuzzer is C++: its compiler is the one thing that cargo does not bring.
cxx:
	@command -v c++ >/dev/null || { echo 'no C++ compiler: installing g++'; apt-get update -qq && apt-get install -y -qq g++; }

chaos: ## real processes under real faults: make chaos TEST=mix TIME=60m SEED=42 (root gives all faults)
	$(CARGO) build --locked --workspace --all-targets
	$(TARGET_DIR)/debug/steersman-chaos run --test $(or $(TEST),mix) --time $(or $(TIME),10m) $(if $(SEED),--seed $(SEED)) $(CHAOS_ARGS)

# Every fault at least once, in a few minutes; what a failing run leaves is in target/chaos/SEED.
test-chaos: test-build
	$(TARGET_DIR)/debug/steersman-chaos run --test all --time 4m $(if $(SEED),--seed $(SEED)) $(CHAOS_ARGS)

# The seeded bugs, planted one after the other in a build of its own (long: the product is compiled once more).
seeded-bugs: ## plant every seeded bug and see which checker catches it: make seeded-bugs SEEDS=10
	$(SIM) build --locked --features seeded-bugs --target-dir ../../target/sim-bugs --bins
	target/sim-bugs/debug/seeded_bugs --seeds $(or $(SEEDS),10)
