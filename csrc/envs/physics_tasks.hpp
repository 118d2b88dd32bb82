// CartPoleTasks-v0 and PendulumTasks-v0: classic control whose physics are drawn anew for each task.
//
// A task is a number of inner episodes with the same physics. Where one ends before the task does, the next begins in the
// same step. State: the physical state, the physics, the steps of the inner episode, the inner episodes that are over;
// with the meta-observation also the previous action, reward, and whether the previous step ended an inner episode.
#pragma once

#include <cstdint>

#include "common/host_device.hpp"
#include "envs/cartpole.hpp"
#include "envs/pendulum.hpp"
#include "envs/polynomial_math.hpp"

namespace metafast {

struct CartPoleModel {
  using Base = CartPole<PolynomialMath>;
  static constexpr int kPhysicsSize = 5;
  static constexpr int kMetaActionSize = 2;  // one-hot
  static constexpr double kNoAction = -1;

  METAFAST_FORMULA double step(const double (&drawn)[kPhysicsSize], Base::Action action,
                               double (&state)[Base::kStateSize], bool& fallen) {
    const CartPolePhysics physics = {drawn[0], drawn[1], drawn[2], drawn[3], drawn[4]};
    Base::move(PolynomialMath(), physics, action, state);
    fallen = Base::fallen(state);
    return 1;
  }

  METAFAST_FORMULA double remembered(Base::Action action, double) { return action; }

  METAFAST_FORMULA void observe_action(double action, float* to) {
    to[0] = action == 0 ? 1.0f : 0.0f;
    to[1] = action == 1 ? 1.0f : 0.0f;
  }
};

struct PendulumModel {
  using Base = Pendulum<PolynomialMath>;
  static constexpr int kPhysicsSize = 4;
  static constexpr int kMetaActionSize = 1;
  static constexpr double kNoAction = 0;

  METAFAST_FORMULA double step(const double (&drawn)[kPhysicsSize], Base::Action action,
                               double (&state)[Base::kStateSize], bool& fallen) {
    const PendulumPhysics physics = {drawn[0], drawn[1], drawn[2], static_cast<float>(drawn[3])};
    fallen = false;
    return Base::move(PolynomialMath(), physics, action, state);
  }

  // The action within the action space, whose limit is the largest that a task's torque may have.
  METAFAST_FORMULA double remembered(Base::Action action, double largest) {
    const double above = action < -largest ? -largest : static_cast<double>(action);
    return above > largest ? largest : above;
  }

  METAFAST_FORMULA void observe_action(double action, float* to) { to[0] = static_cast<float>(action); }
};

template <class Model, bool kMetaObservation>
struct PhysicsTasks {
  using Base = typename Model::Base;
  using Action = typename Base::Action;
  static constexpr int kActionSize = 1;
  static constexpr int kPhysicsSize = Model::kPhysicsSize;
  static constexpr int kPhysics = Base::kStateSize;  // where in the state it begins
  static constexpr int kInnerStep = kPhysics + kPhysicsSize;
  static constexpr int kInnerEpisode = kInnerStep + 1;
  static constexpr int kPreviousAction = kInnerEpisode + 1;
  static constexpr int kPreviousReward = kPreviousAction + 1;
  static constexpr int kPreviousDone = kPreviousReward + 1;
  static constexpr int kStateSize = kMetaObservation ? kPreviousDone + 1 : kPreviousAction;
  static constexpr int kObservationSize =
      Base::kObservationSize + (kMetaObservation ? Model::kMetaActionSize + 2 : 0);
  static constexpr int kResetUniforms = Base::kResetUniforms + kPhysicsSize;
  static constexpr int kStepUniforms = Base::kResetUniforms;

  struct Parameters {
    double lowest[kPhysicsSize];
    double highest[kPhysicsSize];
    double inner_steps;
    double inner_episodes;
  };

  METAFAST_FORMULA void begin_inner(const double* uniforms, double (&physical)[Base::kStateSize]) {
    double own[Base::kResetUniforms];
    for (int k = 0; k < Base::kResetUniforms; ++k) own[k] = uniforms[k];
    Base::reset(typename Base::Parameters(), own, physical);
  }

  METAFAST_FORMULA void reset(const Parameters& parameters, const double (&uniforms)[kResetUniforms],
                              double (&state)[kStateSize]) {
    double physical[Base::kStateSize];
    begin_inner(uniforms, physical);
    for (int k = 0; k < Base::kStateSize; ++k) state[k] = physical[k];
    for (int k = 0; k < kPhysicsSize; ++k) {
      const double width = parameters.highest[k] - parameters.lowest[k];
      state[kPhysics + k] = parameters.lowest[k] + width * uniforms[Base::kResetUniforms + k];
    }
    state[kInnerStep] = 0;
    state[kInnerEpisode] = 0;
    if constexpr (kMetaObservation) {
      state[kPreviousAction] = Model::kNoAction;
      state[kPreviousReward] = 0;
      state[kPreviousDone] = 0;
    }
  }

  METAFAST_FORMULA void step(const Parameters& parameters, const Action (&action)[kActionSize],
                             const double (&uniforms)[kStepUniforms], double (&state)[kStateSize], double& reward,
                             bool& terminated) {
    double physical[Base::kStateSize], first[Base::kStateSize], physics[kPhysicsSize];
    for (int k = 0; k < Base::kStateSize; ++k) physical[k] = state[k];
    for (int k = 0; k < kPhysicsSize; ++k) physics[k] = state[kPhysics + k];
    bool fallen;
    reward = Model::step(physics, action[0], physical, fallen);
    const double inner_step = state[kInnerStep] + 1;
    const bool over = fallen | (inner_step >= parameters.inner_steps);
    const double next_episode = state[kInnerEpisode] + 1;
    terminated = over & (next_episode >= parameters.inner_episodes);
    // The last inner episode's end stays to be seen.
    const bool again = over & (next_episode < parameters.inner_episodes);
    begin_inner(uniforms, first);
    for (int k = 0; k < Base::kStateSize; ++k) state[k] = again ? first[k] : physical[k];
    state[kInnerStep] = again ? 0.0 : inner_step;
    state[kInnerEpisode] = over ? next_episode : state[kInnerEpisode];
    if constexpr (kMetaObservation) {
      state[kPreviousAction] = Model::remembered(action[0], parameters.highest[kPhysicsSize - 1]);
      state[kPreviousReward] = reward;
      state[kPreviousDone] = over ? 1.0 : 0.0;
    }
  }

  METAFAST_FORMULA void observe(const Parameters&, const double (&state)[kStateSize],
                                float (&observation)[kObservationSize]) {
    double physical[Base::kStateSize];
    float base[Base::kObservationSize];
    for (int k = 0; k < Base::kStateSize; ++k) physical[k] = state[k];
    Base::observe(typename Base::Parameters(), physical, base);
    for (int k = 0; k < Base::kObservationSize; ++k) observation[k] = base[k];
    if constexpr (kMetaObservation) {
      float* const meta = observation + Base::kObservationSize;
      Model::observe_action(state[kPreviousAction], meta);
      meta[Model::kMetaActionSize] = static_cast<float>(state[kPreviousReward]);
      meta[Model::kMetaActionSize + 1] = static_cast<float>(state[kPreviousDone]);
    }
  }
};

}  // namespace metafast
