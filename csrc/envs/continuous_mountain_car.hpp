// MountainCarContinuous-v0: MountainCar with a force between -1 and 1 that costs its square.
//
// Gymnasium's Continuous_MountainCarEnv keeps its state as float32 after a step and as float64 after a reset, and
// Python numbers take the type of the NumPy scalars that they meet: an episode's first step runs in float64 and all
// others in float32. Here float64 holds either, and a step rounds its results to float32 where both components are
// float32 numbers. (A reset draws such a position once in 2^29 episodes; gymnasium would take that step in float64.)
#pragma once

#include "common/host_device.hpp"
#include "envs/valley.hpp"

namespace metafast {

template <class Math>
struct ContinuousMountainCar : Valley {
  using Action = float;  // the force, clipped to [-1, 1]

  struct Parameters : Math {
    double goal_velocity;
  };

  static constexpr double kGoal = 0.45;
  static constexpr double kPower = 0.0015;

  METAFAST_FORMULA void step(const Parameters& parameters, const Action (&action)[kActionSize], const double (&)[1],
                             double (&state)[kStateSize], double& reward, bool& terminated) {
    double position = state[0];
    double velocity = state[1];
    // Decisions are nested selects, each on one comparison: an `and` of two would keep the loop from vectorising.
    const bool is_single = holds_singles(state);
    const double speed_limit = is_single ? single(kSpeedLimit) : kSpeedLimit;
    const double lowest = is_single ? single(kLowestPosition) : kLowestPosition;
    const double highest = is_single ? single(kHighestPosition) : kHighestPosition;
    const double goal = is_single ? single(kGoal) : kGoal;

    // A clipped force is a Python number, and so is its acceleration until it meets the velocity.
    const double force = action[0];
    double clipped_force = force < -1 ? -1.0 : force;
    clipped_force = clipped_force > 1 ? 1.0 : clipped_force;
    const double pull = kGravity * parameters.library_cos(slope_angle(state));
    const double free_acceleration = single(single(force * single(kPower)) - single(pull));
    const double clipped_acceleration = clipped_force * kPower - pull;
    const double met = is_single ? single(clipped_acceleration) : clipped_acceleration;
    velocity = velocity + (clipped_force == force ? free_acceleration : met);
    velocity = is_single ? single(velocity) : velocity;
    // A clipped velocity is a Python number too, and compared with the goal's in float64.
    double compared = velocity;
    double compared_with = is_single ? single(parameters.goal_velocity) : parameters.goal_velocity;
    compared_with = __builtin_fabs(velocity) > speed_limit ? parameters.goal_velocity : compared_with;
    compared = velocity > speed_limit ? kSpeedLimit : compared;
    compared = velocity < -speed_limit ? -kSpeedLimit : compared;
    velocity = velocity > speed_limit ? speed_limit : velocity;
    velocity = velocity < -speed_limit ? -speed_limit : velocity;

    position = position + velocity;
    position = is_single ? single(position) : position;
    position = position > highest ? highest : position;
    position = position < lowest ? lowest : position;
    const double stopped = velocity < 0 ? 0.0 : velocity;
    velocity = position == lowest ? stopped : velocity;

    const double arrived_at = compared >= compared_with ? position : lowest;
    terminated = arrived_at >= goal;
    reward = (terminated ? 100.0 : 0.0) - force * force * 0.1;
    state[0] = single(position);
    state[1] = single(velocity);
  }

  // What the valley's slope is the cosine of.
  METAFAST_FORMULA double slope_angle(const double (&state)[kStateSize]) {
    const double tripled = 3 * state[0];
    return holds_singles(state) ? single(tripled) : tripled;
  }

 private:
  METAFAST_FORMULA bool holds_singles(const double (&state)[kStateSize]) {
    return __builtin_fabs(state[0] - single(state[0])) + __builtin_fabs(state[1] - single(state[1])) == 0;
  }
  METAFAST_FORMULA double single(double x) { return static_cast<double>(static_cast<float>(x)); }
};

}  // namespace metafast
