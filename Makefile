# Two commands do everything on a fresh machine:
#   make demo   sets up, builds, and walks the main job in front of you
#   make test   installs what the tests need and runs every test
# The rest is for those who work on faas; `make check` is all that a commit needs.

SHELL := /bin/bash
.DEFAULT_GOAL := help
CARGO ?= cargo
SAMPLES := hello orders thumbnail

.PHONY: help demo test check fmt lint samples guests golden bench load sim mutants fuzz faults hostile setup setup-test clean

help: ## Shows this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{ printf "  make %-12s %s\n", $$1, $$2 }'

demo: setup ## Builds, starts, deploys the samples and invokes them for real
	@deploy/demo.sh

test: setup-test samples guests ## Installs what the tests need and runs every test
	@deploy/test.sh

check: fmt lint ## What a commit needs besides the tests
	$(CARGO) test --locked -p faas-model -p faas-store -p faas-repo -p faas-invoke -p faas-function-service -p faas-baas

fmt: ## Checks the format
	$(CARGO) fmt --all --check

lint: ## Runs clippy, warnings are errors
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

samples: setup ## Builds the sample functions, and the guest of the load generator
	@for folder in $(SAMPLES:%=functions/%) loadtest/guests/work; do (cd $$folder && $(CARGO) build --quiet --release --locked --target wasm32-wasip2 --target-dir target) || exit 1; done

guests: setup-test ## Builds the tests' guests in Rust, JavaScript, Python and Go with their authors' tools
	@deploy/guests.sh

golden: ## Writes the generated reference pages anew
	$(CARGO) run --quiet --locked -p faas -- __reference cli > docs/reference/cli.md
	$(CARGO) run --quiet --locked -p faas -- __reference config > docs/reference/config.md

bench: setup samples ## Prints CPU per request beside bare hyper and `wasmtime serve`, and state beside the raw engine
	@deploy/bench.sh

load: setup samples ## Runs every kept load scenario once and prints what came out
	$(CARGO) build --release --locked --workspace --bins
	@for scenario in loadtest/scenarios/*.toml; do target/release/faas-load run $$scenario || exit 1; done

sim: setup ## Simulates 10,000 seeds: the long form of what `make test` does with 200
	FAAS_SIM_SEEDS=10000 $(CARGO) test --release --locked --workspace --test sim

mutants: ## Changes the pool in every way that cargo-mutants knows; none may survive
	@deploy/mutants.sh

fuzz: setup ## Fuzzes every parser of what strangers send, 60 s each
	@deploy/fuzz.sh 60

hostile: setup ## Over a hundred kinds of hostile guests, 100 calls each, beside neighbours under load
	$(CARGO) build --release --locked --workspace --bins
	target/release/faas-faults hostile --calls 100 --json target/hostile.json

faults: setup-test samples ## The long fault suites over the real binary (as root: one mounts a small disk)
	deploy/failpoints.sh --release
	target/release/faas-faults scale
	target/release/faas-faults drain
	target/release/faas-faults drain --sockets
	target/release/faas-faults failpoints
	target/release/faas-faults chaos
	target/release/faas-faults crashes
	target/release/faas-faults disk
	target/release/faas-faults clock
	target/release/faas-faults kills --rounds 100
	target/release/faas-faults kills --rounds 10 --fill-mib 1024
	target/release/faas-faults messages
	target/release/faas-faults cluster
	target/release/faas-faults deploys
	$(CARGO) test --release --locked --workspace --test ring -- --ignored

setup: ## Installs the toolchain's parts
	@deploy/setup.sh

setup-test: ## Installs the toolchain's parts and the servers that tests start
	@deploy/setup.sh test

clean: ## Removes what was built
	$(CARGO) clean
	for folder in $(SAMPLES:%=functions/%) loadtest/guests/work; do rm -rf $$folder/target; done
