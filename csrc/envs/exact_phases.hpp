// The phases of the exact environments: float64 rewards, and episodes that begin from gymnasium's own streams of random
// numbers, one NumPy generator for each environment.
#pragma once

#include <cstdint>

#include "common/pcg64.hpp"
#include "envs/batch.hpp"
#include "envs/native_phases.hpp"

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

}  // namespace
}  // namespace metafast
