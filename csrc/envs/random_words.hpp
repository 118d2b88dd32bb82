// Random words of many environments at once, and float32 numbers made of single words, so that one block of Philox
// serves a whole step of a task.
//
// The words are those whose pairs uniform_pair (randomness.hpp) turns into doubles. For kernel files only: everything
// here has internal linkage, because each level compiles its own copy.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/host_device.hpp"
#include "common/philox_lanes.hpp"
#include "common/vector_math.hpp"
#include "envs/batch.hpp"

namespace metafast {
namespace {

// words[k][i] is word k of a block of environment i's stream, for i < count. `episodes` holds the number after the
// current episode's, as in Phases; steps[i] + 1 is the step that is drawn for, or 0 where `steps` is null.
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
        for (int lane = 0; lane < kPhiloxLanes; ++lane) step[lane] = static_cast<std::uint32_t>(steps[i + lane]) + 1;
    } else {
      for (int lane = 0; lane < count - i; ++lane) {
        seed[lane] = seeds[i + lane];
        episode[lane] = episodes[i + lane];
        if (steps) step[lane] = static_cast<std::uint32_t>(steps[i + lane]) + 1;
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

// Uniform on [0, 1), a multiple of 2^-24: the upper bits of the word.
METAFAST_FORMULA float uniform_float(std::uint32_t word) {
  return static_cast<float>(static_cast<std::int32_t>(word >> 8)) * 0x1p-24f;
}

// A standard normal number after Box and Muller (1958), "A Note on the Generation of Random Normal Deviates". The
// radius comes from 31 bits of the first word, so that it is at most 6.66; of the second, two bits choose the angle's
// quadrant and thirty the angle from -pi/4 to pi/4 around it, which leaves the cosine nothing to reduce.
METAFAST_FORMULA float normal_float(std::uint32_t radius_word, std::uint32_t angle_word) {
  const float upper = static_cast<float>(static_cast<std::int32_t>(radius_word >> 1));
  const float radius = __builtin_sqrtf(-2.0f * vector_log((upper + 0.5f) * 0x1p-31f));
  const float angle = static_cast<float>(static_cast<std::int32_t>(angle_word << 2)) * 0x1.921fb6p-32f;
  float sine, cosine;
  vector_math::sincos_of_reduced(angle, 0.0f, sine, cosine);
  const std::uint32_t quadrant = angle_word >> 30;
  const float magnitude = (quadrant & 1) != 0 ? sine : cosine;
  return radius * (((quadrant + 1) & 2) != 0 ? -magnitude : magnitude);
}

}  // namespace metafast
