// The mathematics of the exact environments: the very functions that gymnasium's Python code ends in.
//
// np.sin and np.cos are not the C library's functions: NumPy has its own, several of them, and picks one for the
// processor. Their inner loops come as addresses from the ufunc objects (bindings/ufunc_loop.cpp). Gymnasium calls them
// for one number at a time; here up to three go together, each of which gets what it would get alone
// (tests/envs/test_exact.py). `x ** 2` of a NumPy scalar is the C library's pow, which is not always x * x; math.cos is
// its cos.
#pragma once

#include <cstdint>
#include <limits>

#include "envs/polynomial_math.hpp"

namespace metafast {

struct NumpyMath {
  // An inner loop of a ufunc and the pointer that it wants back.
  struct UfuncLoop {
    void (*run)(char** arrays, const std::intptr_t* length, const std::intptr_t* strides, void* data);
    void* data;

    template <class Real, int count>
    [[gnu::always_inline]] inline void operator()(const Real (&x)[count], Real (&y)[count]) const {
      char* arrays[2] = {const_cast<char*>(reinterpret_cast<const char*>(x)), reinterpret_cast<char*>(y)};
      const std::intptr_t length = count;
      const std::intptr_t strides[2] = {sizeof(Real), sizeof(Real)};
      run(arrays, &length, strides, data);
    }
    [[gnu::always_inline]] inline double operator()(double x) const {
      double y[1];
      (*this)({x}, y);
      return y[0];
    }
  };

  static constexpr double kLargestAngle = std::numeric_limits<double>::infinity();

  static constexpr bool kIdentities = false;
  static constexpr double kFarFromTie = 0.46875;  // of a unit in the last place

  UfuncLoop sin_double, cos_double, sin_float, cos_float;

  [[gnu::always_inline]] inline void sincos(double angle, double& sine, double& cosine) const {
    sine = sin_double(angle);
    cosine = cos_double(angle);
  }
  [[gnu::always_inline]] inline double sin(double angle) const { return sin_double(angle); }
  template <int count>
  [[gnu::always_inline]] inline void cosines(const double (&angles)[count], double (&cosines)[count]) const {
    cos_double(angles, cosines);
  }

  template <int count>
  [[gnu::always_inline]] inline void observed_sincos(const double (&angles)[count], bool is_single,
                                                     float (&sines)[count], float (&cosines)[count]) const {
    if (is_single) {
      float singles[count];
      for (int i = 0; i < count; ++i) singles[i] = static_cast<float>(angles[i]);
      sin_float(singles, sines);
      cos_float(singles, cosines);
    } else {
      double s[count], c[count];
      sin_double(angles, s);
      cos_double(angles, c);
      for (int i = 0; i < count; ++i) {
        sines[i] = static_cast<float>(s[i]);
        cosines[i] = static_cast<float>(c[i]);
      }
    }
  }

  METAFAST_FORMULA double library_cos(double angle) { return __builtin_cos(angle); }

  METAFAST_FORMULA auto divider(double divisor) {
    return [divisor](double x) { return x / divisor; };
  }

  // The C library's pow(x, 2). It is off from the true square by little more than the half unit that rounding costs
  // (0.52 units in glibc), so that x * x is the same number, except where the true square lies near the middle between
  // two numbers: only there is pow called. The exponent is volatile, because the compiler would multiply instead.
  METAFAST_FORMULA double square(double x) {
#if defined(__FMA__)
    const double product = x * x;
    const double rest = __builtin_fma(x, x, -product);
    const auto exponent_bits = vector_math::bit_cast<std::uint64_t>(product) & 0x7ff0000000000000u;
    const double unit = vector_math::bit_cast<double>(exponent_bits) * 0x1p-52;
    if (product > 1e-280 && product < 1e300 && __builtin_fabs(rest) < kFarFromTie * unit) return product;
#endif
    const volatile double exponent = 2;
    return __builtin_pow(x, exponent);
  }
  METAFAST_FORMULA float square(float x) {
    const double exact = static_cast<double>(x) * x;
    const float product = static_cast<float>(exact);
    const auto exponent_bits = vector_math::bit_cast<std::uint32_t>(product) & 0x7f800000u;
    const double unit = static_cast<double>(vector_math::bit_cast<float>(exponent_bits)) * 0x1p-23;
    if (product > 1e-30f && product < 1e30f && __builtin_fabs(exact - product) < kFarFromTie * unit) return product;
    const volatile float exponent = 2;
    return __builtin_powf(x, exponent);
  }

  // Python's remainder: of the divisor's sign.
  METAFAST_FORMULA double modulo_turn(double angle) {
    const double remainder = __builtin_fmod(angle, kTurn);
    return remainder < 0 ? remainder + kTurn : remainder == 0 ? 0.0 : remainder;
  }

  // By subtraction, turn after turn. An angle that only set_state can give is brought near first: it would keep the
  // loop going for hours, or for ever where a turn is less than its rounding.
  METAFAST_FORMULA double wrap(double angle) {
    if (__builtin_fabs(angle) > 1e6) angle = __builtin_fmod(angle, kTurn);
    while (angle > kPi) angle = angle - kTurn;
    while (angle < -kPi) angle = angle + kTurn;
    return angle;
  }
};

}  // namespace metafast
