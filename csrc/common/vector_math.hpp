// sin, cos, exp, tanh and log in plain branch-free C++, which the compiler vectorises in a loop over environments or
// features (-O3 -fno-trapping-math; never -ffast-math) and which the CUDA kernels share.
//
//               valid for      outside                          maximum error, float and double
//   vector_sin  |x| <= 2^20    NaN                              1.5 ulp (1.25 where products and sums fuse)
//   vector_cos  |x| <= 2^20    NaN                              1.5 ulp (1.25)
//   vector_exp  every x        infinity, denormals, 0 as due    1.1 ulp
//   vector_tanh every x        +-1 as due                       1.4 ulp
//   vector_log  x >= 0         NaN                              0.9 ulp
//
// The float errors are those of all 2^32 arguments; the double ones of millions, the doubles nearest to every multiple
// of pi/2 among them (tests/common/test_vector_math.py). NaN gives NaN. sin and tanh are odd to the bit, the sign of
// zero included. Compiled without fusing, as the project's kernels are, the bits are the same at every level.
#pragma once

#include <cstdint>

#include "common/host_device.hpp"
#include "common/vector_math_polynomials.hpp"

namespace metafast {
namespace vector_math {

constexpr double kLargestAngle = 0x1p20;

template <class Real>
struct Format;

template <>
struct Format<float> {
  using Bits = std::uint32_t;
  static constexpr int mantissa_bits = 23;
  static constexpr Bits exponent_bias = 127;
  // Adding 1.5 * 2^mantissa_bits rounds to a whole number and leaves it in the low bits of the sum.
  static constexpr float round_shift = 0x1.8p23f;
  // The arguments from which exp is surely infinite and surely 0.
  static constexpr float exp_infinite = 89.0f;
  static constexpr float exp_zero = -104.0f;
  // From here on tanh rounds to 1.
  static constexpr float tanh_one = 9.5f;
  // ln 2 in two parts: the first so short that its product with any exponent is exact.
  static constexpr float ln2_high = 0x1.62e4p-1f;
  static constexpr float ln2_low = 0x1.7f7d1cp-20f;
  static constexpr float smallest_normal = 0x1p-126f;
  static constexpr Bits root_half_bits = 0x3f3504f3;  // of sqrt(1/2)
};

template <>
struct Format<double> {
  using Bits = std::uint64_t;
  static constexpr int mantissa_bits = 52;
  static constexpr Bits exponent_bias = 1023;
  static constexpr double round_shift = 0x1.8p52;
  static constexpr double exp_infinite = 710.0;
  static constexpr double exp_zero = -746.0;
  static constexpr double tanh_one = 19.5;
  static constexpr double ln2_high = 0x1.62e42fefa38p-1;
  static constexpr double ln2_low = 0x1.ef35793c7673p-45;
  static constexpr double smallest_normal = 0x1p-1022;
  static constexpr Bits root_half_bits = 0x3fe6a09e667f3bcd;
};

template <class To, class From>
METAFAST_FORMULA To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "a bit cast keeps the size");
  To to;
  __builtin_memcpy(&to, &from, sizeof(to));
  return to;
}

// An angle as quadrant * pi/2 + r + rest with |r| <= pi/4, where `rest` is what rounding took from r; of `quadrant`
// only the two lowest bits count.
template <class Real>
struct ReducedAngle {
  Real r;
  Real rest;
  typename Format<Real>::Bits quadrant;
};

// Cody and Waite's reduction, Software Manual for the Elementary Functions (1980), chapter 8: pi/2 in parts of 33, 33
// and 53 bits, so that the products of the first two with a quadrant of at most 20 bits are exact.
METAFAST_FORMULA ReducedAngle<double> reduce_angle(double magnitude) {
  using F = Format<double>;
  const double shifted = magnitude * 0x1.45f306dc9c883p-1 + F::round_shift;
  const double k = shifted - F::round_shift;
  const double first = magnitude - k * 0x1.921fb544p+0;
  const double second_product = k * 0x1.0b4611a6p-34;
  const double second = first - second_product;
  // What the last subtraction lost (Fast2Sum; where |first| is the smaller it lost nothing).
  const double lost = (first - second) - second_product;
  const double third = lost - k * 0x1.3198a2e037073p-69;
  const double r = second + third;
  return {r, (second - r) + third, bit_cast<F::Bits>(shifted)};
}

// A float's angle is reduced in double precision, where the first two parts leave nothing to compensate.
METAFAST_FORMULA ReducedAngle<float> reduce_angle(float magnitude) {
  using F = Format<double>;
  const double x = magnitude;
  const double shifted = x * 0x1.45f306dc9c883p-1 + F::round_shift;
  const double k = shifted - F::round_shift;
  const double r = (x - k * 0x1.921fb544p+0) - k * 0x1.0b4611a6p-34;
  const float rounded = static_cast<float>(r);
  return {rounded, static_cast<float>(r - rounded), static_cast<std::uint32_t>(bit_cast<F::Bits>(shifted))};
}

template <class Real>
METAFAST_FORMULA void sincos_of_reduced(Real r, Real rest, Real& sine, Real& cosine) {
  const Real z = r * r;
  sine = r + (rest + r * (z * sine_polynomial(z)));
  cosine = Real(1) + z * (Real(-0.5) + z * cosine_polynomial(z));
}

// exp(x) as 2^exponent * (1 + fraction). `exponent` wraps round where it is negative.
template <class Real>
struct ReducedExponential {
  Real fraction;
  typename Format<Real>::Bits exponent;
};

template <class Real>
METAFAST_FORMULA ReducedExponential<Real> reduce_exponential(Real x) {
  using F = Format<Real>;
  const Real shifted = x * Real(0x1.71547652b82fep+0) + F::round_shift;
  const Real k = shifted - F::round_shift;
  const Real r = (x - k * F::ln2_high) - k * F::ln2_low;
  return {r + r * (r * exponential_polynomial(r)),
          bit_cast<typename F::Bits>(shifted) - bit_cast<typename F::Bits>(F::round_shift)};
}

// 2^exponent, for exponents of normal numbers only.
template <class Real>
METAFAST_FORMULA Real power_of_two(typename Format<Real>::Bits exponent) {
  return bit_cast<Real>((exponent + Format<Real>::exponent_bias) << Format<Real>::mantissa_bits);
}

}  // namespace vector_math

template <class Real>
METAFAST_FORMULA void vector_sincos(Real x, Real& sine, Real& cosine) {
  using namespace vector_math;
  using Bits = typename Format<Real>::Bits;
  constexpr int sign_position = sizeof(Real) * 8 - 1;
  constexpr Bits sign_bit = Bits{1} << sign_position;
  const Bits bits = bit_cast<Bits>(x);
  Real magnitude = bit_cast<Real>(bits & ~sign_bit);
  magnitude = magnitude <= Real(kLargestAngle) ? magnitude : Real(__builtin_nan(""));
  const auto angle = reduce_angle(magnitude);
  Real s, c;
  sincos_of_reduced(angle.r, angle.rest, s, c);
  // Odd quadrants exchange sine and cosine; the sine is negative in quadrants 2 and 3, the cosine in 1 and 2.
  const bool exchange = (angle.quadrant & 1) != 0;
  const Bits sine_sign = (angle.quadrant << (sign_position - 1)) ^ bits;
  const Bits cosine_sign = (angle.quadrant + 1) << (sign_position - 1);
  sine = bit_cast<Real>(bit_cast<Bits>(exchange ? c : s) ^ (sine_sign & sign_bit));
  cosine = bit_cast<Real>(bit_cast<Bits>(exchange ? s : c) ^ (cosine_sign & sign_bit));
}

template <class Real>
METAFAST_FORMULA Real vector_sin(Real x) {
  Real sine, cosine;
  vector_sincos(x, sine, cosine);
  return sine;
}

template <class Real>
METAFAST_FORMULA Real vector_cos(Real x) {
  Real sine, cosine;
  vector_sincos(x, sine, cosine);
  return cosine;
}

template <class Real>
METAFAST_FORMULA Real vector_exp(Real x) {
  using namespace vector_math;
  using F = Format<Real>;
  using Bits = typename F::Bits;
  x = x > F::exp_infinite ? F::exp_infinite : x;  // a NaN stays
  x = x < F::exp_zero ? F::exp_zero : x;
  const auto reduced = reduce_exponential(x);
  // In two factors, because 2^exponent alone may overflow or be denormal. The offset makes the exponent positive:
  // unsigned shifts vectorise at every level.
  constexpr Bits offset = 2048;
  const Bits half = ((reduced.exponent + offset) >> 1) - offset / 2;
  const Real mantissa = Real(1) + reduced.fraction;
  return mantissa * power_of_two<Real>(half) * power_of_two<Real>(reduced.exponent - half);
}

// x + x^3 P(x^2) / Q(x^2) for small arguments, 1 - 2 / (exp(2x) + 1) for large ones, with one division for both.
template <class Real>
METAFAST_FORMULA Real vector_tanh(Real x) {
  using namespace vector_math;
  using F = Format<Real>;
  using Bits = typename F::Bits;
  constexpr Bits sign_bit = Bits{1} << (sizeof(Real) * 8 - 1);
  const Bits bits = bit_cast<Bits>(x);
  Real magnitude = bit_cast<Real>(bits & ~sign_bit);
  magnitude = magnitude > F::tanh_one ? F::tanh_one : magnitude;  // a NaN stays
  const Real z = magnitude * magnitude;
  const auto reduced = reduce_exponential(magnitude + magnitude);
  const Real scale = power_of_two<Real>(reduced.exponent);
  const bool small = magnitude < Real(0.5625);
  const Real numerator = small ? magnitude * (z * tanh_numerator(z)) : Real(-2);
  const Real denominator = small ? tanh_denominator(z) : scale * reduced.fraction + (scale + Real(1));
  const Real tanh = (small ? magnitude : Real(1)) + numerator / denominator;
  return bit_cast<Real>(bit_cast<Bits>(tanh) | (bits & sign_bit));
}

// x = 2^k (1 + f) with 1 + f between sqrt(1/2) and sqrt(2); log(1 + f) = f - f^2 / 2 + s (f^2 / 2 + R(s^2)) with
// s = f / (2 + f), in which the largest terms are the least rounded.
template <class Real>
METAFAST_FORMULA Real vector_log(Real x) {
  using namespace vector_math;
  using F = Format<Real>;
  using Bits = typename F::Bits;
  constexpr Bits one_bits = F::exponent_bias << F::mantissa_bits;
  constexpr Bits mantissa_mask = (Bits{1} << F::mantissa_bits) - 1;
  // Put below a whole number's bits, these make the number 2^mantissa_bits plus that whole number.
  constexpr Bits whole_bits = (F::exponent_bias + F::mantissa_bits) << F::mantissa_bits;
  constexpr Real whole = Real(Bits{1} << F::mantissa_bits);
  constexpr int denormal_exponent = F::mantissa_bits + 1;
  const bool denormal = x < F::smallest_normal;
  const Real normal = denormal ? x * Real(Bits{1} << denormal_exponent) : x;
  const Bits bits = bit_cast<Bits>(normal) + (one_bits - F::root_half_bits);
  const Real bias = Real(F::exponent_bias) + (denormal ? Real(denormal_exponent) : Real(0));
  const Real k = (bit_cast<Real>((bits >> F::mantissa_bits) | whole_bits) - whole) - bias;
  const Real f = bit_cast<Real>((bits & mantissa_mask) + F::root_half_bits) - Real(1);
  const Real s = f / (Real(2) + f);
  const Real z = s * s;
  const Real half_square = Real(0.5) * f * f;
  const Real small = half_square - (s * (half_square + z * logarithm_polynomial(z)) + k * F::ln2_low);
  const Real log = k * F::ln2_high - (small - f);
  const Real infinity = Real(__builtin_inf());
  const Real finite = x == Real(0) ? -infinity : log;
  const Real positive = x < infinity ? finite : x;  // infinity, or a NaN
  return x < Real(0) ? Real(__builtin_nan("")) : positive;
}

}  // namespace metafast
