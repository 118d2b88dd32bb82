// TabularMDP-v0: a Markov decision process with random tables, drawn anew for each task.
//
// Duan et al. (2016), RL^2, section 3.2, after Osband, Russo and Van Roy (2013): the mean reward of each state and
// action is Normal(1, 1), the reward Normal(mean, 1), the distribution of the next state uniform over the simplex (a
// flat Dirichlet). A task is a number of inner episodes, each of which begins in state 0 and lasts `horizon` steps.
//
// The parts into which S - 1 uniform numbers cut [0, 1) are uniform over the simplex (Devroye 1986, Non-Uniform Random
// Variate Generation, V.2). So the table of a state and an action is S - 1 such cuts, as they were drawn: the next
// state is the number of cuts that a uniform number has reached, which needs them neither sorted nor summed.
//
// State: `tables` float32 [S * A, row size], a row being the S - 1 cuts, 2s that no uniform number reaches up to a
// whole number of cache lines, and at its end the mean reward; `observed_state` and `inner_step` int32; with the
// meta-observation also the previous step's. A step reads one row: its only memory that is not in the caches.
//
// Random words: at the reset, word k of block b is the uniform number at k * num_blocks + b of the tables, which are
// num_blocks * 4 numbers (some of them then overwritten), and block num_blocks + r makes the mean of row r. A step's
// block gives the uniform number and, by two words, the reward's noise.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/host_device.hpp"
#include "envs/batch.hpp"
#include "envs/meta_observation.hpp"
#include "envs/randomness.hpp"

namespace metafast {

struct TabularMdpRules {
  struct Parameters {
    std::int64_t states;
    std::int64_t actions;
    std::int64_t horizon;
    std::int64_t episodes;
    std::int64_t meta_observation;
  };

  struct TileState {
    float* tables;                 // [kTile, states * actions, row size]
    std::int32_t* observed_state;  // [kTile]
    std::int32_t* inner_step;      // [kTile], within the inner episode
    PreviousStep previous;
  };

  static constexpr std::int64_t kLine = 16;  // floats in a cache line

  METAFAST_FORMULA std::int64_t num_rows(const Parameters& parameters) {
    return parameters.states * parameters.actions;
  }
  METAFAST_FORMULA std::int64_t row_size(const Parameters& parameters) {
    return (parameters.states + 1 + kLine - 1) / kLine * kLine;
  }
  METAFAST_FORMULA std::int64_t num_blocks(const Parameters& parameters) {
    return num_rows(parameters) * row_size(parameters) / 4;
  }

  METAFAST_FORMULA TileState tile_state_at(const Parameters& parameters, std::byte* state) {
    float* const tables = reinterpret_cast<float*>(state);
    auto* const observed_state =
        reinterpret_cast<std::int32_t*>(tables + kTile * num_rows(parameters) * row_size(parameters));
    std::int32_t* const inner_step = observed_state + kTile;
    return {tables, observed_state, inner_step, previous_step_at(reinterpret_cast<std::byte*>(inner_step + kTile))};
  }

  METAFAST_FORMULA std::int64_t observation_size(const Parameters& parameters) {
    return parameters.states + (parameters.meta_observation ? parameters.actions + 2 : 0);
  }

  // Makes a row of its uniform numbers and of its block's first words.
  METAFAST_FORMULA void finish_row(float* row, std::int64_t states, std::int64_t row_size, float normal) {
    for (std::int64_t k = states - 1; k < row_size - 1; ++k) row[k] = 2;
    row[row_size - 1] = 1 + normal;
  }

  // A state that the caller has set may hold any number.
  METAFAST_FORMULA std::int64_t state_within(std::int64_t observed_state, std::int64_t states) {
    return observed_state >= 0 && observed_state < states ? observed_state : 0;
  }

  // How many of a cache line's numbers are at most `uniform`.
  METAFAST_FORMULA int count_reached(const float* line, float uniform) {
    int reached = 0;
    for (int k = 0; k < kLine; ++k) reached += line[k] <= uniform;
    return reached;
  }

  // Of the numbers of the row that the uniform number has reached, the mean reward is no cut.
  METAFAST_FORMULA std::int32_t next_state(int reached, float mean, float uniform) {
    return reached - (mean <= uniform);
  }

  // Counts the inner episode's steps: the next begins in state 0.
  METAFAST_FORMULA void move(std::int32_t horizon, std::int32_t next_state, std::int32_t& inner_step,
                             std::int32_t& observed_state) {
    const std::int32_t step = inner_step + 1;
    const bool episode_ended = step >= horizon;
    inner_step = episode_ended ? 0 : step;
    observed_state = episode_ended ? 0 : next_state;
  }

  METAFAST_FORMULA std::int32_t budget(const Parameters& parameters) {
    return static_cast<std::int32_t>(parameters.horizon * parameters.episodes);
  }
  METAFAST_FORMULA bool is_last(std::int32_t elapsed_steps, std::int32_t budget) { return elapsed_steps >= budget - 1; }

  // The row is of zeros.
  METAFAST_FORMULA void observe(const Parameters& parameters, const TileState& state, std::int64_t i, float* row) {
    row[state_within(state.observed_state[i], parameters.states)] = 1;
    if (parameters.meta_observation)
      observe_previous_step(state.previous, i, parameters.actions, state.inner_step[i] == 0, row + parameters.states);
  }
};

}  // namespace metafast
