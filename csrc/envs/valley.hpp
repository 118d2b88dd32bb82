// The valley that both mountain cars are in (Moore's thesis, 1990; gymnasium's constants).
#pragma once

#include "common/host_device.hpp"

namespace metafast {

struct Valley {
  static constexpr int kStateSize = 2;  // position, velocity
  static constexpr int kObservationSize = 2;
  static constexpr int kResetUniforms = 1;
  static constexpr int kStepUniforms = 0;
  static constexpr int kActionSize = 1;

  static constexpr double kLowestPosition = -1.2;
  static constexpr double kHighestPosition = 0.6;
  static constexpr double kSpeedLimit = 0.07;
  static constexpr double kGravity = 0.0025;
  static constexpr double kResetLow = -0.6;
  static constexpr double kResetHigh = -0.4;

  template <class Parameters>
  METAFAST_FORMULA void reset(const Parameters&, const double (&uniforms)[kResetUniforms],
                              double (&state)[kStateSize]) {
    state[0] = kResetLow + (kResetHigh - kResetLow) * uniforms[0];
    state[1] = 0;
  }

  template <class Parameters>
  METAFAST_FORMULA void observe(const Parameters&, const double (&state)[kStateSize],
                                float (&observation)[kObservationSize]) {
    for (int i = 0; i < kObservationSize; ++i) observation[i] = static_cast<float>(state[i]);
  }
};

}  // namespace metafast
