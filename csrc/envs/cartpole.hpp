// CartPole-v1: a pole hinged to a cart that is pushed left or right with constant force.
//
// Barto, Sutton and Anderson (1983), integrated with explicit Euler steps in the operation order of gymnasium's
// CartPoleEnv, so that each single step from the same state gives the same float32 observation.
#pragma once

#include <cstdint>

#include "common/host_device.hpp"

namespace metafast {

struct CartPolePhysics {
  double gravity;
  double cart_mass;
  double pole_mass;
  double pole_half_length;
  double force;
};

template <class Math>
struct CartPole {
  static constexpr int kStateSize = 4;  // cart position, cart velocity, pole angle, pole angular velocity
  static constexpr int kObservationSize = 4;
  static constexpr int kResetUniforms = 4;
  static constexpr int kStepUniforms = 0;
  using Action = std::int32_t;  // 0 pushes left, 1 pushes right
  static constexpr int kActionSize = 1;

  struct Parameters : Math {
    // Sutton and Barto's book pays -1 at the fall and 0 before; gymnasium's default pays 1 for every step.
    double upright_reward;
    double fallen_reward;
  };

  static constexpr double kTimeStep = 0.02;
  static constexpr double kPositionLimit = 2.4;
  static constexpr double kAngleLimit = 12 * 2 * 3.141592653589793 / 360;
  static constexpr double kResetBound = 0.05;

  METAFAST_FORMULA void reset(const Parameters&, const double (&uniforms)[kResetUniforms],
                              double (&state)[kStateSize]) {
    for (int i = 0; i < kStateSize; ++i) state[i] = -kResetBound + (kResetBound + kResetBound) * uniforms[i];
  }

  METAFAST_FORMULA void step(const Parameters& parameters, const Action (&action)[kActionSize], const double (&)[1],
                             double (&state)[kStateSize], double& reward, bool& terminated) {
    constexpr CartPolePhysics physics = {9.8, 1.0, 0.1, 0.5, 10.0};
    move(parameters, physics, action[0], state);
    terminated = fallen(state);
    reward = terminated ? parameters.fallen_reward : parameters.upright_reward;
  }

  METAFAST_FORMULA void move(const Math& math, const CartPolePhysics& physics, Action action,
                             double (&state)[kStateSize]) {
    double& position = state[0];
    double& velocity = state[1];
    double& angle = state[2];
    double& angular_velocity = state[3];

    const double total_mass = physics.pole_mass + physics.cart_mass;
    const double pole_mass_length = physics.pole_mass * physics.pole_half_length;
    const double force = action == 1 ? physics.force : -physics.force;
    double sine, cosine;
    math.sincos(angle, sine, cosine);
    const double push = (force + pole_mass_length * (angular_velocity * angular_velocity) * sine) / total_mass;
    const double angular_acceleration =
        (physics.gravity * sine - cosine * push) /
        (physics.pole_half_length * (4.0 / 3.0 - physics.pole_mass * (cosine * cosine) / total_mass));
    const double acceleration = push - pole_mass_length * angular_acceleration * cosine / total_mass;

    position = position + kTimeStep * velocity;
    velocity = velocity + kTimeStep * acceleration;
    angle = angle + kTimeStep * angular_velocity;
    angular_velocity = angular_velocity + kTimeStep * angular_acceleration;
  }

  METAFAST_FORMULA bool fallen(const double (&state)[kStateSize]) {
    const double position = state[0], angle = state[2];
    // Bitwise or: a short-circuit would be a branch, and the loop over environments would not vectorise.
    return (position < -kPositionLimit) | (position > kPositionLimit) | (angle < -kAngleLimit) |
           (angle > kAngleLimit);
  }

  METAFAST_FORMULA void observe(const Parameters&, const double (&state)[kStateSize],
                                float (&observation)[kObservationSize]) {
    for (int i = 0; i < kObservationSize; ++i) observation[i] = static_cast<float>(state[i]);
  }
};

}  // namespace metafast
