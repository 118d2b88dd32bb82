// The phases of Bandit-v0 (bandit_rules.hpp) on the CPU, a tile at a time.
#pragma once

#include <cstdint>
#include <cstring>

#include "envs/bandit_rules.hpp"
#include "envs/batch.hpp"
#include "envs/random_words.hpp"

namespace metafast {
// Internal linkage: each instruction-set level has its own copy, which the linker must not merge.
namespace {

class Bandit : BanditRules {
 public:
  static std::int64_t advance(const void* parameters, void* state, std::int64_t count, const void* actions,
                              const std::uint64_t* __restrict seeds, const std::uint64_t* __restrict episodes,
                              const std::int32_t* __restrict elapsed_steps, void* rewards,
                              std::uint8_t* __restrict terminated) {
    const Bandit tile(parameters, state);
    const std::int64_t arms = tile.parameters_.arms;
    const auto pulls = static_cast<std::int32_t>(tile.parameters_.pulls);
    const auto* __restrict pulled = static_cast<const std::int32_t*>(actions);
    const float* __restrict probabilities = tile.state_.probabilities;
    auto* __restrict paid = static_cast<float*>(rewards);
    tile.draw_every_fourth_step(seeds, episodes, elapsed_steps, count);
    const std::uint32_t(*__restrict random_words)[kTile] = tile.state_.random_words;
    std::uint32_t words[kTile];
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int32_t word = word_of_pull(elapsed_steps[i]);
      const std::uint32_t early = word == 0 ? random_words[0][i] : random_words[1][i];
      const std::uint32_t late = word == 2 ? random_words[2][i] : random_words[3][i];
      words[i] = word < 2 ? early : late;
    }
    // In a loop of its own: together with the comparison, the compiler would branch on which is the larger.
    float chances[kTile];
    for (std::int64_t i = 0; i < count; ++i) chances[i] = probabilities[i * arms + pulled[i]];
    for (std::int64_t i = 0; i < count; ++i) paid[i] = reward(words[i], chances[i]);
    for (std::int64_t i = 0; i < count; ++i) terminated[i] = is_last(elapsed_steps[i], pulls);
    if (tile.parameters_.meta_observation) remember_steps(tile.state_.previous, pulled, paid, count);
    return -1;
  }

  static std::int64_t begin(const void* parameters, void* state, const std::int32_t* indices, std::int64_t num_indices,
                            const std::uint64_t* seeds, const std::uint64_t* episodes, std::uint64_t*) {
    const Bandit tile(parameters, state);
    const std::int64_t arms = tile.parameters_.arms;
    std::uint64_t seed[kTile], episode[kTile];
    for (std::int64_t i = 0; i < num_indices; ++i) seed[i] = seeds[indices[i]];
    for (std::int64_t i = 0; i < num_indices; ++i) episode[i] = episodes[indices[i]];
    for (std::int64_t first = 0; first < arms; first += 4) {
      std::uint32_t words[4][kTile];
      draw_words(seed, episode, nullptr, static_cast<std::uint32_t>(first / 4), num_indices, words);
      const std::int64_t drawn = arms - first < 4 ? arms - first : 4;
      for (std::int64_t k = 0; k < drawn; ++k)
        for (std::int64_t i = 0; i < num_indices; ++i)
          tile.state_.probabilities[indices[i] * arms + first + k] = uniform_float(words[k][i]);
    }
    if (tile.parameters_.meta_observation)
      for (std::int64_t i = 0; i < num_indices; ++i) forget_step(tile.state_.previous, indices[i]);
    return -1;
  }

  static std::int64_t observe(const void* parameters, const void* state, std::int64_t count,
                              const std::int32_t* indices, std::int64_t num_indices, void* observations) {
    const Bandit tile(parameters, const_cast<void*>(state));
    auto* rows = static_cast<float*>(observations);
    const std::int64_t size = observation_size(tile.parameters_);
    const std::int64_t num_rows = num_indices < 0 ? count : num_indices;
    const auto row_bytes = static_cast<std::size_t>(size) * sizeof(float);
    if (num_indices < 0) std::memset(rows, 0, row_bytes * static_cast<std::size_t>(count));
    for (std::int64_t k = 0; k < num_indices; ++k) std::memset(rows + indices[k] * size, 0, row_bytes);
    if (!tile.parameters_.meta_observation) return -1;
    for (std::int64_t k = 0; k < num_rows; ++k) {
      const std::int64_t i = num_indices < 0 ? k : indices[k];
      BanditRules::observe(tile.parameters_, tile.state_.previous, i, rows + i * size);
    }
    return -1;
  }

 private:
  Bandit(const void* parameters, void* state) {
    std::memcpy(&parameters_, parameters, sizeof(parameters_));
    state_ = tile_state_at(parameters_, static_cast<std::byte*>(state));
  }

  // Whoever is in the middle of four pulls keeps the words that it has.
  void draw_every_fourth_step(const std::uint64_t* seeds, const std::uint64_t* episodes,
                              const std::int32_t* elapsed_steps, std::int64_t count) const {
    std::int32_t due = 0;
    for (std::int64_t i = 0; i < count; ++i) due |= begins_four(elapsed_steps[i]);
    if (!due) return;
    std::int32_t fours[kTile];
    for (std::int64_t i = 0; i < count; ++i) fours[i] = step_of_four(elapsed_steps[i]);
    std::uint32_t words[4][kTile];
    draw_words(seeds, episodes, fours, 0, count, words);
    for (int k = 0; k < 4; ++k)
      for (std::int64_t i = 0; i < count; ++i)
        state_.random_words[k][i] = begins_four(elapsed_steps[i]) ? words[k][i] : state_.random_words[k][i];
  }

  Parameters parameters_;
  TileState state_;
};

}  // namespace
}  // namespace metafast
