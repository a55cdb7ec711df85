#!/usr/bin/env bash
# Fuzzes every parser of what strangers send: `deploy/fuzz.sh [SECONDS_PER_TARGET [TARGET...]]`.
# Prints executions and coverage of each target; fails if any found a fault. See docs/fuzzing.md.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-60}
shift || true
case $seconds in
    '' | *[!0-9]*) echo "usage: deploy/fuzz.sh [SECONDS_PER_TARGET [TARGET...]], not \"$seconds\"" >&2; exit 2 ;;
esac
# What cargo-fuzz asks of the compiler is not stable; the pinned compiler gives it all the same.
export RUSTC_BOOTSTRAP=1
export PATH="$PWD/.tools/bin:$PATH"
if ! command -v cargo-fuzz >/dev/null; then
    cargo install --quiet --locked --root .tools cargo-fuzz --version 0.13.2
fi
# Files of the `upload` target belong in memory.
if [ -z "${TMPDIR:-}" ] && [ -w /dev/shm ]; then export TMPDIR=/dev/shm; fi

cd loadtest/fuzz
cargo metadata --locked --format-version 1 --no-deps >/dev/null
targets=("$@")
[ $# -gt 0 ] || mapfile -t targets < <(cargo fuzz list)
log=$(mktemp)
trap 'rm -f "$log"' EXIT
failed=()
for target in "${targets[@]}"; do
    cargo fuzz build --sanitizer none "$target"
    mkdir -p "corpus/$target"
    status=0
    cargo fuzz run --sanitizer none "$target" "corpus/$target" "seeds/$target" -- \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 >"$log" 2>&1 || status=$?
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    edges=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
    inputs=$(sed -n 's/.* corp: \([0-9]*\)\/.*/\1/p' "$log" | tail -n 1)
    printf '%-12s %10s executions %6s edges %6s inputs  %s\n' \
        "$target" "${executions:-0}" "${edges:-0}" "${inputs:-0}" "$([ "$status" = 0 ] && echo ok || echo FAILED)"
    if [ "$status" != 0 ]; then
        failed+=("$target")
        tail -n 40 "$log" >&2
    fi
done
if [ ${#failed[@]} -gt 0 ]; then
    echo "fuzzing found a fault in: ${failed[*]}; the input is in loadtest/fuzz/artifacts/TARGET/" >&2
    exit 1
fi
