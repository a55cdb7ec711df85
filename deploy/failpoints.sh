#!/usr/bin/env bash
# Builds `faas-failpoints` beside `faas`: the same program with the steps at
# which `faas-faults failpoints` ends it. Flags go to cargo, such as --release.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=${CARGO_TARGET_DIR:-target}/debug
[[ " $* " != *" --release "* ]] || folder=${CARGO_TARGET_DIR:-target}/release
# The whole workspace each time: its crates then share the features of what they depend on.
cargo build --locked --workspace --bins --features faas/failpoints "$@"
cp --remove-destination "$folder/faas" "$folder/faas-failpoints"
# Back to the product.
cargo build --locked --workspace --bins "$@"
