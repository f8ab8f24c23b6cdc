#!/usr/bin/env bash
# Copies what the engine and its tests need of Debian's Abseil, GoogleTest, nlohmann-json and OpenSSL's libcrypto into one
# folder, for machines that have CUDA but not these:
#   tests/gpu/pack-deps.sh [FOLDER]   (default build/gpu-deps, which git ignores; about 21 MB)
# Headers, static libraries and CMake's files, so that a program built with them needs nothing of the folder to run. Made on
# a Debian 12 machine (deploy/install-packages.sh run test); tests/gpu/run.sh takes it from there, or from BORA_DEPS.
# Of the CUDA Toolkit it adds cuBLASLt's header where there is one: the library comes with many things, its header does not.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
out=${1:-$root/build/gpu-deps}
triplet=$(g++ -dumpmachine)
lib=/usr/lib/$triplet

for needed in "$lib/cmake/absl" "$lib/cmake/GTest" /usr/share/cmake/nlohmann_json "$lib/libcrypto.a"; do
  [ -e "$needed" ] || { echo "no $needed: run deploy/install-packages.sh run test" >&2; exit 1; }
done
rm -rf "$out"
mkdir -p "$out/include" "$out/lib/$triplet/cmake" "$out/share/cmake"
cp -r /usr/include/absl /usr/include/gtest /usr/include/gmock /usr/include/nlohmann /usr/include/openssl "$out/include/"
cp "/usr/include/$triplet/openssl"/*.h "$out/include/openssl/"
cp "$lib"/libabsl_*.a "$lib"/libgtest*.a "$lib"/libgmock*.a "$lib/libcrypto.a" "$out/lib/$triplet/"
cp -r "$lib/cmake/absl" "$lib/cmake/GTest" "$out/lib/$triplet/cmake/"
cp -r /usr/share/cmake/nlohmann_json "$out/share/cmake/"

# Debian's files name the shared libraries; the static ones lie beside them under the same names.
absl=$out/lib/$triplet/cmake/absl
sed -i 's/ SHARED IMPORTED/ STATIC IMPORTED/' "$absl/abslTargets.cmake"
sed -i -E 's/\.so\.[0-9.]+"/.a"/; /IMPORTED_SONAME_/d' "$absl"/abslTargets-*.cmake
if grep -n '\.so' "$absl"/*.cmake; then
  echo "$absl still names shared libraries" >&2
  exit 1
fi

nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
cuda_include=$(dirname "$(dirname "$nvcc")")/include
if [ -f "$cuda_include/cublasLt.h" ]; then
  mkdir -p "$out/cublas"
  cp "$cuda_include/cublasLt.h" "$cuda_include/cublas_api.h" "$out/cublas/"
fi
echo "$out: $(du -sm "$out" | cut -f1) MB"
