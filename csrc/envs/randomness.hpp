// An environment's random numbers, as a pure function of its seed, its episode's number and its step: draw b of step t
// (t = 0: the reset) is block b of Philox under the counter (episode, b, t).
#pragma once

#include <cstdint>

#include "common/host_device.hpp"
#include "common/philox.hpp"

namespace metafast {

// The `block`th pair of uniforms on [0, 1).
METAFAST_FORMULA void uniform_pair(std::uint64_t seed, std::uint64_t episode, std::uint32_t step, std::uint32_t block,
                                   double& first, double& second) {
  const std::uint32_t key[2] = {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)};
  const std::uint32_t counter[4] = {static_cast<std::uint32_t>(episode), static_cast<std::uint32_t>(episode >> 32),
                                    block, step};
  std::uint32_t words[4];
  philox4x32(counter, key, words);
  first = uniform_double(words[0], words[1]);
  second = uniform_double(words[2], words[3]);
}

// The first `count` uniforms of a step.
template <int count>
METAFAST_FORMULA void draw_uniforms(std::uint64_t seed, std::uint64_t episode, std::uint32_t step, double* uniforms) {
#if !defined(__CUDACC__)
#pragma GCC unroll 16
#endif
  for (int block = 0; 2 * block < count; ++block) {
    double first, second;
    uniform_pair(seed, episode, step, static_cast<std::uint32_t>(block), first, second);
    uniforms[2 * block] = first;
    if (2 * block + 1 < count) uniforms[2 * block + 1] = second;
  }
}

}  // namespace metafast
