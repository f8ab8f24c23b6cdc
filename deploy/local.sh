#!/usr/bin/env bash
# Serves a model on this machine: installs what is missing, builds, starts a coordinator and tensor x pipeline CPU
# workers on loopback, streams a completion, and keeps serving until Ctrl-C.
#
#   deploy/local.sh [--once] [--model DIR] [--tp N] [--pp N] [--port N] [--prompt TEXT] [--device cpu] [-- COORDINATOR FLAGS]
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: deploy/local.sh [options] [-- flags for bora-coordinator]
  --once         exit after the first completion
  --model DIR    model directory (default: the demo model of this repository)
  --tp N         tensor parallel ranks per stage (default 2)
  --pp N         pipeline stages (default 2)
  --port N       port for clients (default 50051)
  --prompt TEXT  prompt of the first completion
  --device D     device of the workers, as bora-worker --help says: auto, cpu or sim (default auto)
With BORA_BUILD_DIR=DIR in the environment the programs of that build folder are used as they are: nothing is installed or
built.
USAGE
}

root=$(cd "$(dirname "$0")/.." && pwd)
once=0 model="$root/deploy/demo-model" tp=2 pp=2 port=50051 device=auto prompt="ROMEO:"
while [ $# -gt 0 ]; do
  case "$1" in
    --once) once=1; shift ;;
    --model|--tp|--pp|--port|--prompt|--device)
      [ $# -ge 2 ] || { echo "deploy/local.sh: $1 needs a value" >&2; exit 2; }
      case "$1" in
        --model) model=$2 ;; --tp) tp=$2 ;; --pp) pp=$2 ;; --port) port=$2 ;;
        --prompt) prompt=$2 ;; --device) device=$2 ;;
      esac
      shift 2 ;;
    --help|-h) usage; exit 0 ;;
    --) shift; break ;;
    *) echo "deploy/local.sh: unknown option $1" >&2; usage >&2; exit 2 ;;
  esac
done
# check_number NAME VALUE MAX
check_number() {
  case "$2" in
    ''|*[!0-9]*|??????*) echo "deploy/local.sh: $1: '$2' is not a number in [1, $3]" >&2; exit 2 ;;
  esac
  [ "$2" -ge 1 ] && [ "$2" -le "$3" ] || { echo "deploy/local.sh: $1: '$2' is not in [1, $3]" >&2; exit 2; }
}
check_number --tp "$tp" 1024
check_number --pp "$pp" 1024
check_number --port "$port" 65535
[ -d "$model" ] || { echo "deploy/local.sh: --model $model is not a directory" >&2; exit 2; }

if [ -n "${BORA_BUILD_DIR:-}" ]; then
  build=$BORA_BUILD_DIR
  for program in bora bora-coordinator bora-worker; do
    [ -x "$build/bin/$program" ] || { echo "deploy/local.sh: BORA_BUILD_DIR: $build/bin/$program is not there" >&2; exit 2; }
  done
else
  "$root/deploy/install-packages.sh" run
  build="$root/build/release"
  echo "building in $build"
  configure_log=$(mktemp "${TMPDIR:-/tmp}/bora-configure.XXXXXX")
  if ! cmake --preset release -S "$root" -DBORA_BUILD_TESTS=OFF >"$configure_log" 2>&1; then
    cat "$configure_log" >&2; rm -f "$configure_log"; exit 1
  fi
  rm -f "$configure_log"
  cmake --build "$build" --target bora-coordinator bora-worker bora
fi

state=$(mktemp -d "${TMPDIR:-/tmp}/bora.XXXXXX")
pids=()
stop() {
  trap - EXIT INT TERM
  # Workers after the coordinator: it drains the streams that they serve.
  if [ ${#pids[@]} -gt 0 ]; then
    kill -TERM "${pids[0]}" 2>/dev/null || true
    wait "${pids[0]}" 2>/dev/null || true
    for pid in "${pids[@]:1}"; do kill -TERM "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]:1}"; do wait "$pid" 2>/dev/null || true; done
  fi
  rm -rf "$state"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Only this run's workers know the credential; it is in no command line.
head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$state/credential"
echo >>"$state/credential"
chmod 600 "$state/credential"

case " $* " in *" --shutdown-timeout"*) ;; *) set -- --shutdown-timeout 5s "$@" ;; esac
: >"$state/coordinator.log"  # before anybody looks for it
"$build/bin/bora-coordinator" --exit-with-parent --model "$model" --listen "127.0.0.1:$port" \
  --worker-listen 127.0.0.1:0 --worker-credential-file "$state/credential" \
  --tensor-parallel-size "$tp" --pipeline-parallel-size "$pp" "$@" \
  2>>"$state/coordinator.log" &
pids+=($!)

# stopped INDEX CODE: process INDEX, which should run, has ended: shows the end of its log, and ends the script.
stopped() {
  local name="the coordinator" log="$state/coordinator.log"
  [ "$1" -eq 0 ] || { name="worker $(($1 - 1))" log="$state/worker$(($1 - 1)).log"; }
  echo "deploy/local.sh: $name has stopped with exit code $2; the last lines of its log:" >&2
  tail -n 20 "$log" >&2
  exit 1
}
check_processes() {
  local i code=0
  for i in "${!pids[@]}"; do
    kill -0 "${pids[i]}" 2>/dev/null && continue
    wait "${pids[i]}" || code=$?
    stopped "$i" "$code"
  done
}

# Waits until `$@` succeeds, or a process is gone, or about $1 seconds have passed.
await() {
  local tries=$(( $1 * 10 )); shift
  until "$@"; do
    check_processes
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || { echo "no answer in time; log of the coordinator:" >&2; cat "$state/coordinator.log" >&2; exit 1; }
    sleep 0.1
  done
}
worker_port() { sed -n 's/.*"worker_port":\([0-9]*\).*/\1/p' "$state/coordinator.log" | grep -q .; }
serving() { "$build/bin/bora" --server "127.0.0.1:$port" status --ready >/dev/null 2>&1; }

await 30 worker_port
workers_at=127.0.0.1:$(sed -n 's/.*"worker_port":\([0-9]*\).*/\1/p' "$state/coordinator.log" | head -1)
for ((i = 0; i < tp * pp; ++i)); do
  "$build/bin/bora-worker" --exit-with-parent --coordinator "$workers_at" \
    --credential-file "$state/credential" --device "$device" 2>"$state/worker$i.log" &
  pids+=($!)
done
echo "waiting for $((tp * pp)) workers ($pp stages x $tp tensor ranks)"
await 600 serving
"$build/bin/bora" --server "127.0.0.1:$port" status

echo
"$build/bin/bora" --server "127.0.0.1:$port" generate --max-tokens 120 --temperature 0.8 --seed 1 --echo "$prompt"
[ "$once" -eq 1 ] && exit 0

cat <<WHERE

serving $model
  clients      127.0.0.1:$port    (BORA_SERVER=127.0.0.1:$port $build/bin/bora generate "...")
  workers      $workers_at
  logs         $state/coordinator.log, worker0.log ... worker$((tp * pp - 1)).log
  processes    coordinator ${pids[0]}, workers ${pids[*]:1}
  to stop      Ctrl-C stops all, or: kill $$
WHERE
# Until a signal comes, or one of the processes ends.
code=0 gone=
wait -n -p gone "${pids[@]}" || code=$?
for i in "${!pids[@]}"; do [ "${pids[i]}" != "$gone" ] || stopped "$i" "$code"; done
