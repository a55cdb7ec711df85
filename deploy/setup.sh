#!/usr/bin/env bash
# Installs what building and testing need, by package name. Does nothing that is done already.
#   deploy/setup.sh         the Rust toolchain of rust-toolchain.toml with its Wasm target
#   deploy/setup.sh test    that, and the servers that the tests start
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*" >&2; }

apt_install() {
    local sudo=""
    [ "$(id -u)" = 0 ] || sudo="sudo"
    say "installing $*"
    # The packages' services must not start: tests start their own on their own ports.
    local policy=/usr/sbin/policy-rc.d made=""
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | $sudo tee "$policy" >/dev/null
        $sudo chmod 755 "$policy"
        made=1
    fi
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1 || {
        $sudo apt-get update -qq
        $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
    }
    [ -z "$made" ] || $sudo rm -f "$policy"
}

command -v cc >/dev/null || apt_install gcc libc6-dev
command -v curl >/dev/null || apt_install curl
command -v cargo >/dev/null || {
    say "cargo is missing: install rustup, then run this again"
    exit 1
}
if command -v rustup >/dev/null; then
    channel=$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)
    if ! rustup target list --installed --toolchain "$channel" 2>/dev/null | grep -qx wasm32-wasip2; then
        say "installing Rust $channel with the target wasm32-wasip2"
        rustup toolchain install "$channel" --profile minimal --component clippy --component rustfmt --target wasm32-wasip2 >/dev/null 2>&1 ||
            { say "rustup could not install Rust $channel with wasm32-wasip2"; exit 1; }
    fi
fi

if [ "${1:-}" = test ]; then
    [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || apt_install rabbitmq-server
    [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || { say "rabbitmq-server could not be installed; the tests need it"; exit 1; }
    # Cassandra runs on Java 17 or 11; its jars come through Maven.
    command -v java >/dev/null || apt_install openjdk-17-jre-headless
    command -v mvn >/dev/null || apt_install maven
    deploy/cassandra/node.sh fetch || { say "the jars of Cassandra could not be fetched; the tests need them"; exit 1; }
    # What sets the wall clock of one process.
    compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' >/dev/null || apt_install libfaketime
    # What the guests in JavaScript, Python and Go are built with.
    command -v npm >/dev/null || apt_install nodejs npm
    python3 -c 'import ensurepip, venv' 2>/dev/null || apt_install python3-venv
fi
