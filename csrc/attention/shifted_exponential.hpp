// What the exponential form takes of one number, on the CPU and on CUDA devices; its proof is in exponential_form.hpp.
#pragma once

#include "common/vector_math.hpp"

namespace metafast::attention {
namespace {

template <class T>
struct Range;

template <>
struct Range<float> {
  static constexpr float kSaturation = 9.05f;
  static constexpr float kMaxHalfRange = 12.0f;
  static constexpr float kNarrow =
      0.5f;  // as half a range; 1 + b is then at least 1/e, and a + b + a b does not cancel
  static constexpr float kScale = 0x1p-58f;
  static constexpr float kFoldable = 0x1p-24f;  // least magnitude of a weight beside a largest in [1, 2)
};

template <>
struct Range<double> {
  static constexpr double kSaturation = 19.1;
  static constexpr double kMaxHalfRange = 60.0;
  static constexpr double kNarrow = 0.5;
  static constexpr double kScale = 0x1p-230;
  static constexpr double kFoldable = 0x1p-60;
};

// exp for arguments whose exponential is a normal number, and NaN; less 1 where `minus_one`.
template <bool minus_one, class T>
METAFAST_FORMULA T normal_exp(T x) {
  const auto reduced = vector_math::reduce_exponential(x);
  const T power = vector_math::power_of_two<T>(reduced.exponent);
  return (minus_one ? power - T(1) : power) + power * reduced.fraction;
}

// scale * exp(2 (x + shift)), with the sum clamped to +-limit; NaN stays. The rounding of the sum (Knuth's two-sum
// finds it) is taken up by the first order of the exponential. `minus_one`: exp - 1.
template <bool minus_one, class T>
METAFAST_FORMULA T shifted_exponential(T x, T shift, T limit, T scale) {
  const T sum = x + shift;
  const T part = sum - x;
  const T lost = (x - (sum - part)) + (shift - part);
  const T low = sum < -limit ? -limit : sum;
  const T clamped = low > limit ? limit : low;
  const T rest = clamped == sum ? lost : T(0);
  const T exponential = scale * normal_exp<minus_one>(clamped + clamped);
  return exponential + (minus_one ? exponential + scale : exponential) * (rest + rest);
}

}  // namespace
}  // namespace metafast::attention
