#!/usr/bin/env bash
# Installs what is missing, builds and runs every test: tests/run.sh [--quick] [ctest options]
#   --quick   the release build only: no sanitizers, no fuzzers
# Three builds: release (everything), asan (unit and fuzz tests under AddressSanitizer and UBSan, fuzzers) and tsan (the
# core without gRPC). Ends with ctest's summary of all of them.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
quick=0
[ "${1:-}" = "--quick" ] && { quick=1; shift; }

step() { printf '\n== %s (%ds)\n' "$1" "$SECONDS"; }
step "packages"
deploy/install-packages.sh run test

build() {  # preset
  step "build $1"
  cmake --preset "$1" >"build-$1.log" 2>&1 || { cat "build-$1.log"; rm -f "build-$1.log"; exit 1; }
  rm -f "build-$1.log"
  cmake --build --preset "$1"
}

build release
if [ "$quick" -eq 1 ]; then
  step "tests"
  exec ctest --preset release -j "$(nproc)" "$@"
fi
build fuzz
build tsan
trees="release fuzz tsan"
if command -v nvcc >/dev/null; then
  step "build cuda"
  cmake --preset cuda >/dev/null
  cmake --build --preset cuda --target bora_gpu bora-worker
  trees="$trees cuda/tests/gpu"
fi
# One ctest run over the build trees, so that its summary counts every test.
echo "subdirs($trees)" >build/CTestTestfile.cmake
step "tests"
exec ctest --test-dir build --output-on-failure -j "$(nproc)" "$@"
