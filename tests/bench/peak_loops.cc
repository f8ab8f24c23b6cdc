#include "tests/bench/peak_loops.h"

#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace bora {
namespace {

// Makes the compiler believe that somebody reads what `data` points to.
inline void KeepAlive(const void* data) { asm volatile("" : : "r"(data) : "memory"); }

void ReadPortable(const uint8_t* data, int64_t n, int64_t ahead) {
  uint64_t lanes[8] = {};
  for (int64_t i = 0; i < n; i += 64) {
    if (ahead > 0) __builtin_prefetch(data + i + ahead);
    for (int lane = 0; lane < 8; ++lane) {
      uint64_t word;
      std::memcpy(&word, data + i + 8 * lane, 8);
      lanes[lane] ^= word;
    }
  }
  KeepAlive(lanes);
}

#if defined(__x86_64__)

__attribute__((target("avx512f"))) void ReadAvx512(const uint8_t* data, int64_t n, int64_t ahead) {
  __m512i lanes[4] = {};
  for (int64_t i = 0; i < n; i += 256) {
#pragma GCC unroll 4
    for (int lane = 0; lane < 4; ++lane) {
      const uint8_t* const line = data + i + 64 * lane;
      if (ahead > 0) _mm_prefetch(reinterpret_cast<const char*>(line + ahead), _MM_HINT_T0);
      lanes[lane] = _mm512_xor_si512(lanes[lane], _mm512_load_si512(line));
    }
  }
  KeepAlive(lanes);
}

// acc = acc / 2 + 1 stays near 2: neither infinite nor denormal.
__attribute__((target("avx2,fma"))) void FmaAvx2(int64_t n_loops) {
  const __m256 half = _mm256_set1_ps(0.5f);
  const __m256 one = _mm256_set1_ps(1.0f);
  __m256 acc[kPeakChains];
  for (int i = 0; i < kPeakChains; ++i) acc[i] = _mm256_set1_ps(static_cast<float>(i));
  for (int64_t loop = 0; loop < n_loops; ++loop) {
#pragma GCC unroll 16
    for (int i = 0; i < kPeakChains; ++i) acc[i] = _mm256_fmadd_ps(acc[i], half, one);
  }
  KeepAlive(acc);
}

__attribute__((target("avx512f"))) void FmaAvx512(int64_t n_loops) {
  const __m512 half = _mm512_set1_ps(0.5f);
  const __m512 one = _mm512_set1_ps(1.0f);
  __m512 acc[kPeakChains];
  for (int i = 0; i < kPeakChains; ++i) acc[i] = _mm512_set1_ps(static_cast<float>(i));
  for (int64_t loop = 0; loop < n_loops; ++loop) {
#pragma GCC unroll 16
    for (int i = 0; i < kPeakChains; ++i) acc[i] = _mm512_fmadd_ps(acc[i], half, one);
  }
  KeepAlive(acc);
}

__attribute__((target("avx512f,avx512bf16"))) void DotBf16(int64_t n_loops) {
  const __m512 ones = _mm512_set1_ps(1.0f);
  const __m512bh pairs = _mm512_cvtne2ps_pbh(ones, ones);
  __m512 acc[kPeakChains];
  for (int i = 0; i < kPeakChains; ++i) acc[i] = _mm512_set1_ps(static_cast<float>(i));
  for (int64_t loop = 0; loop < n_loops; ++loop) {
#pragma GCC unroll 16
    for (int i = 0; i < kPeakChains; ++i) acc[i] = _mm512_dpbf16_ps(acc[i], pairs, pairs);
  }
  KeepAlive(acc);
}

__attribute__((target("avx512f,avx512vnni"))) void DotInt8(int64_t n_loops) {
  const __m512i bytes = _mm512_set1_epi32(0x01020304);
  __m512i acc[kPeakChains];
  for (int i = 0; i < kPeakChains; ++i) acc[i] = _mm512_set1_epi32(i);
  for (int64_t loop = 0; loop < n_loops; ++loop) {
#pragma GCC unroll 16
    for (int i = 0; i < kPeakChains; ++i) acc[i] = _mm512_dpbusd_epi32(acc[i], bytes, bytes);
  }
  KeepAlive(acc);
}

#endif

}  // namespace

PeakLoops ThisMachinesPeakLoops() {
  PeakLoops peaks;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) {
    peaks.fp32 = {"GFLOP/s", 32, FmaAvx512};
  } else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    peaks.fp32 = {"GFLOP/s", 16, FmaAvx2};
  }
  if (__builtin_cpu_supports("avx512bf16")) peaks.bf16 = {"GFLOP/s", 64, DotBf16};
  if (__builtin_cpu_supports("avx512vnni")) peaks.int8 = {"Gop/s", 128, DotInt8};
#endif
  return peaks;
}

void ReadMemory(const uint8_t* data, int64_t n, int64_t ahead) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return ReadAvx512(data, n, ahead);
#endif
  ReadPortable(data, n, ahead);
}

}  // namespace bora
