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

// Component `component` of environment first_env + c, for c < columns: uniform on [0, 1) or standard normal.
//
// A block of the generator's four words serves the environments that need them, 4 (or, normal, 2), which lie a group of
// columns apart: environment e has the block of the counter (e / (16 shared) * 16 + e % 16, component, step), and there
// the word, or pair of words, e / 16 % shared. `first_env` is a multiple of kBlockColumns.
void fill_noise(std::uint64_t key, std::int64_t first_env, std::int64_t step, bool normal, std::int64_t component,
                std::int64_t columns, float* noise) {
  const std::int64_t shared = normal ? 2 : 4;
  for (std::int64_t first = 0; first < columns; first += shared * kColumnGroup) {
    std::uint32_t words[4][kColumnGroup];
    for (std::int64_t column = 0; column < kColumnGroup; column += kPhiloxLanes) {
      PhiloxLanes block{};
      for (int lane = 0; lane < kPhiloxLanes; ++lane)
        block[lane] = static_cast<std::uint64_t>((first_env + first) / shared + column + lane);
      PhiloxLanes counter[4] = {block, block >> 32, PhiloxLanes{} + static_cast<std::uint64_t>(component),
                                PhiloxLanes{} + static_cast<std::uint64_t>(step)};
      philox_lanes(counter, PhiloxLanes{} + (key & 0xFFFFFFFFu), PhiloxLanes{} + (key >> 32));
      for (int k = 0; k < 4; ++k) store_lower_halves(counter[k], words[k] + column);
    }
    for (std::int64_t group = 0; group < shared && first + group * kColumnGroup < columns; ++group) {
      float* const __restrict to = noise + first + group * kColumnGroup;
      if (normal) {
        const std::uint32_t* const radius_words = words[2 * group];
        const std::uint32_t* const angle_words = words[2 * group + 1];
        for_columns(kColumnGroup, [=](std::int64_t c) { to[c] = normal_float(radius_words[c], angle_words[c]); });
      } else {
        const std::uint32_t* const uniform_words = words[group];
        for_columns(kColumnGroup, [=](std::int64_t c) { to[c] = uniform_float(uniform_words[c]); });
      }
    }
  }
}

}  // namespace
}  // namespace metafast
