// Arithmetic without subnormal numbers, as the bf16 dot-product instruction does it in hardware.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace bora {

// While it lives, its thread takes subnormal floats for zero, as operands and as results (FTZ and
// DAZ on x86): the bf16 dot-product instruction does so whatever the mode, and all instruction sets
// and all ways of splitting a sum over ranks must give the same bits. It also keeps a product of
// tiny numbers from taking a hundred cycles. Owned by one thread.
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
