// The phases of TabularMDP-v0 (tabular_mdp_rules.hpp) on the CPU, a tile at a time.
#pragma once

#include <cstdint>
#include <cstring>

#include "envs/batch.hpp"
#include "envs/random_words.hpp"
#include "envs/tabular_mdp_rules.hpp"

namespace metafast {
// Internal linkage: each instruction-set level has its own copy, which the linker must not merge.
namespace {

class TabularMdp : TabularMdpRules {
 public:
  static std::int64_t advance(const void* parameters, void* state, std::int64_t count, const void* actions,
                              const std::uint64_t* __restrict seeds, const std::uint64_t* __restrict episodes,
                              const std::int32_t* __restrict elapsed_steps, void* rewards,
                              std::uint8_t* __restrict terminated) {
    const TabularMdp tile(parameters, state);
    const auto* __restrict taken = static_cast<const std::int32_t*>(actions);
    auto* __restrict paid = static_cast<float*>(rewards);
    const float* rows[kTile];
    for (std::int64_t i = 0; i < count; ++i) {
      rows[i] = tile.row(i, tile.current_state(i) * tile.parameters_.actions + taken[i]);
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
      for (std::int64_t k = 0; k < tile.row_size_; k += kLine) reached += count_line(rows[i] + k, uniforms[i]);
      const float mean = rows[i][tile.row_size_ - 1];
      next_states[i] = next_state(reached, mean, uniforms[i]);
      paid[i] += mean;
    }

    const auto horizon = static_cast<std::int32_t>(tile.parameters_.horizon);
    const std::int32_t steps = budget(tile.parameters_);
    std::int32_t* __restrict inner_step = tile.state_.inner_step;
    std::int32_t* __restrict observed_state = tile.state_.observed_state;
    for (std::int64_t i = 0; i < count; ++i) move(horizon, next_states[i], inner_step[i], observed_state[i]);
    for (std::int64_t i = 0; i < count; ++i) terminated[i] = is_last(elapsed_steps[i], steps);
    if (tile.parameters_.meta_observation) remember_steps(tile.state_.previous, taken, paid, count);
    return -1;
  }

  static std::int64_t begin(const void* parameters, void* state, const std::int32_t* indices, std::int64_t num_indices,
                            const std::uint64_t* seeds, const std::uint64_t* episodes, std::uint64_t*) {
    const TabularMdp tile(parameters, state);
    for (std::int64_t k = 0; k < num_indices; ++k) {
      const std::int64_t i = indices[k];
      tile.draw_tables(i, seeds[i], episodes[i] - 1);
      tile.state_.observed_state[i] = 0;
      tile.state_.inner_step[i] = 0;
      if (tile.parameters_.meta_observation) forget_step(tile.state_.previous, i);
    }
    return -1;
  }

  static std::int64_t observe(const void* parameters, const void* state, std::int64_t count,
                              const std::int32_t* indices, std::int64_t num_indices, void* observations) {
    const TabularMdp tile(parameters, const_cast<void*>(state));
    auto* rows = static_cast<float*>(observations);
    const std::int64_t size = observation_size(tile.parameters_);
    const auto row_bytes = static_cast<std::size_t>(size) * sizeof(float);
    if (num_indices < 0) std::memset(rows, 0, row_bytes * static_cast<std::size_t>(count));
    for (std::int64_t k = 0; k < num_indices; ++k) std::memset(rows + indices[k] * size, 0, row_bytes);
    const std::int64_t num_rows = num_indices < 0 ? count : num_indices;
    for (std::int64_t k = 0; k < num_rows; ++k) {
      const std::int64_t i = num_indices < 0 ? k : indices[k];
      TabularMdpRules::observe(tile.parameters_, tile.state_, i, rows + i * size);
    }
    return -1;
  }

 private:
  static constexpr std::int64_t kChunk = 64;

  TabularMdp(const void* parameters, void* state) {
    std::memcpy(&parameters_, parameters, sizeof(parameters_));
    state_ = tile_state_at(parameters_, static_cast<std::byte*>(state));
    row_size_ = row_size(parameters_);
  }

  float* row(std::int64_t i, std::int64_t pair) const {
    return state_.tables + (i * num_rows(parameters_) + pair) * row_size_;
  }

  std::int64_t current_state(std::int64_t i) const {
    return state_within(state_.observed_state[i], parameters_.states);
  }

  // count_reached, by intrinsics, because gcc adds up the lanes of a vector where the processor can count the bits of a
  // mask.
  static int count_line(const float* line, float uniform) {
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
    return count_reached(line, uniform);
#endif
  }

  void draw_tables(std::int64_t i, std::uint64_t seed, std::uint64_t episode) const {
    float* __restrict table = row(i, 0);
    const std::int64_t blocks = num_blocks(parameters_);
    for (std::int64_t first = 0; first < blocks; first += kChunk) {
      const std::int64_t count = blocks - first < kChunk ? blocks - first : kChunk;
      std::uint32_t words[4][kChunk];
      draw_blocks(seed, episode, static_cast<std::uint32_t>(first), count, words);
      for (int k = 0; k < 4; ++k)
        for (std::int64_t b = 0; b < count; ++b) table[k * blocks + first + b] = uniform_float(words[k][b]);
    }
    const std::int64_t rows = num_rows(parameters_);
    for (std::int64_t first = 0; first < rows; first += kChunk) {
      const std::int64_t count = rows - first < kChunk ? rows - first : kChunk;
      std::uint32_t words[2][kChunk];
      draw_blocks(seed, episode, static_cast<std::uint32_t>(blocks + first), count, words);
      float normals[kChunk];
      for (std::int64_t r = 0; r < count; ++r) normals[r] = normal_float(words[0][r], words[1][r]);
      for (std::int64_t r = 0; r < count; ++r)
        finish_row(table + (first + r) * row_size_, parameters_.states, row_size_, normals[r]);
    }
  }

  Parameters parameters_;
  TileState state_;
  std::int64_t row_size_;
};

}  // namespace
}  // namespace metafast
