#!/usr/bin/env bash
# Changes the pool in every way that cargo-mutants knows, and runs its tests on each: see docs/simulation.md.
# The pool needs std alone, so it is tried as a crate of its own: seconds a change, not minutes.
# Arguments go to `cargo mutants`: --list, --shard 0/4, --file src/pool/check.rs and so on.
set -euo pipefail
cd "$(dirname "$0")/.."

export PATH="$PWD/.tools/bin:$PATH"
if ! command -v cargo-mutants >/dev/null; then
    cargo install --quiet --locked --root .tools cargo-mutants --version 27.1.0
fi
crate=$(mktemp -d)
trap 'rm -rf "$crate"' EXIT
mkdir -p target "$crate/src"
cp -r function-service/service/src/pool function-service/service/src/pool.rs "$crate/src"
cp rust-toolchain.toml "$crate"
printf '#![allow(dead_code)]\nmod pool;\n' >"$crate/src/lib.rs"
cat >"$crate/Cargo.toml" <<'END'
[package]
name = "pool"
version = "0.0.0"
edition = "2024"
[profile.dev]
opt-level = 1
[workspace]
END
cargo mutants --dir "$crate" --output target --jobs 1 --timeout 600 "$@" -- --lib
