#!/usr/bin/env bash
# Builds the workspace and runs every test; ends with one line that adds up all runners.
set -uo pipefail
cd "$(dirname "$0")/.."

log=$(mktemp)
trap 'rm -f "$log"' EXIT

# The samples are programs of their own: their logic is tested on this machine's target.
samples() {
    local folder
    for folder in functions/{hello,orders,thumbnail} loadtest/guests/work; do
        (cd "$folder" && cargo test --quiet --locked --target-dir target) || return 1
    done
}

{
    deploy/failpoints.sh &&
        cargo test --locked --workspace --lib --bins --tests --no-fail-fast &&
        samples
} 2>&1 | tee "$log"
status=${PIPESTATUS[0]}
awk '/^test result:/ { for (i = 1; i <= NF; i++) { if ($(i+1) ~ /^passed/) passed += $i; if ($(i+1) ~ /^failed/) failed += $i } }
     END { printf "%d passed, %d failed\n", passed, failed }' "$log"
exit "$status"
