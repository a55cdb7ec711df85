#!/usr/bin/env bash
# Runs one node of Apache Cassandra for development and tests, bound to loopback, without systemd and as any user.
#
#   node.sh fetch                       brings the server's jars, once
#   node.sh start|wait|stop|kill|pause|resume|status|nodetool DIR [ARGS...]
#
# DIR holds everything: data, logs and the state of this script. Give each node a DIR of its own, and an address
# or ports of its own; a later call on the same DIR finds them again by itself.
#   ADDRESS       address of the node                        (default 127.0.0.1)
#   CQL_PORT      listener of clients                        (default 29042)
#   STORAGE_PORT  between the nodes, the same on all of them (default 27000)
#   JMX_PORT      for nodetool                               (default 27199)
#   SEEDS         nodes to join, ADDRESS:STORAGE_PORT,...    (default: itself)
#   HEAP          of the JVM                                 (default 512M)
#   AUTH          on: user and password, `cassandra` first   (default off)
#   AUTH_COPIES   copies of users and rights                 (default 1)
#   JIT           full: slower to warm up, faster after it, as in production (default quick)
# start   returns at once; what ran before in DIR is kept
# wait    returns when clients can connect, 1 after 180 s
# stop    ends the node within 30 s; kill as a crash would; pause and resume hold it still
set -euo pipefail

usage() { sed -n '2,20p' "$0" >&2; exit 64; }
here=$(cd "$(dirname "$0")" && pwd)
lib=$here/target/lib

fetch() {
  [ -e "$lib/.whole" ] && return
  command -v mvn > /dev/null || { echo "mvn is missing; install your system's maven package" >&2; exit 69; }
  mvn -q -B -f "$here/pom.xml" dependency:copy-dependencies >&2
  touch "$lib/.whole"
}

[ $# -ge 1 ] || usage
verb=$1
[ "$verb" = fetch ] && { fetch; exit; }
[ $# -ge 2 ] || usage
mkdir -p "$2"
dir=$(cd "$2" && pwd)
shift 2

[ -f "$dir/settings" ] && [ -z "${CQL_PORT:-}" ] && . "$dir/settings"
ADDRESS=${ADDRESS:-127.0.0.1}
CQL_PORT=${CQL_PORT:-29042}
STORAGE_PORT=${STORAGE_PORT:-27000}
JMX_PORT=${JMX_PORT:-27199}
SEEDS=${SEEDS:-$ADDRESS:$STORAGE_PORT}
HEAP=${HEAP:-512M}
AUTH=${AUTH:-off}
AUTH_COPIES=${AUTH_COPIES:-1}
[ "${JIT:-quick}" = full ] && jit=() || jit=(-XX:TieredStopAtLevel=1)

answers() { (exec 3<> "/dev/tcp/$ADDRESS/$CQL_PORT") 2> /dev/null; }
node_pid() { cat "$dir/pid" 2> /dev/null || true; }
alive() { [ -n "$1" ] && kill -0 "$1" 2> /dev/null && ! grep -qs '^State:.*Z' "/proc/$1/status"; }
end() { # SIGNAL PID TENTHS: signals, then waits until the process is gone
  alive "$2" || return 0
  kill "-$1" "$2" 2> /dev/null || return 0
  for _ in $(seq 1 "$3"); do alive "$2" || return 0; sleep 0.1; done
  return 1
}
settings() { # writes the node's files
  local authenticator=AllowAllAuthenticator authorizer=AllowAllAuthorizer
  [ "$AUTH" = on ] && { authenticator=PasswordAuthenticator; authorizer=CassandraAuthorizer; }
  mkdir -p "$dir/conf"
  printf '%s=%q\n' ADDRESS "$ADDRESS" CQL_PORT "$CQL_PORT" STORAGE_PORT "$STORAGE_PORT" JMX_PORT "$JMX_PORT" \
    SEEDS "$SEEDS" HEAP "$HEAP" AUTH "$AUTH" AUTH_COPIES "$AUTH_COPIES" > "$dir/settings"
  sed -e "s|@DIR@|$dir|; s|@ADDRESS@|$ADDRESS|; s|@SEEDS@|$SEEDS|; s|@CQL_PORT@|$CQL_PORT|" \
    -e "s|@STORAGE_PORT@|$STORAGE_PORT|; s|@AUTHENTICATOR@|$authenticator|; s|@AUTHORIZER@|$authorizer|" \
    "$here/cassandra.yaml.in" > "$dir/conf/cassandra.yaml"
  printf 'dc=dc1\nrack=rack1\n' > "$dir/conf/cassandra-rackdc.properties"
}
# The calibration of row overheads is skipped: it would take longer than the rest of the start.
run() { # MEMORY ARGS...: Java with what Cassandra needs
  local memory=$1
  shift
  exec java "@$here/jvm17.options" -XX:+UseSerialGC "${jit[@]}" -Xmx"$memory" -cp "$dir/conf:$lib/*" \
    -Dcassandra.storagedir="$dir" -Dlogback.configurationFile="$here/logback.xml" "$@"
}

case $verb in
start)
  command -v java > /dev/null || { echo "java is missing; install Java 17 or 11" >&2; exit 69; }
  alive "$(node_pid)" && exit 0
  fetch
  settings
  : > "$dir/out"
  (run "$HEAP" -Xms"$HEAP" -Xss512k -XX:+ExitOnOutOfMemoryError -javaagent:"$(echo "$lib"/jamm-*.jar)" \
    -Djdk.attach.allowAttachSelf=true -Dio.netty.tryReflectionSetAccessible=true -Dcassandra-foreground=yes \
    -Dcassandra.config="file://$dir/conf/cassandra.yaml" -Dcassandra.jmx.local.port="$JMX_PORT" \
    -Dcassandra.ring_delay_ms=1000 -Dcassandra.skip_wait_for_gossip_to_settle=0 \
    -Dcassandra.superuser_setup_delay_ms=500 -Dcassandra.system_auth.default_rf="$AUTH_COPIES" \
    -Dcassandra.memtable.row_overhead_size=180 org.apache.cassandra.service.CassandraDaemon) \
    > "$dir/out" 2>&1 < /dev/null &
  echo $! > "$dir/pid"
  ;;
wait)
  for _ in $(seq 1 1800); do
    grep -q 'Startup complete' "$dir/out" && answers && exit 0
    alive "$(node_pid)" || break
    sleep 0.1
  done
  echo "the node in $dir did not start within 180 s" >&2
  tail -20 "$dir/out" >&2 || true
  exit 1
  ;;
stop) end TERM "$(node_pid)" 300 || end KILL "$(node_pid)" 50 || true ;;
kill) end KILL "$(node_pid)" 50 || true ;;
pause) kill -STOP "$(node_pid)" ;;
resume) kill -CONT "$(node_pid)" ;;
status) answers ;;
nodetool) run 128m -Dfaas.log=WARN org.apache.cassandra.tools.NodeTool -h 127.0.0.1 -p "$JMX_PORT" "$@" ;;
*) usage ;;
esac
