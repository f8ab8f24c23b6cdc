// Switches arithmetic with subnormal numbers off, so that all instruction sets give equal bits.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace bora {

// While an object lives, its thread treats subnormal floats as zero, both operands and results (FTZ
// and DAZ on x86; no effect on other CPUs). Reason: the bf16 dot-product instruction does so in any
// mode, and all instruction sets and all ways to split a sum over ranks must give the same bits. It
// also avoids the slow path of products of tiny numbers, about a hundred cycles each. Create and
// destroy on the same thread.
class FlushSubnormals {
 public:
#if defined(__x86_64__)
  FlushSubnormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040u); }  // FTZ, DAZ
  ~FlushSubnormals() { _mm_setcsr(saved_); }
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;

 private:
  const uint32_t saved_;
#else
  FlushSubnormals() {}
#endif
};

}  // namespace bora
