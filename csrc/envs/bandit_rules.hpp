// Bandit-v0: arms that pay 1 with a probability of their own, drawn uniformly for each task, and 0 otherwise.
//
// The Bernoulli bandits of Duan et al. (2016), RL^2, section 3.1. A task is a number of pulls, each of which is an
// inner episode of one step. State: `probabilities` float32 [arms], `random_word_0` to `random_word_3` uint32; with the
// meta-observation also the previous step's.
//
// Random numbers are most of a pull's cost, so one block of Philox serves four pulls: pull t (the first is 0) takes
// word t % 4 of the block at step t / 4 + 1, and the state keeps the words of the current four. At the reset arm a
// takes word a % 4 of block a / 4.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/host_device.hpp"
#include "envs/batch.hpp"
#include "envs/meta_observation.hpp"
#include "envs/randomness.hpp"

namespace metafast {

struct BanditRules {
  struct Parameters {
    std::int64_t arms;
    std::int64_t pulls;
    std::int64_t meta_observation;
  };

  struct TileState {
    float* probabilities;  // [kTile, arms]
    std::uint32_t (*random_words)[kTile];
    PreviousStep previous;
  };

  METAFAST_FORMULA TileState tile_state_at(const Parameters& parameters, std::byte* state) {
    float* const probabilities = reinterpret_cast<float*>(state);
    auto* const random_words = reinterpret_cast<std::uint32_t(*)[kTile]>(probabilities + kTile * parameters.arms);
    return {probabilities, random_words, previous_step_at(reinterpret_cast<std::byte*>(random_words + 4))};
  }

  METAFAST_FORMULA std::int64_t observation_size(const Parameters& parameters) {
    return 1 + (parameters.meta_observation ? parameters.arms + 2 : 0);
  }

  METAFAST_FORMULA bool begins_four(std::int32_t pull) { return (pull & 3) == 0; }

  // The step (of those that precede it, step_number) whose block serves the pull.
  METAFAST_FORMULA std::int32_t step_of_four(std::int32_t pull) { return pull / 4; }

  // Which of the block's words the pull takes.
  METAFAST_FORMULA std::int32_t word_of_pull(std::int32_t pull) { return pull & 3; }

  METAFAST_FORMULA float reward(std::uint32_t word, float probability) {
    return uniform_float(word) < probability ? 1.0f : 0.0f;
  }

  METAFAST_FORMULA bool is_last(std::int32_t pull, std::int32_t pulls) { return pull >= pulls - 1; }

  // Every pull ends an inner episode. The row is of zeros.
  METAFAST_FORMULA void observe(const Parameters& parameters, const PreviousStep& previous, std::int64_t i,
                                float* row) {
    if (parameters.meta_observation) observe_previous_step(previous, i, parameters.arms, true, row + 1);
  }
};

}  // namespace metafast
