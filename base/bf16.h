// bfloat16 and IEEE half as storage types of 16 bits each. Arithmetic is done in float: convert
// with ToFloat, compute, convert back.
#pragma once

#include <bit>
#include <cstdint>

namespace bora {

// A bfloat16: the upper half of an IEEE float (sign, 8 exponent bits, 7 mantissa bits). A plain
// value.
struct Bf16 {
  uint16_t bits = 0;
};

// Exact: every bfloat16 is a float.
constexpr float ToFloat(Bf16 value) {
  return std::bit_cast<float>(static_cast<uint32_t>(value.bits) << 16);
}

// The nearest bfloat16, ties to even. A float above the largest finite bfloat16 becomes infinity if
// it rounds there; NaN stays NaN.
constexpr Bf16 ToBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  // A NaN keeps its upper bits; 0x40 sets the quiet bit, since the upper bits alone could be
  // infinity's.
  if ((bits & 0x7fffffffu) > 0x7f800000u) return Bf16{static_cast<uint16_t>((bits >> 16) | 0x40u)};
  return Bf16{static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

// The nearest bfloat16 of `value`, as a float.
inline float RoundToBf16(float value) { return ToFloat(ToBf16(value)); }

// The float equal to an IEEE binary16, which is the type of fp16 checkpoints. Exact.
inline float HalfToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t exponent = (half >> 10) & 0x1fu;
  const uint32_t mantissa = half & 0x3ffu;
  if (exponent == 0) {
    // Subnormal: mantissa * 2^-24, exact in float.
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
  }
  // Infinity and NaN. Below, normal numbers: 112 = 127 - 15 is the difference of the exponent
  // biases.
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  return std::bit_cast<float>(sign | ((exponent + 112u) << 23) | (mantissa << 13));
}

// An IEEE binary16 (sign, 5 exponent bits, 10 mantissa bits), as stored. A plain value.
struct Half {
  uint16_t bits = 0;
};

inline float ToFloat(Half value) { return HalfToFloat(value.bits); }

// The bits of the nearest IEEE binary16, ties to even. Overflow gives infinity; NaN stays NaN, but
// its payload is lost.
inline uint16_t FloatToHalf(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | 0x7e00u;
  // 65520 = 0x477ff000 is halfway between the largest half and the next power of two.
  if (magnitude >= 0x477ff000u) return sign | 0x7c00u;
  if (magnitude < 0x38800000u) {
    // Below 2^-14 halves are multiples of 2^-24, which is the spacing of floats in [0.5, 1): the
    // addition rounds, and the low bits of the sum count the multiples.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return sign | static_cast<uint16_t>(std::bit_cast<uint32_t>(shifted) - 0x3f000000u);
  }
  // Rebias the exponent by 15 - 127 and round away 13 mantissa bits; a carry moves the exponent up.
  const uint32_t rebased = magnitude - (112u << 23);
  return sign | static_cast<uint16_t>((rebased + 0xfffu + ((rebased >> 13) & 1u)) >> 13);
}

inline Half ToHalf(float value) { return Half{FloatToHalf(value)}; }

}  // namespace bora
