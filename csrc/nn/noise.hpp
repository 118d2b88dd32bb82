// The randomness of a policy's choices, as a pure function of a key, the environment's number, the step and the
// component of the action: neither threads nor neighbours matter, and torch code can have the same numbers.
// For kernel files only: everything here has internal linkage, because each level compiles its own copy.
#pragma once

#include <cstdint>

#include "common/philox_lanes.hpp"
#include "envs/random_words.hpp"
#include "nn/columns.hpp"

namespace metafast {
namespace {

// Components [begin, end) of environment first_env + c, for c < columns (at most kBlockColumns): noise[k - begin][c],
// uniform on [0, 1) or standard normal. Block b of the counter (environment, b, step) makes components 4 b to 4 b + 3,
// or, normal, 2 b and 2 b + 1; `begin` is a multiple of that.
void fill_noise(std::uint64_t key, std::int64_t first_env, std::int64_t step, bool normal, std::int64_t begin,
                std::int64_t end, std::int64_t columns, float* noise) {
  std::uint32_t words[4][kBlockColumns];
  const std::int64_t components = normal ? 2 : 4;
  for (std::int64_t first = begin; first < end; first += components) {
    for (std::int64_t column = 0; column < columns; column += kPhiloxLanes) {
      PhiloxLanes env{};
      for (int lane = 0; lane < kPhiloxLanes; ++lane) env[lane] = static_cast<std::uint64_t>(first_env + column + lane);
      PhiloxLanes counter[4] = {env, env >> 32, PhiloxLanes{} + static_cast<std::uint64_t>(first / components),
                                PhiloxLanes{} + static_cast<std::uint64_t>(step)};
      philox_lanes(counter, PhiloxLanes{} + (key & 0xFFFFFFFFu), PhiloxLanes{} + (key >> 32));
      for (int k = 0; k < 4; ++k) store_lower_halves(counter[k], words[k] + column);
    }
    for (std::int64_t k = first; k < end && k < first + components; ++k) {
      float* const __restrict row = noise + (k - begin) * columns;
      if (normal) {
        const std::uint32_t* const radius_words = words[2 * (k - first)];
        const std::uint32_t* const angle_words = words[2 * (k - first) + 1];
        for_columns(columns, [=](std::int64_t c) { row[c] = normal_float(radius_words[c], angle_words[c]); });
      } else {
        const std::uint32_t* const uniform_words = words[k - first];
        for_columns(columns, [=](std::int64_t c) { row[c] = uniform_float(uniform_words[c]); });
      }
    }
  }
}

}  // namespace
}  // namespace metafast
