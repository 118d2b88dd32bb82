// Acrobot-v1: a two-link pendulum, driven at its middle joint only, is swung up until its tip reaches a height.
//
// Sutton (1996), with the book's equations and the constants, operation order and fourth-order Runge-Kutta step of
// gymnasium's AcrobotEnv, whose state is float32 after a reset and float64 after a step. With polynomials the step is
// bound by arithmetic, and half of its sines and divisions are saved by identities that cost a rounding or two.
#pragma once

#include <cstdint>

#include "common/host_device.hpp"
#include "envs/polynomial_math.hpp"

namespace metafast {

template <class Math>
struct Acrobot {
  static constexpr int kStateSize = 4;        // the two joints' angles, their angular velocities
  static constexpr int kObservationSize = 6;  // cosine and sine of each angle, the angular velocities
  static constexpr int kResetUniforms = 4;
  static constexpr int kStepUniforms = 0;
  using Action = std::int32_t;  // torque -1, 0 or 1
  static constexpr int kActionSize = 1;

  struct Parameters : Math {};

  static constexpr double kTimeStep = 0.2;
  static constexpr double kLength1 = 1.0;
  static constexpr double kMass1 = 1.0;
  static constexpr double kMass2 = 1.0;
  static constexpr double kCenter1 = 0.5;
  static constexpr double kCenter2 = 0.5;
  static constexpr double kInertia1 = 1.0;
  static constexpr double kInertia2 = 1.0;
  static constexpr double kGravity = 9.8;
  static constexpr double kSpeedLimit1 = 4 * kPi;
  static constexpr double kSpeedLimit2 = 9 * kPi;
  static constexpr double kHeight = 1.0;
  static constexpr double kResetBound = 0.1;

  METAFAST_FORMULA void reset(const Parameters&, const double (&uniforms)[kResetUniforms],
                              double (&state)[kStateSize]) {
    for (int i = 0; i < kStateSize; ++i)
      state[i] = static_cast<float>(-kResetBound + (kResetBound + kResetBound) * uniforms[i]);
  }

  METAFAST_FORMULA void step(const Parameters& parameters, const Action (&action)[kActionSize], const double (&)[1],
                             double (&state)[kStateSize], double& reward, bool& terminated) {
    const double torque = action[0] - 1;
    double k1[kStateSize], k2[kStateSize], k3[kStateSize], k4[kStateSize], middle[kStateSize];
    derivatives(parameters, state, torque, k1);
    for (int i = 0; i < kStateSize; ++i) middle[i] = state[i] + kTimeStep / 2.0 * k1[i];
    derivatives(parameters, middle, torque, k2);
    for (int i = 0; i < kStateSize; ++i) middle[i] = state[i] + kTimeStep / 2.0 * k2[i];
    derivatives(parameters, middle, torque, k3);
    for (int i = 0; i < kStateSize; ++i) middle[i] = state[i] + kTimeStep * k3[i];
    derivatives(parameters, middle, torque, k4);
    for (int i = 0; i < kStateSize; ++i)
      state[i] = state[i] + kTimeStep / 6.0 * (k1[i] + 2 * k2[i] + 2 * k3[i] + k4[i]);

    state[0] = parameters.wrap(state[0]);
    state[1] = parameters.wrap(state[1]);
    state[2] = limited(state[2], kSpeedLimit1);
    state[3] = limited(state[3], kSpeedLimit2);
    terminated = tip_height(parameters, state) > kHeight;
    reward = terminated ? 0.0 : -1.0;
  }

  METAFAST_FORMULA void observe(const Parameters& parameters, const double (&state)[kStateSize],
                                float (&observation)[kObservationSize]) {
    bool is_single = true;
    for (int i = 0; i < kStateSize; ++i)
      is_single &= state[i] == static_cast<double>(static_cast<float>(state[i]));
    float sines[2], cosines[2];
    parameters.observed_sincos({state[0], state[1]}, is_single, sines, cosines);
    for (int i = 0; i < 2; ++i) {
      observation[2 * i] = cosines[i];
      observation[2 * i + 1] = sines[i];
    }
    observation[4] = static_cast<float>(state[2]);
    observation[5] = static_cast<float>(state[3]);
  }

 private:
  METAFAST_FORMULA double limited(double speed, double limit) {
    speed = speed < -limit ? -limit : speed;
    return speed > limit ? limit : speed;
  }

  METAFAST_FORMULA double tip_height(const Parameters& parameters, const double (&state)[kStateSize]) {
    if constexpr (Math::kIdentities) {
      double sine1, cosine1, sine2, cosine2;
      parameters.sincos(state[0], sine1, cosine1);
      parameters.sincos(state[1], sine2, cosine2);
      return -cosine1 - (cosine1 * cosine2 - sine1 * sine2);
    } else {
      double cosines[2];
      parameters.cosines({state[0], state[1] + state[0]}, cosines);
      return -cosines[0] - cosines[1];
    }
  }

  METAFAST_FORMULA void derivatives(const Parameters& parameters, const double (&state)[kStateSize], double torque,
                                    double (&rates)[kStateSize]) {
    constexpr double kProduct2 = kMass2 * kLength1 * kCenter2;
    const double speed1 = state[2];
    const double speed2 = state[3];
    // The cosines, from the horizontal, of the first link and of the second.
    double sine2, cosine2, lean1, lean2;
    if constexpr (Math::kIdentities) {
      double cosine1;
      parameters.sincos(state[0], lean1, cosine1);
      parameters.sincos(state[1], sine2, cosine2);
      lean2 = lean1 * cosine2 + cosine1 * sine2;
    } else {
      double cosines[3];
      parameters.cosines({state[1], state[0] - kPi / 2, state[0] + state[1] - kPi / 2.0}, cosines);
      sine2 = parameters.sin(state[1]);
      cosine2 = cosines[0];
      lean1 = cosines[1];
      lean2 = cosines[2];
    }
    const double d1 = kMass1 * (kCenter1 * kCenter1) +
                      kMass2 * (kLength1 * kLength1 + kCenter2 * kCenter2 + 2 * kLength1 * kCenter2 * cosine2) +
                      kInertia1 + kInertia2;
    const double d2 = kMass2 * (kCenter2 * kCenter2 + kLength1 * kCenter2 * cosine2) + kInertia2;
    const double phi2 = kMass2 * kCenter2 * kGravity * lean2;
    const double phi1 = -kProduct2 * parameters.square(speed2) * sine2 -
                        2 * kProduct2 * speed2 * speed1 * sine2 +
                        (kMass1 * kCenter1 + kMass2 * kLength1) * kGravity * lean1 + phi2;
    const auto over_d1 = parameters.divider(d1);
    const double acceleration2 =
        (torque + over_d1(d2) * phi1 - kProduct2 * parameters.square(speed1) * sine2 - phi2) /
        (kMass2 * (kCenter2 * kCenter2) + kInertia2 - over_d1(parameters.square(d2)));
    rates[0] = speed1;
    rates[1] = speed2;
    rates[2] = over_d1(-(d2 * acceleration2 + phi1));
    rates[3] = acceleration2;
  }
};

}  // namespace metafast
