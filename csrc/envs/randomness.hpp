// An environment's random numbers, as a pure function of its seed, its episode's number and its step: draw b of step t
// (t = 0: the reset) is block b of Philox under the counter (episode, b, t). Doubles take two words of the block's
// four; the task distributions make float32 numbers of single words, so that one block serves a whole step of a task.
#pragma once

#include <cstdint>

#include "common/host_device.hpp"
#include "common/philox.hpp"
#include "common/vector_math.hpp"

namespace metafast {

// The step's number t in the counter, of a step that `elapsed_steps` others precede.
METAFAST_FORMULA std::uint32_t step_number(std::int32_t elapsed_steps) {
  return static_cast<std::uint32_t>(elapsed_steps) + 1;
}

METAFAST_FORMULA void draw_block(std::uint64_t seed, std::uint64_t episode, std::uint32_t step, std::uint32_t block,
                                 std::uint32_t (&words)[4]) {
  const std::uint32_t key[2] = {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)};
  const std::uint32_t counter[4] = {static_cast<std::uint32_t>(episode), static_cast<std::uint32_t>(episode >> 32),
                                    block, step};
  philox4x32(counter, key, words);
}

// The `block`th pair of uniforms on [0, 1).
METAFAST_FORMULA void uniform_pair(std::uint64_t seed, std::uint64_t episode, std::uint32_t step, std::uint32_t block,
                                   double& first, double& second) {
  std::uint32_t words[4];
  draw_block(seed, episode, step, block, words);
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
