// Bandit-v0: arms that pay 1 with a probability of their own, drawn uniformly for each task, and 0 otherwise.
//
// The Bernoulli bandits of Duan et al. (2016), RL^2, section 3.1. A task is a number of pulls, each of which is an inner
// episode of one step. State: `probabilities` float32 [arms], `random_word_0` to `random_word_3` uint32; with the
// meta-observation also the previous step's.
//
// Random numbers are most of a pull's cost, so one block of Philox serves four pulls: pull t (the first is 0) takes word
// t % 4 of the block at step t / 4 + 1, and the state keeps the words of the current four.
#pragma once

#include <cstdint>
#include <cstring>

#include "envs/batch.hpp"
#include "envs/meta_observation.hpp"
#include "envs/random_words.hpp"

namespace metafast {
// Internal linkage: each instruction-set level has its own copy, which the linker must not merge.
namespace {

class Bandit {
 public:
  struct Parameters {
    std::int64_t arms;
    std::int64_t pulls;
    std::int64_t meta_observation;
  };

  static std::int64_t advance(const void* parameters, void* state, std::int64_t count, const void* actions,
                              const std::uint64_t* __restrict seeds, const std::uint64_t* __restrict episodes,
                              const std::int32_t* __restrict elapsed_steps, void* rewards,
                              std::uint8_t* __restrict terminated) {
    const Bandit tile(parameters, state);
    const std::int64_t arms = tile.arms_;
    const auto pulls = static_cast<std::int32_t>(tile.pulls_);
    const auto* __restrict pulled = static_cast<const std::int32_t*>(actions);
    const float* __restrict probabilities = tile.probabilities_;
    auto* __restrict paid = static_cast<float*>(rewards);
    tile.draw_every_fourth_step(seeds, episodes, elapsed_steps, count);
    const std::uint32_t(*__restrict random_words)[kTile] = tile.random_words_;
    std::uint32_t words[kTile];
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int32_t pull = elapsed_steps[i] & 3;
      const std::uint32_t early = pull == 0 ? random_words[0][i] : random_words[1][i];
      const std::uint32_t late = pull == 2 ? random_words[2][i] : random_words[3][i];
      words[i] = pull < 2 ? early : late;
    }
    // In a loop of its own: together with the comparison, the compiler would branch on which is the larger.
    float chances[kTile];
    for (std::int64_t i = 0; i < count; ++i) chances[i] = probabilities[i * arms + pulled[i]];
    for (std::int64_t i = 0; i < count; ++i) paid[i] = uniform_float(words[i]) < chances[i] ? 1.0f : 0.0f;
    for (std::int64_t i = 0; i < count; ++i) terminated[i] = elapsed_steps[i] >= pulls - 1;
    if (tile.meta_observation_) remember_steps(tile.previous_, pulled, paid, count);
    return -1;
  }

  static std::int64_t begin(const void* parameters, void* state, const std::int32_t* indices, std::int64_t num_indices,
                            const std::uint64_t* seeds, const std::uint64_t* episodes, std::uint64_t*) {
    const Bandit tile(parameters, state);
    std::uint64_t seed[kTile], episode[kTile];
    for (std::int64_t i = 0; i < num_indices; ++i) seed[i] = seeds[indices[i]];
    for (std::int64_t i = 0; i < num_indices; ++i) episode[i] = episodes[indices[i]];
    for (std::int64_t first = 0; first < tile.arms_; first += 4) {
      std::uint32_t words[4][kTile];
      draw_words(seed, episode, nullptr, static_cast<std::uint32_t>(first / 4), num_indices, words);
      const std::int64_t arms = tile.arms_ - first < 4 ? tile.arms_ - first : 4;
      for (std::int64_t k = 0; k < arms; ++k)
        for (std::int64_t i = 0; i < num_indices; ++i)
          tile.probabilities_[indices[i] * tile.arms_ + first + k] = uniform_float(words[k][i]);
    }
    if (tile.meta_observation_)
      for (std::int64_t i = 0; i < num_indices; ++i) forget_step(tile.previous_, indices[i]);
    return -1;
  }

  static std::int64_t observe(const void* parameters, const void* state, std::int64_t count,
                              const std::int32_t* indices, std::int64_t num_indices, void* observations) {
    const Bandit tile(parameters, const_cast<void*>(state));
    auto* rows = static_cast<float*>(observations);
    const std::int64_t size = 1 + (tile.meta_observation_ ? tile.arms_ + 2 : 0);
    const std::int64_t num_rows = num_indices < 0 ? count : num_indices;
    const auto row_bytes = static_cast<std::size_t>(size) * sizeof(float);
    if (num_indices < 0) std::memset(rows, 0, row_bytes * static_cast<std::size_t>(count));
    for (std::int64_t k = 0; k < num_indices; ++k) std::memset(rows + indices[k] * size, 0, row_bytes);
    if (!tile.meta_observation_) return -1;
    for (std::int64_t k = 0; k < num_rows; ++k) {
      const std::int64_t i = num_indices < 0 ? k : indices[k];
      observe_previous_step(tile.previous_, i, tile.arms_, true, rows + i * size + 1);
    }
    return -1;
  }

 private:
  Bandit(const void* parameters, void* state) {
    Parameters values;
    std::memcpy(&values, parameters, sizeof(values));
    arms_ = values.arms;
    pulls_ = values.pulls;
    meta_observation_ = values.meta_observation != 0;
    probabilities_ = static_cast<float*>(state);
    random_words_ = reinterpret_cast<std::uint32_t(*)[kTile]>(probabilities_ + kTile * arms_);
    previous_ = previous_step_at(reinterpret_cast<std::byte*>(random_words_ + 4));
  }

  // Whoever is in the middle of four pulls keeps the words that it has.
  void draw_every_fourth_step(const std::uint64_t* seeds, const std::uint64_t* episodes,
                              const std::int32_t* elapsed_steps, std::int64_t count) const {
    std::int32_t due = 0;
    for (std::int64_t i = 0; i < count; ++i) due |= (elapsed_steps[i] & 3) == 0;
    if (!due) return;
    std::int32_t fours[kTile];
    for (std::int64_t i = 0; i < count; ++i) fours[i] = elapsed_steps[i] / 4;
    std::uint32_t words[4][kTile];
    draw_words(seeds, episodes, fours, 0, count, words);
    for (int k = 0; k < 4; ++k)
      for (std::int64_t i = 0; i < count; ++i)
        random_words_[k][i] = (elapsed_steps[i] & 3) == 0 ? words[k][i] : random_words_[k][i];
  }

  std::int64_t arms_;
  std::int64_t pulls_;
  bool meta_observation_;
  float* probabilities_;  // [kTile, arms]
  std::uint32_t (*random_words_)[kTile];
  PreviousStep previous_;
};

}  // namespace
}  // namespace metafast
