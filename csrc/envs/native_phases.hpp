// The three phases (batch.hpp) of an environment whose dynamics are formulas on one environment's numbers.
//
// A dynamics struct (cartpole.hpp is the model) has kStateSize, kObservationSize, kResetUniforms, kStepUniforms, an
// Action type of which an environment takes kActionSize, a Parameters struct and three METAFAST_FORMULA functions, free
// of branches: reset and step (which get uniforms in [0, 1)), and observe. Its state is float64, one field a component.
//
// Each loop is over the environments of a tile, and the compiler vectorises it. Loops keep to elements of one width
// where they can: a loop that mixes bytes with doubles would be unrolled to a whole vector of bytes.
#pragma once

#include <cstdint>

#include "envs/batch.hpp"
#include "envs/randomness.hpp"

namespace metafast {
// Internal linkage: each instruction-set level has its own copy, which the linker must not merge.
namespace {

template <class Dynamics, class Reward = float>
class NativePhases {
 public:
  static constexpr Phases phases() { return {&advance, &begin, &observe}; }

 private:
  using Action = typename Dynamics::Action;
  using Parameters = typename Dynamics::Parameters;
  static constexpr int kStateSize = Dynamics::kStateSize;
  static constexpr int kObservationSize = Dynamics::kObservationSize;
  static constexpr int kActionSize = Dynamics::kActionSize;
  static constexpr int kStepUniforms = Dynamics::kStepUniforms;
  static constexpr int kResetUniforms = Dynamics::kResetUniforms;

  static std::int64_t advance(const void* parameters_at, void* state_at, std::int64_t count, const void* actions_at,
                              const std::uint64_t* __restrict seeds, const std::uint64_t* __restrict episodes,
                              const std::int32_t* __restrict elapsed_steps, void* rewards_at,
                              std::uint8_t* __restrict terminated) {
    const Parameters parameters = *static_cast<const Parameters*>(parameters_at);
    double(*__restrict state)[kTile] = static_cast<double(*)[kTile]>(state_at);
    const Action* __restrict actions = static_cast<const Action*>(actions_at);
    Reward* __restrict rewards = static_cast<Reward*>(rewards_at);
    std::int32_t finished[kTile];
    double drawn[kStepUniforms > 0 ? kStepUniforms : 1][kTile];
    if constexpr (kStepUniforms > 0) {
      for (std::int64_t i = 0; i < count; ++i) {
        double uniforms[kStepUniforms];
        draw_uniforms<kStepUniforms>(seeds[i], episodes[i] - 1, step_number(elapsed_steps[i]), uniforms);
        for (int k = 0; k < kStepUniforms; ++k) drawn[k][i] = uniforms[k];
      }
    }
    for (std::int64_t i = 0; i < count; ++i) {
      double local[kStateSize];
      double uniforms[kStepUniforms > 0 ? kStepUniforms : 1];
      Action action[kActionSize];
      for (int k = 0; k < kStateSize; ++k) local[k] = state[k][i];
      for (int k = 0; k < kStepUniforms; ++k) uniforms[k] = drawn[k][i];
      for (int k = 0; k < kActionSize; ++k) action[k] = actions[i * kActionSize + k];
      double reward;
      bool over;
      Dynamics::step(parameters, action, uniforms, local, reward, over);
      for (int k = 0; k < kStateSize; ++k) state[k][i] = local[k];
      rewards[i] = static_cast<Reward>(reward);
      finished[i] = over;
    }
    for (std::int64_t i = 0; i < count; ++i) terminated[i] = finished[i] != 0;
    return -1;
  }

  // Episodes begin in a dense loop: the seeds of the environments listed are gathered, their randomness and first
  // states computed side by side, and the results scattered.
  static std::int64_t begin(const void* parameters_at, void* state_at, const std::int32_t* indices,
                            std::int64_t num_indices, const std::uint64_t* seeds, const std::uint64_t* episodes,
                            std::uint64_t*) {
    const Parameters parameters = *static_cast<const Parameters*>(parameters_at);
    double(*state)[kTile] = static_cast<double(*)[kTile]>(state_at);
    std::uint64_t listed_seeds[kTile], listed_episodes[kTile];
    double states[kStateSize][kTile];
    for (std::int64_t i = 0; i < num_indices; ++i) {
      listed_seeds[i] = seeds[indices[i]];
      listed_episodes[i] = episodes[indices[i]] - 1;
    }
    for (std::int64_t i = 0; i < num_indices; ++i) {
      double uniforms[kResetUniforms > 0 ? kResetUniforms : 1], local[kStateSize];
      draw_uniforms<kResetUniforms>(listed_seeds[i], listed_episodes[i], 0, uniforms);
      Dynamics::reset(parameters, uniforms, local);
      for (int k = 0; k < kStateSize; ++k) states[k][i] = local[k];
    }
    for (std::int64_t i = 0; i < num_indices; ++i)
      for (int k = 0; k < kStateSize; ++k) state[k][indices[i]] = states[k][i];
    return -1;
  }

  static std::int64_t observe(const void* parameters_at, const void* state_at, std::int64_t count,
                              const std::int32_t* indices, std::int64_t num_indices, void* observations_at) {
    const Parameters parameters = *static_cast<const Parameters*>(parameters_at);
    const double(*__restrict state)[kTile] = static_cast<const double(*)[kTile]>(state_at);
    float* __restrict observations = static_cast<float*>(observations_at);
    const auto observe_one = [&](std::int64_t i) {
      double local[kStateSize];
      float observation[kObservationSize];
      for (int k = 0; k < kStateSize; ++k) local[k] = state[k][i];
      Dynamics::observe(parameters, local, observation);
      for (int k = 0; k < kObservationSize; ++k) observations[i * kObservationSize + k] = observation[k];
    };
    if (num_indices < 0 && kObservationSize > 4) {
      // The compiler does not vectorise stores to rows this long: columns first, and then only copies.
      float columns[kObservationSize][kTile];
      for (std::int64_t i = 0; i < count; ++i) {
        double local[kStateSize];
        float observation[kObservationSize];
        for (int k = 0; k < kStateSize; ++k) local[k] = state[k][i];
        Dynamics::observe(parameters, local, observation);
        for (int k = 0; k < kObservationSize; ++k) columns[k][i] = observation[k];
      }
      for (std::int64_t i = 0; i < count; ++i)
        for (int k = 0; k < kObservationSize; ++k) observations[i * kObservationSize + k] = columns[k][i];
    } else if (num_indices < 0) {
      for (std::int64_t i = 0; i < count; ++i) observe_one(i);
    } else {
      for (std::int64_t i = 0; i < num_indices; ++i) observe_one(indices[i]);
    }
    return -1;
  }
};

}  // namespace
}  // namespace metafast
