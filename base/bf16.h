// bfloat16 and IEEE half storage types: 16 bits each, converted to float for every computation.
#pragma once

#include <bit>
#include <cstdint>

namespace bora {

// The upper half of an IEEE float. Conversion from float rounds to nearest, ties to even; NaN stays
// NaN.
struct Bf16 {
  uint16_t bits = 0;
};

constexpr float ToFloat(Bf16 value) {
  return std::bit_cast<float>(static_cast<uint32_t>(value.bits) << 16);
}

constexpr Bf16 ToBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return Bf16{static_cast<uint16_t>((bits >> 16) | 0x40u)};
  return Bf16{static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

// Rounds to the nearest bfloat16 and back.
inline float RoundToBf16(float value) { return ToFloat(ToBf16(value)); }

// IEEE binary16, as found in fp16 checkpoints. Exact in float.
inline float HalfToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t exponent = (half >> 10) & 0x1fu;
  const uint32_t mantissa = half & 0x3ffu;
  if (exponent == 0) {
    // Subnormal: mantissa * 2^-24, exact in float.
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
  }
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  return std::bit_cast<float>(sign | ((exponent + 112u) << 23) | (mantissa << 13));
}

// An IEEE binary16, as Bf16 a storage type.
struct Half {
  uint16_t bits = 0;
};

inline float ToFloat(Half value) { return HalfToFloat(value.bits); }

// The nearest IEEE binary16, ties to even; overflow gives infinity, NaN stays NaN.
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
