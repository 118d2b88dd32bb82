// MountainCar-v0: a car in a valley, too weak to drive straight up, is pushed left, right or not at all.
//
// In the operation order of gymnasium's MountainCarEnv.
#pragma once

#include <cstdint>

#include "common/host_device.hpp"
#include "envs/valley.hpp"

namespace metafast {

template <class Math>
struct MountainCar : Valley {
  using Action = std::int32_t;  // 0 pushes left, 2 pushes right

  struct Parameters : Math {
    double goal_velocity;
  };

  static constexpr double kGoal = 0.5;
  static constexpr double kForce = 0.001;

  METAFAST_FORMULA void step(const Parameters& parameters, const Action (&action)[kActionSize], const double (&)[1],
                             double (&state)[kStateSize], double& reward, bool& terminated) {
    double position = state[0];
    double velocity = state[1];
    velocity = velocity + ((action[0] - 1) * kForce + parameters.library_cos(slope_angle(state)) * -kGravity);
    velocity = velocity < -kSpeedLimit ? -kSpeedLimit : velocity;
    velocity = velocity > kSpeedLimit ? kSpeedLimit : velocity;
    position = position + velocity;
    position = position < kLowestPosition ? kLowestPosition : position;
    position = position > kHighestPosition ? kHighestPosition : position;
    const double stopped = velocity < 0 ? 0.0 : velocity;
    velocity = position == kLowestPosition ? stopped : velocity;

    // Nested selects, each on one comparison: an `and` of two would keep the loop from vectorising.
    const double arrived_at = velocity >= parameters.goal_velocity ? position : kLowestPosition;
    terminated = arrived_at >= kGoal;
    reward = -1;
    state[0] = position;
    state[1] = velocity;
  }

  // What the valley's slope is the cosine of.
  METAFAST_FORMULA double slope_angle(const double (&state)[kStateSize]) { return 3 * state[0]; }
};

}  // namespace metafast
