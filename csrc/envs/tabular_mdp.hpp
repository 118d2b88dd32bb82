// TabularMDP-v0: a Markov decision process with random tables, drawn anew for each task.
//
// Duan et al. (2016), RL^2, section 3.2, after Osband, Russo and Van Roy (2013): the mean reward of each state and action
// is Normal(1, 1), the reward Normal(mean, 1), the distribution of the next state uniform over the simplex (a flat
// Dirichlet). A task is a number of inner episodes, each of which begins in state 0 and lasts `horizon` steps.
//
// The parts into which S - 1 uniform numbers cut [0, 1) are uniform over the simplex (Devroye 1986, Non-Uniform Random
// Variate Generation, V.2). So the table of a state and an action is S - 1 such cuts, as they were drawn: the next state
// is the number of cuts that a uniform number has reached, which needs them neither sorted nor summed.
//
// State: `tables` float32 [S * A, row size], a row being the S - 1 cuts, 2s that no uniform number reaches up to a
// whole number of cache lines, and at its end the mean reward; `observed_state` and `inner_step` int32; with the
// meta-observation also the previous step's. A step reads one row: its only memory that is not in the caches.
#pragma once

#include <cstdint>
#include <cstring>

#include "envs/batch.hpp"
#include "envs/meta_observation.hpp"
#include "envs/random_words.hpp"

namespace metafast {
// Internal linkage: each instruction-set level has its own copy, which the linker must not merge.
namespace {

class TabularMdp {
 public:
  struct Parameters {
    std::int64_t states;
    std::int64_t actions;
    std::int64_t horizon;
    std::int64_t episodes;
    std::int64_t meta_observation;
  };

  static std::int64_t advance(const void* parameters, void* state, std::int64_t count, const void* actions,
                              const std::uint64_t* __restrict seeds, const std::uint64_t* __restrict episodes,
                              const std::int32_t* __restrict elapsed_steps, void* rewards,
                              std::uint8_t* __restrict terminated) {
    const TabularMdp tile(parameters, state);
    const auto* __restrict taken = static_cast<const std::int32_t*>(actions);
    auto* __restrict paid = static_cast<float*>(rewards);
    const float* rows[kTile];
    for (std::int64_t i = 0; i < count; ++i) {
      rows[i] = tile.row(i, tile.current_state(i) * tile.actions_ + taken[i]);
      // Under way while the random numbers are drawn.
      __builtin_prefetch(rows[i]);
      __builtin_prefetch(rows[i] + tile.row_size_ - 1);
    }
    std::uint32_t words[3][kTile];
    draw_words(seeds, episodes, elapsed_steps, 0, count, words);
    float uniforms[kTile];
    for (std::int64_t i = 0; i < count; ++i) uniforms[i] = uniform_float(words[0][i]);
    for (std::int64_t i = 0; i < count; ++i) paid[i] = normal_float(words[1][i], words[2][i]);

    std::int32_t next_states[kTile];
    for (std::int64_t i = 0; i < count; ++i) {
      int reached = 0;
      for (std::int64_t k = 0; k < tile.row_size_; k += kLine) reached += count_reached(rows[i] + k, uniforms[i]);
      const float mean = rows[i][tile.row_size_ - 1];
      next_states[i] = reached - (mean <= uniforms[i]);
      paid[i] += mean;
    }

    const auto horizon = static_cast<std::int32_t>(tile.horizon_);
    const auto budget = static_cast<std::int32_t>(tile.budget_);
    std::int32_t* __restrict inner_step = tile.inner_step_;
    std::int32_t* __restrict observed_state = tile.observed_state_;
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int32_t step = inner_step[i] + 1;
      const bool episode_ended = step >= horizon;
      inner_step[i] = episode_ended ? 0 : step;
      observed_state[i] = episode_ended ? 0 : next_states[i];
    }
    for (std::int64_t i = 0; i < count; ++i) terminated[i] = elapsed_steps[i] >= budget - 1;
    if (tile.meta_observation_) remember_steps(tile.previous_, taken, paid, count);
    return -1;
  }

  static std::int64_t begin(const void* parameters, void* state, const std::int32_t* indices, std::int64_t num_indices,
                            const std::uint64_t* seeds, const std::uint64_t* episodes, std::uint64_t*) {
    const TabularMdp tile(parameters, state);
    for (std::int64_t k = 0; k < num_indices; ++k) {
      const std::int64_t i = indices[k];
      tile.draw_tables(i, seeds[i], episodes[i] - 1);
      tile.observed_state_[i] = 0;
      tile.inner_step_[i] = 0;
      if (tile.meta_observation_) forget_step(tile.previous_, i);
    }
    return -1;
  }

  static std::int64_t observe(const void* parameters, const void* state, std::int64_t count,
                              const std::int32_t* indices, std::int64_t num_indices, void* observations) {
    const TabularMdp tile(parameters, const_cast<void*>(state));
    auto* rows = static_cast<float*>(observations);
    const std::int64_t size = tile.states_ + (tile.meta_observation_ ? tile.actions_ + 2 : 0);
    const auto row_bytes = static_cast<std::size_t>(size) * sizeof(float);
    if (num_indices < 0) std::memset(rows, 0, row_bytes * static_cast<std::size_t>(count));
    for (std::int64_t k = 0; k < num_indices; ++k) std::memset(rows + indices[k] * size, 0, row_bytes);
    const std::int64_t num_rows = num_indices < 0 ? count : num_indices;
    for (std::int64_t k = 0; k < num_rows; ++k) {
      const std::int64_t i = num_indices < 0 ? k : indices[k];
      float* row = rows + i * size;
      row[tile.current_state(i)] = 1;
      if (tile.meta_observation_)
        observe_previous_step(tile.previous_, i, tile.actions_, tile.inner_step_[i] == 0, row + tile.states_);
    }
    return -1;
  }

 private:
  static constexpr std::int64_t kLine = 16;  // floats in a cache line
  static constexpr std::int64_t kChunk = 64;

  TabularMdp(const void* parameters, void* state) {
    Parameters values;
    std::memcpy(&values, parameters, sizeof(values));
    states_ = values.states;
    actions_ = values.actions;
    horizon_ = values.horizon;
    budget_ = values.horizon * values.episodes;
    meta_observation_ = values.meta_observation != 0;
    row_size_ = (states_ + 1 + kLine - 1) / kLine * kLine;
    tables_ = static_cast<float*>(state);
    observed_state_ = reinterpret_cast<std::int32_t*>(tables_ + kTile * states_ * actions_ * row_size_);
    inner_step_ = observed_state_ + kTile;
    previous_ = previous_step_at(reinterpret_cast<std::byte*>(inner_step_ + kTile));
  }

  float* row(std::int64_t i, std::int64_t pair) const {
    return tables_ + (i * states_ * actions_ + pair) * row_size_;
  }

  // A state that the caller has set may hold any number.
  std::int64_t current_state(std::int64_t i) const {
    const std::int64_t current = observed_state_[i];
    return current >= 0 && current < states_ ? current : 0;
  }

  // How many of a cache line's numbers are at most `uniform`. By intrinsics, because gcc adds up the lanes of a vector
  // where the processor can count the bits of a mask.
  static int count_reached(const float* line, float uniform) {
#if defined(__AVX512F__)
    return __builtin_popcount(_mm512_cmp_ps_mask(_mm512_loadu_ps(line), _mm512_set1_ps(uniform), _CMP_LE_OQ));
#elif defined(__AVX__)
    const __m256 limit = _mm256_set1_ps(uniform);
    const int low = _mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(line), limit, _CMP_LE_OQ));
    const int high = _mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(line + 8), limit, _CMP_LE_OQ));
    return __builtin_popcount(static_cast<unsigned>(low | high << 8));
#elif defined(__SSE2__)
    unsigned bits = 0;
    for (int k = 0; k < kLine; k += 4)
      bits |= static_cast<unsigned>(_mm_movemask_ps(_mm_cmple_ps(_mm_loadu_ps(line + k), _mm_set1_ps(uniform)))) << k;
    return __builtin_popcount(bits);
#else
    int reached = 0;
    for (int k = 0; k < kLine; ++k) reached += line[k] <= uniform;
    return reached;
#endif
  }

  void draw_tables(std::int64_t i, std::uint64_t seed, std::uint64_t episode) const {
    const std::int64_t num_rows = states_ * actions_;
    float* __restrict table = row(i, 0);
    const std::int64_t num_blocks = num_rows * row_size_ / 4;
    for (std::int64_t first = 0; first < num_blocks; first += kChunk) {
      const std::int64_t count = num_blocks - first < kChunk ? num_blocks - first : kChunk;
      std::uint32_t words[4][kChunk];
      draw_blocks(seed, episode, static_cast<std::uint32_t>(first), count, words);
      for (int k = 0; k < 4; ++k)
        for (std::int64_t b = 0; b < count; ++b) table[k * num_blocks + first + b] = uniform_float(words[k][b]);
    }
    for (std::int64_t first = 0; first < num_rows; first += kChunk) {
      const std::int64_t count = num_rows - first < kChunk ? num_rows - first : kChunk;
      std::uint32_t words[2][kChunk];
      draw_blocks(seed, episode, static_cast<std::uint32_t>(num_blocks + first), count, words);
      float normals[kChunk];
      for (std::int64_t r = 0; r < count; ++r) normals[r] = normal_float(words[0][r], words[1][r]);
      for (std::int64_t r = 0; r < count; ++r) {
        float* row = table + (first + r) * row_size_;
        for (std::int64_t k = states_ - 1; k < row_size_ - 1; ++k) row[k] = 2;
        row[row_size_ - 1] = 1 + normals[r];
      }
    }
  }

  std::int64_t states_;
  std::int64_t actions_;
  std::int64_t horizon_;
  std::int64_t budget_;  // the steps of a task
  bool meta_observation_;
  std::int64_t row_size_;
  float* tables_;                 // [kTile, states * actions, row size]
  std::int32_t* observed_state_;  // [kTile]
  std::int32_t* inner_step_;      // [kTile], within the inner episode
  PreviousStep previous_;
};

}  // namespace
}  // namespace metafast
