// The mathematics of the exact environments: the very functions that gymnasium's Python code ends in.
//
// np.sin and np.cos are not the C library's functions: NumPy has its own, several of them, and picks one for the
// processor. Their inner loops come as addresses from the ufunc objects (bindings/ufunc_loop.cpp) and are called for
// one number at a time, as gymnasium's scalars are. `x ** 2` of a NumPy scalar is the C library's pow, which is not
// always x * x; math.cos is its cos.
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

    template <class Real>
    [[gnu::always_inline]] inline Real operator()(Real x) const {
      Real y;
      char* arrays[2] = {reinterpret_cast<char*>(&x), reinterpret_cast<char*>(&y)};
      const std::intptr_t length = 1;
      const std::intptr_t strides[2] = {sizeof(Real), sizeof(Real)};
      run(arrays, &length, strides, data);
      return y;
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
  [[gnu::always_inline]] inline double cos(double angle) const { return cos_double(angle); }
  METAFAST_FORMULA double library_cos(double angle) { return __builtin_cos(angle); }

  [[gnu::always_inline]] inline void observed_sincos(double angle, bool is_single, float& sine, float& cosine) const {
    if (is_single) {
      sine = sin_float(static_cast<float>(angle));
      cosine = cos_float(static_cast<float>(angle));
    } else {
      sine = static_cast<float>(sin_double(angle));
      cosine = static_cast<float>(cos_double(angle));
    }
  }

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
