#!/usr/bin/env bash
# Runs one RabbitMQ broker for development and tests, bound to loopback, without systemd and as any user.
#
#   broker.sh start|wait|stop|kill|status|ctl DIR [ARGS...]
#
# DIR holds everything: data, logs, the Erlang cookie and the state of this script. Give each broker a DIR and
# ports of its own; a later call on the same DIR finds the ports again by itself.
#   AMQP_PORT        listener of clients                       (default 25672)
#   DIST_PORT        Erlang distribution                       (default AMQP_PORT + 1)
#   EPMD_PORT        Erlang's port mapper                      (default AMQP_PORT + 2)
#   MANAGEMENT_PORT  management API, off when empty            (default empty)
#   RABBITMQ_HOME    folder with bin/rabbitmq-server           (default: where the package puts it)
# start   returns at once; what ran before in DIR is kept
# wait    returns when clients can connect, 1 after 90 s
# stop    ends the broker and its port mapper, within 20 s
# kill    ends both with SIGKILL, as a crash would
# status  exits 0 when clients can connect, else 1
# ctl     runs rabbitmqctl against the broker
set -euo pipefail

usage() { sed -n '2,19p' "$0" >&2; exit 64; }
[ $# -ge 2 ] || usage
verb=$1
mkdir -p "$2"
dir=$(cd "$2" && pwd)
shift 2

find_bin() {
  local home
  for home in "${RABBITMQ_HOME:-}" /usr/lib/rabbitmq /opt/rabbitmq /opt/homebrew/opt/rabbitmq /usr/local/opt/rabbitmq; do
    # The wrapper in sbin switches to a user of its own; the script in bin does not.
    for sub in bin sbin; do
      [ -n "$home" ] && [ "$home/$sub" != /usr/sbin ] && [ -x "$home/$sub/rabbitmq-server" ] && { echo "$home/$sub"; return; }
    done
  done
  echo "rabbitmq-server is not installed; install your system's rabbitmq-server package or set RABBITMQ_HOME" >&2
  exit 69
}

[ -f "$dir/ports" ] && [ -z "${AMQP_PORT:-}" ] && . "$dir/ports"
AMQP_PORT=${AMQP_PORT:-25672}
DIST_PORT=${DIST_PORT:-$((AMQP_PORT + 1))}
EPMD_PORT=${EPMD_PORT:-$((AMQP_PORT + 2))}
MANAGEMENT_PORT=${MANAGEMENT_PORT:-}
node="faas$AMQP_PORT@localhost"

export HOME=$dir ERL_EPMD_ADDRESS=127.0.0.1 ERL_EPMD_PORT=$EPMD_PORT LANG=C.UTF-8
export RABBITMQ_NODENAME=$node RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 RABBITMQ_NODE_PORT=$AMQP_PORT \
  RABBITMQ_DIST_PORT=$DIST_PORT RABBITMQ_MNESIA_BASE=$dir/data RABBITMQ_LOG_BASE=$dir/log \
  RABBITMQ_LOGS=$dir/broker.log RABBITMQ_ENABLED_PLUGINS_FILE=$dir/enabled_plugins \
  RABBITMQ_CONFIG_FILE=$dir/rabbitmq RABBITMQ_PID_FILE=$dir/pid RABBITMQ_CONF_ENV_FILE=$dir/none ERL_CRASH_DUMP=$dir/erl_crash.dump \
  RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}'

answers() { (exec 3<> "/dev/tcp/127.0.0.1/$AMQP_PORT") 2> /dev/null; }
broker_pid() { cat "$dir/pid" 2> /dev/null || true; }
# The port mapper outlives its broker. It is ours when its environment names our folder and our port.
epmd_pid() {
  local pid env
  for pid in $(pgrep -x epmd || true); do
    env=$( (tr '\0' '\n' < "/proc/$pid/environ") 2> /dev/null || true)
    if grep -qx "ERL_EPMD_PORT=$EPMD_PORT" <<< "$env" && grep -qx "HOME=$dir" <<< "$env"; then echo "$pid"; fi
  done
}
alive() { [ -n "$1" ] && kill -0 "$1" 2> /dev/null && ! grep -qs '^State:.*Z' "/proc/$1/status"; }
end() { # SIGNAL PID TENTHS: signals, then waits until the process is gone
  alive "$2" || return 0
  kill "-$1" "$2" 2> /dev/null || return 0
  for _ in $(seq 1 "$3"); do alive "$2" || return 0; sleep 0.1; done
  return 1
}

case $verb in
start)
  bin=$(find_bin)
  alive "$(broker_pid)" && exit 0
  printf 'AMQP_PORT=%s\nDIST_PORT=%s\nEPMD_PORT=%s\nMANAGEMENT_PORT=%s\n' \
    "$AMQP_PORT" "$DIST_PORT" "$EPMD_PORT" "$MANAGEMENT_PORT" > "$dir/ports"
  {
    echo "listeners.tcp.default = 127.0.0.1:$AMQP_PORT"
    echo 'vm_memory_high_watermark.absolute = 512MiB'
    echo 'disk_free_limit.absolute = 50MB'
    echo 'log.file.level = warning'
    [ -z "$MANAGEMENT_PORT" ] || printf 'management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = %s\n' "$MANAGEMENT_PORT"
  } > "$dir/rabbitmq.conf"
  if [ -n "$MANAGEMENT_PORT" ]; then echo '[rabbitmq_management].'; else echo '[].'; fi > "$dir/enabled_plugins"
  rm -f "$dir/pid"
  setsid "$bin/rabbitmq-server" > "$dir/out" 2>&1 < /dev/null &
  ;;
wait)
  for _ in $(seq 1 900); do
    answers && grep -q 'completed with' "$dir/out" 2> /dev/null && exit 0
    sleep 0.1
  done
  echo "the broker in $dir did not start within 90 s" >&2
  tail -20 "$dir/out" >&2 || true
  exit 1
  ;;
stop)
  pid=$(broker_pid)
  end TERM "$pid" 200 || end KILL "$pid" 50 || true
  for pid in $(epmd_pid); do end TERM "$pid" 20 || end KILL "$pid" 20 || true; done
  ;;
kill)
  end KILL "$(broker_pid)" 50 || true
  for pid in $(epmd_pid); do end KILL "$pid" 20 || true; done
  ;;
status) answers ;;
ctl) exec "$(find_bin)/rabbitmqctl" -n "$node" "$@" ;;
*) usage ;;
esac
