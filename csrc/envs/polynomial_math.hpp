// The mathematics of the native environments: polynomials in branch-free C++, which the compiler vectorises.
//
// The environments' formulas are templates on their mathematics, so that each formula stands in one place: here within
// 1.5 ulp, in numpy_math.hpp bit for bit what gymnasium's Python code computes.
#pragma once

#include "common/host_device.hpp"
#include "common/vector_math.hpp"

namespace metafast {

constexpr double kPi = 3.141592653589793;
constexpr double kTurn = 2 * kPi;

struct PolynomialMath {
  // Angles beyond this are brought back by whole turns before their sine is taken: vector_sincos ends at 2^20.
  static constexpr double kLargestAngle = 0x1p19;

  // A formula may replace a sine by others that it has, cos(a + b) by cos(a) cos(b) - sin(a) sin(b).
  static constexpr bool kIdentities = true;

  METAFAST_FORMULA void sincos(double angle, double& sine, double& cosine) { vector_sincos(angle, sine, cosine); }
  METAFAST_FORMULA double sin(double angle) { return vector_sin(angle); }
  METAFAST_FORMULA double library_cos(double angle) { return vector_cos(angle); }

  // Sines and cosines as observed, of angles that gymnasium holds as float32 (`is_single`) or as float64.
  template <int count>
  METAFAST_FORMULA void observed_sincos(const double (&angles)[count], bool, float (&sines)[count],
                                        float (&cosines)[count]) {
    for (int i = 0; i < count; ++i) {
      double sine, cosine;
      vector_sincos(angles[i], sine, cosine);
      sines[i] = static_cast<float>(sine);
      cosines[i] = static_cast<float>(cosine);
    }
  }

  // Divides by one number several times.
  METAFAST_FORMULA auto divider(double divisor) {
    const double inverse = 1 / divisor;
    return [inverse](double x) { return x * inverse; };
  }

  METAFAST_FORMULA double square(double x) { return x * x; }
  METAFAST_FORMULA float square(float x) { return x * x; }

  // `angle` modulo a turn, between 0 and a turn. The turn is subtracted in two parts, the first of 33 bits, so that its
  // products with up to 2^20 turns are exact.
  METAFAST_FORMULA double modulo_turn(double angle) {
    constexpr double high = 0x1.921fb544p+2;
    constexpr double low = kTurn - high;
    const double turns = __builtin_floor(angle * (1 / kTurn));
    return (angle - turns * high) - turns * low;
  }

  // `angle` brought between -pi and pi by whole turns: one or two, which is what a step can make, with the bits of
  // repeated subtraction, and any number at once.
  METAFAST_FORMULA double wrap(double angle) {
    const double magnitude = angle < 0 ? -angle : angle;
    const double shifted = angle * (1 / kTurn) + vector_math::Format<double>::round_shift;
    const double turns = shifted - vector_math::Format<double>::round_shift;
    angle = magnitude > 5 * kPi ? angle - turns * kTurn : angle;
    for (int i = 0; i < 2; ++i) {
      angle = angle > kPi ? angle - kTurn : angle;
      angle = angle < -kPi ? angle + kTurn : angle;
    }
    return angle;
  }
};

}  // namespace metafast
