// What a fused rollout reads and writes: the environments of a batch act by a policy for a number of steps.
#pragma once

#include <cstdint>

#include "common/isa.hpp"
#include "envs/batch.hpp"
#include "nn/learning.hpp"
#include "nn/network.hpp"

namespace metafast {

// How a policy's action becomes an environment's. Whole numbers: choice + start. Reals: centre + half_range * a, kept
// within [low, high]. Each pointer is to [action_size].
struct ActionTranslation {
  ElementType type;  // of the environment's action
  const std::int64_t* start;
  const double *centre, *half_range, *low, *high;
};

// [steps, envs, ...]; observations and values have one row more.
template <class T>
struct RolloutArrays {
  std::byte* observations;  // of the environment's type
  std::int64_t* whole_actions;
  T* real_actions;
  T* log_probs;
  T* rewards;
  T* values;
  T* final_values;  // zeros; written where an episode was truncated
  std::uint8_t *terminated, *truncated;
  std::byte* final_observations;  // written where an episode ended
  std::uint8_t* starts;
  std::uint8_t* mask;  // null unless next_step resets take steps of their own
  T* hidden;           // [envs, width], of a recurrent policy: before the first step, then after the last
};

template <class T>
struct RolloutPlan {
  Network network;
  const T* parameters;
  Observations<T> observations;  // `rows` is set as the rollout goes
  ActionTranslation actions;
  std::int64_t action_bytes;  // of one environment
  std::byte* env_actions;     // [envs]
  std::byte* env_rewards;     // [envs], of the environment's type
  std::uint64_t key;
  std::int64_t num_envs, num_steps;
  bool deterministic;
  RolloutArrays<T> arrays;
};

struct RolloutOutcome {
  std::int64_t failed_env;   // where the user's code raised in `failed_step`, or -1
  std::int64_t failed_step;  // -1: before the first
  std::int64_t unusable_env;  // where the policy's outputs were no distribution, or -1: it then stopped
  std::int64_t unusable_step;
};

template <class T>
struct RolloutKernel {
  // Elements of scratch for a tile.
  std::int64_t (*scratch_size)(const Network& network);
  // The environments [begin, end), which are one tile.
  RolloutOutcome (*run)(const Batch& batch, const RolloutPlan<T>& plan, T* scratch, std::int64_t begin,
                        std::int64_t end);
};

struct RolloutKernels {
  RolloutKernel<float> float32;
  RolloutKernel<double> float64;
};

METAFAST_DISPATCH(RolloutKernels, rollout_kernels)

}  // namespace metafast
