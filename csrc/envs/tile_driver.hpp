// Steps, resets and observes a range of environments in tiles that stay in the first-level cache.
//
// A dynamics struct (cartpole.hpp is the model) has kStateSize, kObservationSize, kResetUniforms, an Action type, a
// Parameters struct of doubles and three METAFAST_FORMULA functions on one environment's numbers, free of branches:
// reset (from uniforms in [0, 1)), step and observe.
//
// Each phase of a tile is a plain loop over its environments that the compiler vectorises. Episodes begin in a dense
// loop too: the indices that reset are collected, their randomness and first states computed side by side, and the
// results scattered. Phases keep to elements of one width where they can: a loop that mixes bytes with doubles would
// be unrolled to a whole vector of bytes.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/philox.hpp"
#include "envs/batch.hpp"

namespace metafast {
// Internal linkage: each instruction-set level has its own copy, which the linker must not merge.
namespace {

template <class Dynamics>
class TileDriver {
 public:
  static constexpr int kNumParameters = sizeof(typename Dynamics::Parameters) / sizeof(double);

  static std::int64_t step(const Batch& batch, const void* actions, const StepResult& result, std::int64_t begin,
                           std::int64_t end) {
    const auto* typed_actions = static_cast<const typename Dynamics::Action*>(actions);
    std::int64_t num_final = 0;
    for (std::int64_t first = begin; first < end; first += kTile) {
      const int count = tile_count(first, end);
      num_final += step_tile(batch, typed_actions + first, result, first, count);
    }
    return num_final;
  }

  static void reset(const Batch& batch, const std::uint8_t* mask, std::int64_t begin, std::int64_t end) {
    std::uint8_t everyone[kTile];
    std::memset(everyone, 1, kTile);
    for (std::int64_t first = begin; first < end; first += kTile) {
      const int count = tile_count(first, end);
      int indices[kTile];
      begin_episodes(batch, first, indices, collect(mask ? mask + first : everyone, count, indices));
    }
  }

  static void observe(const Batch& batch, float* observations, std::int64_t begin, std::int64_t end) {
    for (std::int64_t first = begin; first < end; first += kTile)
      observe_tile(batch, observations + first * kObservationSize, first, tile_count(first, end));
  }

 private:
  static constexpr int kStateSize = Dynamics::kStateSize;
  static constexpr int kObservationSize = Dynamics::kObservationSize;
  // Two 32-bit words make a uniform double, four come from one Philox block.
  static constexpr int kBlocks = (Dynamics::kResetUniforms + 1) / 2;
  using Parameters = typename Dynamics::Parameters;

  static Parameters parameters_of(const Batch& batch) { return *static_cast<const Parameters*>(batch.parameters); }

  static int tile_count(std::int64_t first, std::int64_t end) {
    return static_cast<int>(end - first < kTile ? end - first : kTile);
  }

  // The state of the tile that begins at environment `first`: component k of its environment i is [k][i].
  static double (*state_tile(const Batch& batch, std::int64_t first))[kTile] {
    return reinterpret_cast<double(*)[kTile]>(batch.state + first * kStateSize);
  }

  static std::int64_t step_tile(const Batch& batch, const typename Dynamics::Action* actions,
                                const StepResult& result, std::int64_t first, int count) {
    const bool next_step = batch.autoreset_mode == AutoresetMode::next_step;
    int indices[kTile];
    // In next_step mode an ended environment is stepped with the others, and its result overwritten by the reset's.
    int num_resets = next_step ? collect(batch.ended + first, count, indices) : 0;

    advance(batch, actions, result.rewards + first, result.terminated + first, first, count);
    limit_length(batch, result.terminated + first, result.truncated + first, first, count);
    observe_tile(batch, result.observations + first * kObservationSize, first, count);

    if (next_step) {
      for (int i = 0; i < num_resets; ++i) {
        const std::int64_t index = first + indices[i];
        result.rewards[index] = 0;
        result.terminated[index] = false;
        result.truncated[index] = false;
      }
    } else if (batch.autoreset_mode == AutoresetMode::same_step) {
      num_resets = collect(batch.ended + first, count, indices);
      for (int i = 0; i < num_resets; ++i) {
        const std::int64_t offset = (first + indices[i]) * kObservationSize;
        std::memcpy(result.final_observations + offset, result.observations + offset,
                    kObservationSize * sizeof(float));
      }
    }
    if (num_resets > 0) {
      begin_episodes(batch, first, indices, num_resets);
      observe_rows(batch, result.observations, first, indices, num_resets);
    }
    return batch.autoreset_mode == AutoresetMode::same_step ? num_resets : 0;
  }

  // Applies the dynamics: state, rewards, terminated.
  static void advance(const Batch& batch, const typename Dynamics::Action* __restrict actions,
                      float* __restrict rewards, bool* __restrict terminated, std::int64_t first, int count) {
    const Parameters parameters = parameters_of(batch);
    double(*__restrict state)[kTile] = state_tile(batch, first);
    std::int32_t finished[kTile];
    for (int i = 0; i < count; ++i) {
      double local[kStateSize];
      for (int k = 0; k < kStateSize; ++k) local[k] = state[k][i];
      double reward;
      bool over;
      Dynamics::step(parameters, actions[i], local, reward, over);
      for (int k = 0; k < kStateSize; ++k) state[k][i] = local[k];
      rewards[i] = static_cast<float>(reward);
      finished[i] = over;
    }
    for (int i = 0; i < count; ++i) terminated[i] = finished[i] != 0;
  }

  // Counts the step: elapsed_steps, truncated, ended.
  static void limit_length(const Batch& batch, const bool* __restrict terminated, bool* __restrict truncated,
                           std::int64_t first, int count) {
    std::int32_t* __restrict elapsed_steps = batch.elapsed_steps + first;
    std::uint8_t* __restrict ended = batch.ended + first;
    const std::int32_t limit = batch.max_episode_steps;
    for (int i = 0; i < count; ++i) {
      elapsed_steps[i] += 1;
      truncated[i] = elapsed_steps[i] >= limit;
    }
    for (int i = 0; i < count; ++i) ended[i] = terminated[i] | truncated[i];
  }

  // Lists the positions whose flag is not 0.
  static int collect(const std::uint8_t* flags, int count, int* indices) {
    int found = 0;
    int i = 0;
    for (; i + 8 <= count; i += 8) {
      std::uint64_t eight;
      std::memcpy(&eight, flags + i, 8);
      if (eight == 0) continue;
      for (int j = 0; j < 8; ++j) {
        indices[found] = i + j;
        found += flags[i + j] != 0;
      }
    }
    for (; i < count; ++i)
      if (flags[i]) indices[found++] = i;
    return found;
  }

  // Begins the next episode of each environment listed: state, elapsed_steps, ended, episodes.
  static void begin_episodes(const Batch& batch, std::int64_t first, const int* indices, int count) {
    const Parameters parameters = parameters_of(batch);
    std::uint64_t seeds[kTile], episodes[kTile];
    double states[kStateSize][kTile];
    for (int i = 0; i < count; ++i) {
      const std::int64_t index = first + indices[i];
      seeds[i] = batch.seeds[index];
      episodes[i] = batch.episodes[index]++;
      batch.elapsed_steps[index] = 0;
      batch.ended[index] = 0;
    }
    for (int i = 0; i < count; ++i) {
      const std::uint32_t key[2] = {static_cast<std::uint32_t>(seeds[i]), static_cast<std::uint32_t>(seeds[i] >> 32)};
      double uniforms[2 * kBlocks];
      for (std::uint32_t block = 0; block < kBlocks; ++block) {
        const std::uint32_t counter[4] = {static_cast<std::uint32_t>(episodes[i]),
                                          static_cast<std::uint32_t>(episodes[i] >> 32), block, 0};
        std::uint32_t words[4];
        philox4x32(counter, key, words);
        uniforms[2 * block] = uniform_double(words[0], words[1]);
        uniforms[2 * block + 1] = uniform_double(words[2], words[3]);
      }
      double drawn[Dynamics::kResetUniforms], local[kStateSize];
      for (int k = 0; k < Dynamics::kResetUniforms; ++k) drawn[k] = uniforms[k];
      Dynamics::reset(parameters, drawn, local);
      for (int k = 0; k < kStateSize; ++k) states[k][i] = local[k];
    }
    double(*state)[kTile] = state_tile(batch, first);
    for (int i = 0; i < count; ++i)
      for (int k = 0; k < kStateSize; ++k) state[k][indices[i]] = states[k][i];
  }

  static void observe_tile(const Batch& batch, float* __restrict observations, std::int64_t first, int count) {
    const Parameters parameters = parameters_of(batch);
    const double(*__restrict state)[kTile] = state_tile(batch, first);
    for (int i = 0; i < count; ++i) {
      double local[kStateSize];
      float observation[kObservationSize];
      for (int k = 0; k < kStateSize; ++k) local[k] = state[k][i];
      Dynamics::observe(parameters, local, observation);
      for (int k = 0; k < kObservationSize; ++k) observations[i * kObservationSize + k] = observation[k];
    }
  }

  static void observe_rows(const Batch& batch, float* observations, std::int64_t first, const int* indices,
                           int count) {
    const Parameters parameters = parameters_of(batch);
    const double(*state)[kTile] = state_tile(batch, first);
    for (int i = 0; i < count; ++i) {
      double local[kStateSize];
      float observation[kObservationSize];
      for (int k = 0; k < kStateSize; ++k) local[k] = state[k][indices[i]];
      Dynamics::observe(parameters, local, observation);
      float* row = observations + (first + indices[i]) * kObservationSize;
      for (int k = 0; k < kObservationSize; ++k) row[k] = observation[k];
    }
  }
};

}  // namespace
}  // namespace metafast
