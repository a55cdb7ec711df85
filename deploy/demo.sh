#!/usr/bin/env bash
# The main job, for real and in the foreground: build, start, deploy, invoke by
# HTTP and by message, keep state. Leaves the server up; with CI=true it ends.
set -euo pipefail
cd "$(dirname "$0")/.."

RUN=$PWD/.run/demo
BROKER_PORT=25740
MANAGEMENT_PORT=25745
export FAAS_DATA=$RUN/data NO_COLOR=${NO_COLOR:-}

bold() { [ -t 1 ] && [ -z "${NO_COLOR}" ] && printf '\n\033[1m%s\033[0m\n' "$*" || printf '\n== %s\n' "$*"; }
show() { printf '  $ %s\n' "$*"; }
run() { show "$*"; "$@" 2>&1 | sed 's/^/    /'; return "${PIPESTATUS[0]}"; }
die() { printf 'demo: %s\n' "$*" >&2; exit 1; }

cleanup() {
    [ -z "${SERVER:-}" ] || { kill "$SERVER" 2>/dev/null && wait "$SERVER" 2>/dev/null; } || true
    [ -z "${BROKER:-}" ] || deploy/rabbitmq/broker.sh stop "$RUN/broker" || true
}
trap cleanup EXIT
trap 'exit 130' INT TERM

bold "1. Build (the first time takes some minutes)"
cargo build --release --locked -p faas
for name in hello orders thumbnail; do
    (cd "functions/$name" && cargo build --quiet --release --locked --target wasm32-wasip2 --target-dir target)
    printf '  functions/%s  %s bytes\n' "$name" "$(stat -c %s "functions/$name/target/wasm32-wasip2/release/$name.wasm")"
done
FAAS=$PWD/target/release/faas
PATH=$PWD/target/release:$PATH

bold "2. Start the platform: one process, nothing configured"
rm -rf "$RUN"
mkdir -p "$RUN"
flags=(--ready-file "$RUN/ready.json")
free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
if ! { free 8080 && free 8081 && free 8181; }; then
    echo "  a usual port is taken, using free ones"
    flags+=(--listen 127.0.0.1:0 --control 127.0.0.1:0 --baas 127.0.0.1:0)
fi
BROKER=""
if [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ]; then
    AMQP_PORT=$BROKER_PORT MANAGEMENT_PORT=$MANAGEMENT_PORT deploy/rabbitmq/broker.sh start "$RUN/broker"
    BROKER=1
    export FAAS_AMQP_URL=amqp://guest:guest@127.0.0.1:$BROKER_PORT/%2f
    echo "  a RabbitMQ of our own starts beside it; the platform does not wait for it"
fi
show "faas up"
"$FAAS" up "${flags[@]}" 2>"$RUN/platform.log" &
SERVER=$!
for _ in $(seq 1 200); do
    [ -s "$RUN/ready.json" ] && break
    kill -0 "$SERVER" 2>/dev/null || { cat "$RUN/platform.log" >&2; die "the platform ended"; }
    sleep 0.05
done
[ -s "$RUN/ready.json" ] || die "the platform was not ready in time, see $RUN/platform.log"
address() { sed -n "s/.*\"$1\" *: *\"\([^\"]*\)\".*/\1/p" "$RUN/ready.json"; }
FUNCTIONS=http://$(address functions)
export FAAS_URL=http://$(address control) FAAS_BAAS_URL=http://$(address baas)
echo "  functions $FUNCTIONS   control $FAAS_URL   state $FAAS_BAAS_URL"

bold "3. Deploy three functions: straight to the server, compiled once, no registry"
for name in hello orders thumbnail; do run faas deploy "functions/$name"; done
run faas ls

bold "4. Invoke by HTTP"
run curl --silent --show-error --fail --include "$FUNCTIONS/function/hello"

bold "5. Resize a real photograph"
photo=$(ls functions/thumbnail/photos/*.jpg | head -1)
show "curl --data-binary @$photo '$FUNCTIONS/function/thumbnail/?width=160' > $RUN/small.jpg"
curl --silent --show-error --fail --data-binary @"$photo" -H 'content-type: image/jpeg' "$FUNCTIONS/function/thumbnail/?width=160" >"$RUN/small.jpg"
printf '    %s bytes in, %s bytes out: %s\n' "$(stat -c %s "$photo")" "$(stat -c %s "$RUN/small.jpg")" "$(file -b "$RUN/small.jpg" 2>/dev/null || echo JPEG)"

bold "6. Place orders by HTTP; their state is durable before the answer"
for n in 1 2 3; do
    run curl --silent --show-error --fail "$FUNCTIONS/function/orders/orders" -H 'content-type: application/json' \
        -d "{\"id\":\"web-$n\",\"customer\":\"ada\",\"items\":[{\"sku\":\"tea\",\"quantity\":$n,\"price_cents\":450}]}"
    echo
done

if [ -n "$BROKER" ]; then
    bold "7. Place orders by message, one of them twice and one that is no order"
    deploy/rabbitmq/broker.sh wait "$RUN/broker"
    api=http://127.0.0.1:$MANAGEMENT_PORT/api
    for _ in $(seq 1 300); do
        curl --silent --fail -u guest:guest "$api/queues/%2f/order.placed" >/dev/null && break
        sleep 0.1
    done
    publish() {
        curl --silent --show-error --fail -u guest:guest "$api/exchanges/%2f/amq.default/publish" -H 'content-type: application/json' -d @- <<JSON | grep -q '"routed":true' || die "message $1 was not routed"
{"routing_key":"order.placed","payload_encoding":"string","payload":"$2",
 "properties":{"content_type":"application/json","delivery_mode":2,"headers":{"ce-id":"$1","ce-source":"/shop","ce-type":"com.example.order.placed","ce-specversion":"1.0"}}}
JSON
        printf '    published %s\n' "$1"
    }
    for n in 1 2 3 4 5 3; do
        publish "event-$n" "{\\\"id\\\":\\\"mq-$n\\\",\\\"customer\\\":\\\"grace\\\",\\\"items\\\":[{\\\"sku\\\":\\\"tea\\\",\\\"quantity\\\":1,\\\"price_cents\\\":450}]}"
    done
    publish "event-bad" '{\"this\":\"is no order\"}'
    count=0
    for _ in $(seq 1 200); do
        count=$(curl --silent "$FUNCTIONS/function/orders/totals" | grep -o '"count":[0-9]*' | head -1 | cut -d: -f2)
        [ "${count:-0}" -ge 8 ] && break
        sleep 0.1
    done
    [ "$count" = 8 ] || die "expected 8 orders, counted $count"
    dead=0
    for _ in $(seq 1 100); do
        dead=$(deploy/rabbitmq/broker.sh ctl "$RUN/broker" list_queues -q name messages 2>/dev/null | awk '$1 == "order.placed.dlq" { print $2 }')
        [ "${dead:-0}" -ge 1 ] && break
        sleep 0.1
    done
    echo "    8 orders counted once each; ${dead:-0} message in the dead-letter queue order.placed.dlq"
else
    bold "7. (No rabbitmq-server on this machine: the message part is left out)"
fi

bold "8. What the platform knows"
run curl --silent --show-error --fail "$FUNCTIONS/function/orders/totals"
echo
run faas versions orders

if [ "${CI:-}" = true ]; then
    bold "Done: everything above was real"
    exit 0
fi
bold "The platform is up; try (Ctrl-C ends it)"
cat <<TEXT
  export FAAS_URL=$FAAS_URL FAAS_DATA=$FAAS_DATA PATH=\$PWD/target/release:\$PATH
  curl '$FUNCTIONS/function/hello?name=you'
  curl -N $FUNCTIONS/function/hello/sse
  curl $FUNCTIONS/function/orders/orders
  faas new mine && faas build mine && faas deploy mine && faas invoke mine
  faas logs orders --follow
TEXT
wait "$SERVER"
