// Pendulum-v1: a pendulum is swung up and held by a torque too weak to lift it at once.
//
// The operation order and the types are those of gymnasium's PendulumEnv, where the torque is a NumPy float32: its
// square, its cost and its acceleration are float32 products. The angle is not wrapped.
#pragma once

#include "common/host_device.hpp"
#include "envs/polynomial_math.hpp"

namespace metafast {

struct PendulumPhysics {
  double gravity;
  double mass;
  double length;
  float torque_limit;
};

template <class Math>
struct Pendulum {
  static constexpr int kStateSize = 2;        // angle, angular velocity
  static constexpr int kObservationSize = 3;  // cosine and sine of the angle, angular velocity
  static constexpr int kResetUniforms = 2;
  static constexpr int kStepUniforms = 0;
  using Action = float;  // the torque, clipped to [-2, 2]
  static constexpr int kActionSize = 1;

  struct Parameters : Math {
    double gravity;
  };

  static constexpr double kTimeStep = 0.05;
  static constexpr double kSpeedLimit = 8.0;
  static constexpr double kResetAngle = kPi;
  static constexpr double kResetSpeed = 1.0;

  METAFAST_FORMULA void reset(const Parameters&, const double (&uniforms)[kResetUniforms],
                              double (&state)[kStateSize]) {
    state[0] = -kResetAngle + (kResetAngle + kResetAngle) * uniforms[0];
    state[1] = -kResetSpeed + (kResetSpeed + kResetSpeed) * uniforms[1];
  }

  METAFAST_FORMULA void step(const Parameters& parameters, const Action (&action)[kActionSize], const double (&)[1],
                             double (&state)[kStateSize], double& reward, bool& terminated) {
    const PendulumPhysics physics = {parameters.gravity, 1.0, 1.0, 2.0f};
    reward = move(parameters, physics, action[0], state);
    terminated = false;
  }

  // Returns the reward.
  METAFAST_FORMULA double move(const Math& math, const PendulumPhysics& physics, Action action,
                               double (&state)[kStateSize]) {
    const double above = action < -physics.torque_limit ? -physics.torque_limit : action;
    const float torque = static_cast<float>(above > physics.torque_limit ? physics.torque_limit : above);
    const double normalized = math.modulo_turn(state[0] + kPi) - kPi;
    const double magnitude = state[0] < 0 ? -state[0] : state[0];
    const double angle = magnitude > Math::kLargestAngle ? normalized : state[0];
    const double speed = state[1];

    const float torque_cost = 0.001f * math.square(torque);
    const double reward = -(math.square(normalized) + 0.1 * math.square(speed) + static_cast<double>(torque_cost));

    const float thrust = static_cast<float>(3.0 / (physics.mass * (physics.length * physics.length))) * torque;
    double next_speed = speed + (3 * physics.gravity / (2 * physics.length) * math.sin(angle) +
                                 static_cast<double>(thrust)) *
                                    kTimeStep;
    next_speed = next_speed < -kSpeedLimit ? -kSpeedLimit : next_speed;
    next_speed = next_speed > kSpeedLimit ? kSpeedLimit : next_speed;
    state[0] = angle + next_speed * kTimeStep;
    state[1] = next_speed;
    return reward;
  }

  METAFAST_FORMULA void observe(const Parameters& parameters, const double (&state)[kStateSize],
                                float (&observation)[kObservationSize]) {
    float sine[1], cosine[1];
    parameters.observed_sincos({state[0]}, false, sine, cosine);
    observation[0] = cosine[0];
    observation[1] = sine[0];
    observation[2] = static_cast<float>(state[1]);
  }
};

}  // namespace metafast
