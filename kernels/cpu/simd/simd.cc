#include "kernels/cpu/simd/simd.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "base/check.h"
#include "kernels/cpu/simd/simd_choice.h"
#include "kernels/draw.h"
#include "kernels/exact_math.h"
#include "kernels/packed_weight.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

// Every function of a level carries the target attribute, because compilers split generic vectors
// into pieces of the function's own instruction set before they inline. Flags for the whole file
// (-mavx512f) would let such instructions into inline functions that other files share.

#define BORA_SIMD_NAMESPACE portable
#define BORA_SIMD_TARGET
#define BORA_SIMD_NATIVE_LANES 4
#define BORA_SIMD_FMA(a, b, c) FmaByDoubles(a, b, c)
// The product of two bf16 has 16 significant bits and is exact in double. So is its sum with any
// float that reaches the product's last 37 bits. The one rounding to float is therefore that of a
// fused multiply-add.
#define BORA_SIMD_FMA_BF16(a, b, c)                                               \
  __builtin_convertvector(                                                        \
      __builtin_convertvector(a, Doubles) * __builtin_convertvector(b, Doubles) + \
          __builtin_convertvector(c, Doubles),                                    \
      Native)
#if defined(__SSE2__)
#define BORA_SIMD_MUL_EVEN(a, b) (NativeLongs) _mm_mul_epu32((__m128i)(a), (__m128i)(b))
#define BORA_SIMD_ANY(mask) (_mm_movemask_ps((__m128)(mask)) != 0)
#else
#define BORA_SIMD_MUL_EVEN(a, b) ((a)&0xffffffffu) * ((b)&0xffffffffu)
#define BORA_SIMD_ANY(mask) ((((NativeLongs)(mask))[0] | ((NativeLongs)(mask))[1]) != 0)
#endif
#include "kernels/cpu/simd/simd_kernels.inc"

#if defined(__x86_64__)
#define BORA_SIMD_NAMESPACE avx2
#define BORA_SIMD_TARGET __attribute__((target("avx2,fma,f16c")))
#define BORA_SIMD_NATIVE_LANES 8
#define BORA_SIMD_FMA(a, b, c) (Native) _mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c))
#define BORA_SIMD_MUL_EVEN(a, b) (NativeLongs) _mm256_mul_epu32((__m256i)(a), (__m256i)(b))
#define BORA_SIMD_ANY(mask) (_mm256_movemask_ps((__m256)(mask)) != 0)
#define BORA_SIMD_FMA_BF16(a, b, c) BORA_SIMD_FMA(a, b, c)
#include "kernels/cpu/simd/simd_kernels.inc"

// The compiler warns that _mm512_mul_epu32 uses an operand without a value; the form with a mask is
// the same instruction without the warning.
#define BORA_SIMD_NAMESPACE avx512
#define BORA_SIMD_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")))
#define BORA_SIMD_NATIVE_LANES 16
#define BORA_SIMD_FMA(a, b, c) (Native) _mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c))
#define BORA_SIMD_MUL_EVEN(a, b) \
  (NativeLongs) _mm512_maskz_mul_epu32(0xff, (__m512i)(a), (__m512i)(b))
#define BORA_SIMD_ANY(mask) (_mm512_movepi32_mask((__m512i)(mask)) != 0)
#define BORA_SIMD_FMA_BF16(a, b, c) BORA_SIMD_FMA(a, b, c)
#include "kernels/cpu/simd/simd_kernels.inc"

#define BORA_SIMD_NAMESPACE avx512bf16
#define BORA_SIMD_TARGET \
  __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,avx2,fma")))
#define BORA_SIMD_NATIVE_LANES 16
#define BORA_SIMD_FMA(a, b, c) (Native) _mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c))
#define BORA_SIMD_MUL_EVEN(a, b) \
  (NativeLongs) _mm512_maskz_mul_epu32(0xff, (__m512i)(a), (__m512i)(b))
#define BORA_SIMD_ANY(mask) (_mm512_movepi32_mask((__m512i)(mask)) != 0)
#define BORA_SIMD_FMA_BF16(a, b, c) BORA_SIMD_FMA(a, b, c)
#define BORA_SIMD_DOT_BF16(x, w, c) \
  (Native) _mm512_dpbf16_ps((__m512)(c), (__m512bh)(x), (__m512bh)(w))
#define BORA_SIMD_DOT_INT8(x, w, c) \
  (NativeInts) _mm512_dpbusd_epi32((__m512i)(c), (__m512i)(x), (__m512i)(w))
#include "kernels/cpu/simd/simd_kernels.inc"
#endif

namespace bora {

const SimdKernels& GetSimdKernels(SimdLevel level) {
  CHECK(SimdLevelAvailable(level))
      << "instruction set level " << static_cast<int>(level) << " on a machine without it";
#if defined(__x86_64__)
  if (level == SimdLevel::kAvx512Bf16) return avx512bf16::kKernels;
  if (level == SimdLevel::kAvx512) return avx512::kKernels;
  if (level == SimdLevel::kAvx2) return avx2::kKernels;
#endif
  return portable::kKernels;
}

}  // namespace bora
