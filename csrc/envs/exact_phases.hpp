// The phases of the exact environments: float64 rewards, and episodes that begin from gymnasium's own streams of random
// numbers, one NumPy generator for each environment.
#pragma once

#include <cstdint>

#include "common/pcg64.hpp"
#include "envs/batch.hpp"
#include "envs/native_phases.hpp"
#include "envs/numpy_math.hpp"

namespace metafast {
namespace {

template <class Dynamics>
class ExactPhases {
 public:
  static constexpr Phases phases() {
    constexpr Phases with_double_rewards = NativePhases<Dynamics, double>::phases();
    return {with_double_rewards.advance, &begin, with_double_rewards.observe};
  }

 private:
  static std::int64_t begin(const void* parameters_at, void* state_at, const std::int32_t* indices,
                            std::int64_t num_indices, const std::uint64_t*, const std::uint64_t*,
                            std::uint64_t* streams_at) {
    const auto& parameters = *static_cast<const typename Dynamics::Parameters*>(parameters_at);
    auto* const state = static_cast<double(*)[kTile]>(state_at);
    auto* const streams = reinterpret_cast<std::uint64_t(*)[4]>(streams_at);
    for (std::int64_t i = 0; i < num_indices; ++i) {
      const std::int32_t index = indices[i];
      double uniforms[Dynamics::kResetUniforms], local[Dynamics::kStateSize];
      for (double& uniform : uniforms) uniform = pcg64_double(streams[index]);
      Dynamics::reset(parameters, uniforms, local);
      for (int k = 0; k < Dynamics::kStateSize; ++k) state[k][index] = local[k];
    }
    return -1;
  }
};

// The cosine that math.cos gave beforehand.
struct GivenCosine {
  double cosine;

  [[gnu::always_inline]] inline double library_cos(double) const { return cosine; }
};

// The two cars, whose only such function is one cosine: it is taken for a whole tile, and then the rest vectorises.
template <template <class Math> class Car>
class ExactCarPhases {
 public:
  static constexpr Phases phases() {
    constexpr Phases exact = ExactPhases<Car<NumpyMath>>::phases();
    return {&advance, exact.begin, exact.observe};
  }

 private:
  static std::int64_t advance(const void* parameters_at, void* state_at, std::int64_t count, const void* actions_at,
                              const std::uint64_t*, const std::uint64_t*, const std::int32_t*, void* rewards_at,
                              std::uint8_t* __restrict terminated) {
    using Dynamics = Car<GivenCosine>;
    using Action = typename Dynamics::Action;
    const auto& given = *static_cast<const typename Car<NumpyMath>::Parameters*>(parameters_at);
    typename Dynamics::Parameters parameters = {{0}, given.goal_velocity};
    auto* const __restrict state = static_cast<double(*)[kTile]>(state_at);
    const auto* const __restrict actions = static_cast<const Action*>(actions_at);
    auto* const __restrict rewards = static_cast<double*>(rewards_at);
    double cosines[kTile];
    std::int32_t finished[kTile];
    for (std::int64_t i = 0; i < count; ++i) cosines[i] = Dynamics::slope_angle({state[0][i], state[1][i]});
    for (std::int64_t i = 0; i < count; ++i) cosines[i] = NumpyMath::library_cos(cosines[i]);
    for (std::int64_t i = 0; i < count; ++i) {
      double local[2] = {state[0][i], state[1][i]};
      const Action action[1] = {actions[i]};
      double reward;
      bool over;
      parameters.cosine = cosines[i];
      Dynamics::step(parameters, action, {0}, local, reward, over);
      for (int k = 0; k < 2; ++k) state[k][i] = local[k];
      rewards[i] = reward;
      finished[i] = over;
    }
    for (std::int64_t i = 0; i < count; ++i) terminated[i] = finished[i] != 0;
    return -1;
  }
};

}  // namespace
}  // namespace metafast
