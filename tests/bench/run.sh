#!/usr/bin/env bash
# Runs one benchmark and prints `figure NAME VALUE UNIT [limit L] [peer P] [ratio R]` rows; more is better for R. A row that ends with
# `disturbed CORES` was measured while others had so many cores, and one with `jumps FACTOR` from samples that far apart: no figures.
#   tests/bench/run.sh serve_smoke | plan_cost | prefix_cache | preemption | itl_under_prefill | pipeline_bubble | fairness | comm | kernels | device | limits | engine [FLAGS] |
#                      dummy_7b | cpu_vs_peer [OPTIONS]
# prefix_cache, preemption: what sharing KV blocks and having too few of them do to a service. itl_under_prefill: how long
# open streams wait for their next token while a long prompt is computed. pipeline_bubble: how much of their time stages idle.
# fairness: what one tenant's flood does to another one's first tokens. plan_cost: what the scheduler itself takes for a step.
# dummy_7b: the shape of a 7B model starts with dummy weights, plans its memory and answers; needs 20 GB of memory.
# device: the team of threads, alone and beside a busy process.
# limits: what the machine can do. engine: the engine without RPC (bora-bench-engine --help). cpu_vs_peer: the CPU worker beside
# the limits, and beside llama.cpp with --peer-bin DIR: a folder with llama-bench, llama-batched-bench, llama-simple and
# llama-server, built elsewhere (Release, native, CPU backend). Its other options:
#   --figures a,b      only these (the 7B shape runs only when named: 30 GB of files in --work-dir, half an hour)
#   --quick            the short ones: prefill_512, decode_1, decode_8, decode_32, tiny64_decode_1, tiny64_decode_32
#   --alternations N   runs of each side, ours and the peer's in turn (3)
#   --threads N        of each side (all cores)
#   --work-dir DIR     keeps the models that it makes (default: a temporary directory, removed at the end)
#   --wait-quiet S     longest wait for other processes to end before each run (60)
#   --retries N        of a run that other processes disturbed all the same (2)
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
  prefix_cache | preemption)
    PYTHONDONTWRITEBYTECODE=1 PYTHONPATH="$root/tests/e2e:$build/python" \
      /usr/bin/python3 "$root/tests/bench/kv_blocks.py" "$name" ;;
  plan_cost) "$build/bin/bora-bench-plan" ;;
  itl_under_prefill | pipeline_bubble | fairness)
    PYTHONDONTWRITEBYTECODE=1 PYTHONPATH="$root/tests/e2e:$build/python" \
      /usr/bin/python3 "$root/tests/bench/$name.py" ;;
  dummy_7b)
    PYTHONDONTWRITEBYTECODE=1 PYTHONPATH="$root/tests/e2e:$build/python" \
      /usr/bin/python3 "$root/tests/bench/dummy_7b.py" ;;
  comm)
    "$build/bin/bora-bench-comm"
    # Of GPUs, where the build with CUDA is; it says so where there are none.
    nccl="$root/build/cuda/bin/bora-bench-nccl"
    if [ -x "$nccl" ]; then "$nccl" "${@:2}"; else echo "skipped NCCL: no $nccl"; fi ;;
  kernels) "$build/bin/bora-bench-kernels" "${@:2}" ;;
  device) "$build/bin/bora-bench-device" "${@:2}" ;;
  limits) "$build/bin/bora-bench-limits" "${@:2}" ;;
  engine) "$build/bin/bora-bench-engine" "${@:2}" ;;
  cpu_vs_peer)
    PYTHONDONTWRITEBYTECODE=1 PYTHONPATH="$root/tests/e2e:$build/python" \
      /usr/bin/python3 "$root/tests/bench/cpu_vs_peer.py" "${@:2}" ;;
  *) echo "usage: tests/bench/run.sh serve_smoke|plan_cost|prefix_cache|preemption|itl_under_prefill|pipeline_bubble|fairness|comm|kernels|device|limits|engine|dummy_7b|cpu_vs_peer" >&2; exit 2 ;;
esac
