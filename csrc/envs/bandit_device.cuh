// Bandit-v0 (bandit_rules.hpp) on the device: one environment, by one thread.
#pragma once

#include <cstdint>

#include "envs/bandit_rules.hpp"
#include "envs/device_phases.cuh"

namespace metafast {

struct DeviceBandit {
  using Rules = BanditRules;
  using Parameters = Rules::Parameters;
  using Action = std::int32_t;
  static constexpr bool kBegunByWarp = false;

  METAFAST_FORMULA int action_size(const Parameters&) { return 1; }
  METAFAST_FORMULA int observation_size(const Parameters& parameters) {
    return static_cast<int>(Rules::observation_size(parameters));
  }

  METAFAST_FORMULA void advance(const Parameters& parameters, const EnvironmentPlace& place, const Action* action,
                                float& reward, bool& terminated) {
    const Rules::TileState state = Rules::tile_state_at(parameters, place.state);
    const std::int32_t pull = place.elapsed_steps;
    const int i = place.index;
    const std::int32_t pulled = *action;
    const float probability = state.probabilities[i * parameters.arms + pulled];
    if (Rules::begins_four(pull)) {
      std::uint32_t words[4];
      draw_block(place.seed, place.episode, step_number(Rules::step_of_four(pull)), 0, words);
      for (int k = 0; k < 4; ++k) state.random_words[k][i] = words[k];
    }
    reward = Rules::reward(state.random_words[Rules::word_of_pull(pull)][i], probability);
    terminated = Rules::is_last(pull, static_cast<std::int32_t>(parameters.pulls));
    if (parameters.meta_observation) remember_step(state.previous, i, pulled, reward);
  }

  METAFAST_FORMULA void begin(const Parameters& parameters, const EnvironmentPlace& place) {
    const Rules::TileState state = Rules::tile_state_at(parameters, place.state);
    float* const probabilities = state.probabilities + place.index * parameters.arms;
    for (std::int64_t first = 0; first < parameters.arms; first += 4) {
      std::uint32_t words[4];
      draw_block(place.seed, place.episode, 0, static_cast<std::uint32_t>(first / 4), words);
      for (int k = 0; k < 4; ++k)
        if (first + k < parameters.arms) probabilities[first + k] = uniform_float(words[k]);
    }
    if (parameters.meta_observation) forget_step(state.previous, place.index);
  }

  METAFAST_FORMULA void observe(const Parameters& parameters, const EnvironmentPlace& place, float* observation) {
    const std::int64_t size = Rules::observation_size(parameters);
    for (std::int64_t k = 0; k < size; ++k) observation[k] = 0;
    Rules::observe(parameters, Rules::tile_state_at(parameters, place.state).previous, place.index, observation);
  }
};

}  // namespace metafast
