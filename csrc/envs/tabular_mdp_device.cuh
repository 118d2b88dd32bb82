// TabularMDP-v0 (tabular_mdp_rules.hpp) on the device: one environment, by one thread; its tables are drawn by a warp.
//
// A row of the tables is whole lines of 64 bytes, aligned to 16, and read in parts of 16 bytes.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "envs/device_phases.cuh"
#include "envs/tabular_mdp_rules.hpp"

namespace metafast {

struct DeviceTabularMdp {
  using Rules = TabularMdpRules;
  using Parameters = Rules::Parameters;
  using Action = std::int32_t;
  static constexpr bool kBegunByWarp = true;

  METAFAST_FORMULA int action_size(const Parameters&) { return 1; }
  METAFAST_FORMULA int observation_size(const Parameters& parameters) {
    return static_cast<int>(Rules::observation_size(parameters));
  }

  METAFAST_FORMULA void advance(const Parameters& parameters, const EnvironmentPlace& place, const Action* action,
                                float& reward, bool& terminated) {
    const Rules::TileState state = Rules::tile_state_at(parameters, place.state);
    const int i = place.index;
    const std::int32_t taken = *action;
    const std::int64_t size = Rules::row_size(parameters);
    const std::int64_t current = Rules::state_within(state.observed_state[i], parameters.states);
    const float* const row = table(parameters, place) + (current * parameters.actions + taken) * size;
    std::uint32_t words[4];
    draw_block(place.seed, place.episode, step_number(place.elapsed_steps), 0, words);
    const float uniform = uniform_float(words[0]);
    int reached = 0;
#pragma unroll 1
    for (std::int64_t k = 0; k < size; k += Rules::kLine) {
      alignas(16) float line[Rules::kLine];
      for (int part = 0; part < Rules::kLine; part += 4)
        *reinterpret_cast<float4*>(line + part) = *reinterpret_cast<const float4*>(row + k + part);
      reached += Rules::count_reached(line, uniform);
    }
    const float mean = row[size - 1];
    reward = normal_float(words[1], words[2]) + mean;
    Rules::move(static_cast<std::int32_t>(parameters.horizon), Rules::next_state(reached, mean, uniform),
                state.inner_step[i], state.observed_state[i]);
    terminated = Rules::is_last(place.elapsed_steps, Rules::budget(parameters));
    if (parameters.meta_observation) remember_step(state.previous, i, taken, reward);
  }

  __device__ static __forceinline__ void begin_together(const Parameters& parameters,
                                                        const EnvironmentPlace& place, int thread) {
    const Rules::TileState state = Rules::tile_state_at(parameters, place.state);
    draw_tables(parameters, place.seed, place.episode, thread, table(parameters, place));
    if (thread > 0) return;
    state.observed_state[place.index] = 0;
    state.inner_step[place.index] = 0;
    if (parameters.meta_observation) forget_step(state.previous, place.index);
  }

  METAFAST_FORMULA void observe(const Parameters& parameters, const EnvironmentPlace& place, float* observation) {
    const int size = observation_size(parameters);
    for (int k = 0; k < size; ++k) observation[k] = 0;
    Rules::observe(parameters, Rules::tile_state_at(parameters, place.state), place.index, observation);
  }

 private:
  METAFAST_FORMULA float* table(const Parameters& parameters, const EnvironmentPlace& place) {
    const std::int64_t size = Rules::num_rows(parameters) * Rules::row_size(parameters);
    return Rules::tile_state_at(parameters, place.state).tables + place.index * size;
  }

  // Thread by thread a block, whose four words lie far apart, each beside those of the next threads' blocks.
  __device__ static __forceinline__ void draw_tables(const Parameters& parameters, std::uint64_t seed,
                                                     std::uint64_t episode, int thread, float* table) {
    constexpr int kWarp = 32;
    const std::int64_t blocks = Rules::num_blocks(parameters);
    for (std::int64_t block = thread; block < blocks; block += kWarp) {
      std::uint32_t words[4];
      draw_block(seed, episode, 0, static_cast<std::uint32_t>(block), words);
      for (int k = 0; k < 4; ++k) table[k * blocks + block] = uniform_float(words[k]);
    }
    __syncwarp();  // a row's last numbers are written over
    const std::int64_t size = Rules::row_size(parameters);
    for (std::int64_t row = thread; row < Rules::num_rows(parameters); row += kWarp) {
      std::uint32_t words[4];
      draw_block(seed, episode, 0, static_cast<std::uint32_t>(blocks + row), words);
      Rules::finish_row(table + row * size, parameters.states, size, normal_float(words[0], words[1]));
    }
  }
};

}  // namespace metafast
