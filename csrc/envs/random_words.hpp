// The random words (randomness.hpp) of many environments at once, in vectors.
//
// For the CPU's kernel files only: everything here has internal linkage, because each level compiles its own copy.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/philox_lanes.hpp"
#include "envs/batch.hpp"
#include "envs/randomness.hpp"

namespace metafast {
namespace {

// words[k][i] is word k of a block of environment i's stream, for i < count. `episodes` holds the number after the
// current episode's, as in Phases; drawn is for the step after steps[i] others, or for the reset where `steps` is null.
template <int kWords>
[[gnu::always_inline]] inline void draw_words(const std::uint64_t* seeds, const std::uint64_t* episodes,
                                              const std::int32_t* steps, std::uint32_t block, std::int64_t count,
                                              std::uint32_t (&words)[kWords][kTile]) {
  static_assert(kTile % kPhiloxLanes == 0, "whole vectors of results fit a tile");
  for (std::int64_t i = 0; i < count; i += kPhiloxLanes) {
    PhiloxLanes seed{}, episode{}, step{};
    if (count - i >= kPhiloxLanes) {
      std::memcpy(&seed, seeds + i, sizeof(seed));
      std::memcpy(&episode, episodes + i, sizeof(episode));
      if (steps)
        for (int lane = 0; lane < kPhiloxLanes; ++lane) step[lane] = step_number(steps[i + lane]);
    } else {
      for (int lane = 0; lane < count - i; ++lane) {
        seed[lane] = seeds[i + lane];
        episode[lane] = episodes[i + lane];
        if (steps) step[lane] = step_number(steps[i + lane]);
      }
    }
    episode -= 1;
    PhiloxLanes counter[4] = {episode, episode >> 32, PhiloxLanes{} + block, step};
    philox_lanes(counter, seed, seed >> 32);
    for (int k = 0; k < kWords; ++k) store_lower_halves(counter[k], words[k] + i);
  }
}

// words[k][i] is word k of block first + i of one environment's stream, at its reset. Whole vectors are written.
template <int kWords, int kCount>
[[gnu::always_inline]] inline void draw_blocks(std::uint64_t seed, std::uint64_t episode, std::uint32_t first,
                                               std::int64_t count, std::uint32_t (&words)[kWords][kCount]) {
  static_assert(kCount % kPhiloxLanes == 0, "whole vectors of results fit");
  PhiloxLanes block{};
  for (int lane = 0; lane < kPhiloxLanes; ++lane) block[lane] = first + static_cast<std::uint32_t>(lane);
  const PhiloxLanes key = PhiloxLanes{} + seed, number = PhiloxLanes{} + episode;
  for (std::int64_t i = 0; i < count; i += kPhiloxLanes) {
    PhiloxLanes counter[4] = {number, number >> 32, block, PhiloxLanes{}};
    philox_lanes(counter, key, key >> 32);
    for (int k = 0; k < kWords; ++k) store_lower_halves(counter[k], words[k] + i);
    block += kPhiloxLanes;
  }
}

}  // namespace
}  // namespace metafast
