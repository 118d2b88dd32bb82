// 2^x of a vector, for softmax: scores are scaled by log2(e) beforehand, so that no reduction by ln 2 is needed.
//
// x = k + f with k whole and |f| <= 1/2; 2^f = 1 + f (ln 2 + f P(f)), with fused multiply-adds. Relative error below
// 1.2 ulp. Below the normal numbers the result is 0, where vector_exp gives denormals: weights that small are nothing
// beside the largest one. Valid up to x = 127 (float) or 1023 (double); a NaN stays, -infinity gives 0.
// For kernel files only.
#pragma once

#include <cstdint>

#include "common/lanes.hpp"

namespace metafast::attention {
namespace {

// P by Horner's rule, lowest coefficient first. Derived in common/vector_math_polynomials.py, "power of two"; its
// share of the relative error is 2^-27.9 and 2^-57.3.
template <class T>
struct PowerOfTwo;

template <>
struct PowerOfTwo<float> {
  using Bits = std::int32_t;
  static constexpr int mantissa_bits = 23;
  static constexpr float lowest = -127.0f;
  // Adding it rounds to a whole number and leaves that number plus the exponent's bias in the low bits.
  static constexpr float round_shift = 0x1.8p23f + 127.0f;
  static constexpr float coefficients[] = {0x1.ebfbe0p-3f, 0x1.c6af86p-5f, 0x1.3b29d2p-7f, 0x1.5f05b4p-10f,
                                           0x1.4477bep-13f};
};

template <>
struct PowerOfTwo<double> {
  using Bits = std::int64_t;
  static constexpr int mantissa_bits = 52;
  static constexpr double lowest = -1023.0;
  static constexpr double round_shift = 0x1.8p52 + 1023.0;
  static constexpr double coefficients[] = {
      0x1.ebfbdff82c5a5p-3,  0x1.c6b08d704a0cfp-5,  0x1.3b2ab6fb9ffe9p-7,  0x1.5d87fe78a1bffp-10,
      0x1.4309130f17a6cp-13, 0x1.ffcbfc7972d9ap-17, 0x1.62bfc6ffdd496p-20, 0x1.b524d24a55570p-24,
      0x1.e61c5ac076867p-28, 0x1.ea131bd6dd3acp-32};
};

template <class T, int W>
[[gnu::always_inline]] inline typename Pack<T, W>::Real power_of_two(typename Pack<T, W>::Real x) {
  using P = Pack<T, W>;
  using F = PowerOfTwo<T>;
  using Real = typename P::Real;
  using Mask = typename P::Mask;
  constexpr int degree = static_cast<int>(sizeof(F::coefficients) / sizeof(T)) - 1;
  const Real lowest = P::fill(F::lowest);
  x = x < lowest ? lowest : x;  // a NaN stays
  const Real shifted = x + P::fill(F::round_shift);
  const Real f = x - (shifted - P::fill(F::round_shift));
  Real p = P::fill(F::coefficients[degree]);
  for (int power = degree - 1; power >= 0; --power) p = P::multiply_add(p, f, P::fill(F::coefficients[power]));
  p = P::multiply_add(p, f, P::fill(T(0x1.62e42fefa39efp-1)));
  p = P::multiply_add(p, f, P::fill(T(1)));
  // 2^k by its bits; k = -127 gives 0.
  const Real power = (Real)((Mask)shifted << F::mantissa_bits);
  return p * power;
}

// The same of one number.
template <class T>
[[gnu::always_inline]] inline T power_of_two_of(T x) {
  constexpr int W = kLanes<T>;
  return power_of_two<T, W>(Pack<T, W>::fill(x))[0];
}

}  // namespace
}  // namespace metafast::attention
