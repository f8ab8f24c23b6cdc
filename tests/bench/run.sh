#!/usr/bin/env bash
# Runs one benchmark and prints `figure NAME VALUE UNIT [limit L] [peer P] [ratio R]` rows; more is better for R.
#   tests/bench/run.sh serve_smoke | comm | kernels
# Figures depend on the machine and on what else it does: compare ratios of one run. Uses the release build, or BORA_BINARY_DIR.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
name=${1:-}
build=${BORA_BINARY_DIR:-}
if [ -z "$build" ]; then
  "$root/deploy/install-packages.sh" run test
  build="$root/build/release"
  (cd "$root" && cmake --preset release >/dev/null && cmake --build --preset release) >&2
fi
export BORA_BINARY_DIR="$build" BORA_SOURCE_DIR="$root"
case "$name" in
  serve_smoke)
    "$build/bin/bora-bench-plan"
    PYTHONDONTWRITEBYTECODE=1 PYTHONPATH="$root/tests/e2e:$build/python" /usr/bin/python3 "$root/tests/bench/serve_smoke.py" ;;
  comm) "$build/bin/bora-bench-comm" ;;
  kernels) "$build/bin/bora-bench-kernels" "${@:2}" ;;
  *) echo "usage: tests/bench/run.sh serve_smoke|comm|kernels" >&2; exit 2 ;;
esac
