#!/usr/bin/env bash
# Builds the guests of the tests that are written with the tools of other
# people: each becomes loadtest/guests/NAME/target/guest.wasm.
#   deploy/guests.sh            all of them
#   deploy/guests.sh wstd js    these
set -euo pipefail
cd "$(dirname "$0")/../loadtest/guests"
root=$PWD

say() { printf 'guests: %s\n' "$*" >&2; }
need() { command -v "$1" >/dev/null || { say "$1 is missing: $2"; exit 1; }; }

# A guest that is newer than what it is made of is left alone.
fresh() {
    local name=$1 sources=(../../../deploy/guests.sh ../wit ../../../runtimes/wasm/wit)
    shift
    [ -e target/guest.wasm ] && [ -z "$(find "${sources[@]}" "$@" -newer target/guest.wasm -print -quit)" ]
}

# Prints the folder of a crate that a manifest needs.
crate() {
    cargo metadata --locked --format-version 1 --manifest-path "$1/Cargo.toml" | python3 -c 'import json, os, sys
print(next(os.path.dirname(p["manifest_path"]) for p in json.load(sys.stdin)["packages"] if p["name"] == sys.argv[1]))' "$2"
}

# The interfaces of WASI lie in the crate of their Rust bindings.
interfaces() {
    local version=$1 folder=target/wit crate
    crate=$(crate ../../../runtimes/wasm/guests wasip2)
    rm -rf "$folder"
    mkdir -p "$folder"
    cp -r "$crate/wit/deps" ../wit/world.wit "$folder"
    cp -r ../../../runtimes/wasm/wit/deps/keyvalue "$folder/deps"
    chmod -R u+w "$folder"
    find "$folder" -name '*.wit' -exec sed -i "s/0\.2\.12/$version/g" {} +
}

rust() {
    cargo build --quiet --release --locked --target wasm32-wasip2 --target-dir target
    cp "target/wasm32-wasip2/release/$1.wasm" target/guest.wasm
}

build_wstd() { rust wstd_guest; }
build_spin() { rust spin_guest; }

build_js() {
    need npm "install Node.js 20 or later"
    fresh js app.js package-lock.json && return
    mkdir -p target
    [ -x node_modules/.bin/componentize-js ] || npm install --no-save --no-audit --no-fund --loglevel=error >&2
    # The engine inside was compiled against this version of the interfaces.
    interfaces 0.2.10
    node_modules/.bin/componentize-js app.js --wit target/wit --world-name guest --out target/new.wasm >&2
    mv target/new.wasm target/guest.wasm
}

build_python() {
    need python3 "install Python 3.11 or later with venv"
    fresh python app.py requirements.txt && return
    mkdir -p target
    [ -x target/venv/bin/componentize-py ] || {
        python3 -m venv target/venv
        target/venv/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
    }
    interfaces 0.2.12
    target/venv/bin/componentize-py -d target/wit -w guest componentize app -o target/new.wasm >&2
    mv target/new.wasm target/guest.wasm
}

build_go() {
    need python3 "install Python 3.11 or later with venv"
    fresh go handler go.mod requirements.txt tool/src tool/Cargo.toml tool/Cargo.lock && return
    local tool=target/tool/debug/go-guest-tool source=target/src
    mkdir -p target
    [ -x target/venv/bin/go ] || {
        python3 -m venv target/venv
        target/venv/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
    }
    cargo build --quiet --locked --manifest-path tool/Cargo.toml --target-dir target/tool
    interfaces 0.2.12
    rm -rf "$source" target/pkg
    cp -r "$(crate tool wit-bindgen-go)/src/pkg" target/pkg
    chmod -R u+w target/pkg
    "$tool" bind target/wit "$source"
    cp -r handler "$source/export_wasi_http_incoming_handler"
    cp go.mod "$source"
    # The runtime package of the bindings names a function inside Go's own.
    GOOS=wasip1 GOARCH=wasm GOTOOLCHAIN=local target/venv/bin/go -C "$source" build -buildmode=c-shared \
        -ldflags='-checklinkname=0 -s -w' -o ../module.wasm . >&2
    "$tool" link target/wit target/module.wasm target/new.wasm
    mv target/new.wasm target/guest.wasm
}

[ $# -gt 0 ] || set -- wstd spin js python go
for name in "$@"; do
    say "$name"
    cd "$root/$name"
    "build_$name"
done
