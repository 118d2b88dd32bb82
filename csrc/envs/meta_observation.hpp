// RL^2's input (Duan et al. 2016, section 2.2): behind an environment's own observation the previous action, one-hot, the
// previous reward, and whether the previous step ended an inner episode; all 0 at a task's start.
#pragma once

#include <cstdint>

#include "common/host_device.hpp"
#include "envs/batch.hpp"

namespace metafast {

// The part of a tile's state that such an observation needs.
struct PreviousStep {
  std::int32_t* actions;  // -1 at a task's start
  float* rewards;

  static constexpr std::int64_t kBytes = sizeof(std::int32_t) + sizeof(float);
};

METAFAST_FORMULA PreviousStep previous_step_at(std::byte* state) {
  return {reinterpret_cast<std::int32_t*>(state),
          reinterpret_cast<float*>(state + kTile * static_cast<std::int64_t>(sizeof(std::int32_t)))};
}

METAFAST_FORMULA void remember_steps(const PreviousStep& previous, const std::int32_t* actions, const float* rewards,
                                     std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) previous.actions[i] = actions[i];
  for (std::int64_t i = 0; i < count; ++i) previous.rewards[i] = rewards[i];
}

METAFAST_FORMULA void remember_step(const PreviousStep& previous, std::int64_t i, std::int32_t action, float reward) {
  previous.actions[i] = action;
  previous.rewards[i] = reward;
}

METAFAST_FORMULA void forget_step(const PreviousStep& previous, std::int64_t i) {
  previous.actions[i] = -1;
  previous.rewards[i] = 0;
}

// Writes num_actions + 2 numbers into a row of zeros.
METAFAST_FORMULA void observe_previous_step(const PreviousStep& previous, std::int64_t i, std::int64_t num_actions,
                                            bool inner_episode_ended, float* row) {
  const std::int32_t action = previous.actions[i];
  // A state that the caller has set may hold any number.
  if (action < 0 || action >= num_actions) return;
  row[action] = 1;
  row[num_actions] = previous.rewards[i];
  row[num_actions + 1] = inner_episode_ended;
}

}  // namespace metafast
