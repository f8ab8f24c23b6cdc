// exp and log in double, computed with plain arithmetic alone. A libm picks its variant by the
// processor, and the variants differ in the last bits; a drawn token must not depend on that. No
// operations are fused (-ffp-contract=off), so the bits are the same on every IEEE machine. Loops
// over Exp vectorise. The functions are constexpr so that GPU kernels can call them.
#pragma once

#include <bit>
#include <cstdint>

namespace bora {

// e^x within 4 units in the last place for -708 <= x <= 709, and 0 below -708, where the result
// would be subnormal. NaN stays NaN.
// REQUIRES: x <= 709.
constexpr double Exp(double x) {
  constexpr double kRound = 0x1.8p52;  // adding it leaves the nearest integer in the low bits
  const double shifted = x * 0x1.71547652b82fep+0 + kRound;
  const double n = shifted - kRound;
  // ln 2 is split in two parts; the first has enough trailing zeros that n times it is exact.
  const double r = (x - n * 0x1.62e42feep-1) - n * 0x1.a39ef35793c76p-33;
  // Taylor series in Horner's form. |r| <= 0.3466, so the first term left out, r^14/14!, is below
  // 5e-18.
  double q = 1.0 / 6227020800.0;
  q = q * r + 1.0 / 479001600.0;
  q = q * r + 1.0 / 39916800.0;
  q = q * r + 1.0 / 3628800.0;
  q = q * r + 1.0 / 362880.0;
  q = q * r + 1.0 / 40320.0;
  q = q * r + 1.0 / 5040.0;
  q = q * r + 1.0 / 720.0;
  q = q * r + 1.0 / 120.0;
  q = q * r + 1.0 / 24.0;
  q = q * r + 1.0 / 6.0;
  q = q * r + 0.5;
  const double e = (q * (r * r) + r) + 1.0;
  // The low bits of `shifted` are those of kRound plus n, so n can be added to the exponent
  // directly.
  const uint64_t exponent = (std::bit_cast<uint64_t>(shifted) + 1023) << 52;
  const double result = e * std::bit_cast<double>(exponent);
  return x < -708.0 ? 0.0 : result;
}

// Natural logarithm within 4 units in the last place, or within 1e-16 absolutely near x = 1.
// REQUIRES: x is positive and normal.
constexpr double Log(double x) {
  uint64_t bits = std::bit_cast<uint64_t>(x);
  int64_t exponent = static_cast<int64_t>(bits >> 52) - 1023;
  double m = std::bit_cast<double>((bits & 0xfffffffffffffull) | 0x3ff0000000000000ull);
  // Centres the mantissa on 1: m in (sqrt(1/2), sqrt(2)].
  if (m > 1.4142135623730951) {
    m *= 0.5;
    ++exponent;
  }
  // log m = 2 artanh s with s = (m - 1) / (m + 1) and |s| <= 0.1716; the first term left out is
  // below 1e-18.
  const double s = (m - 1.0) / (m + 1.0);
  const double z = s * s;
  double q = 1.0 / 21.0;
  for (int k = 19; k >= 3; k -= 2) q = q * z + 1.0 / k;
  const double n = static_cast<double>(exponent);
  return n * 0x1.62e42feep-1 + (2.0 * s + (2.0 * s * (z * q) + n * 0x1.a39ef35793c76p-33));
}

}  // namespace bora
