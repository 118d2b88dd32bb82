// PCG64, the generator behind NumPy's default_rng: PCG XSL RR 128/64 of O'Neill, "PCG: A Family of Simple Fast
// Space-Efficient Statistically Good Algorithms for Random Number Generation" (2014), a 128-bit linear congruential
// generator whose state is folded to 64 bits and rotated by its top 6 bits.
#pragma once

#include <cstdint>

#include "common/host_device.hpp"

namespace metafast {

// A stream is four words: the state's high and low half, the increment's high and low half.
METAFAST_FORMULA std::uint64_t pcg64(std::uint64_t (&stream)[4]) {
  using Wide = unsigned __int128;
  constexpr Wide multiplier = (Wide{0x2360ED051FC65DA4u} << 64) | 0x4385DF649FCCF645u;
  const Wide increment = (Wide{stream[2]} << 64) | stream[3];
  const Wide state = ((Wide{stream[0]} << 64) | stream[1]) * multiplier + increment;
  stream[0] = static_cast<std::uint64_t>(state >> 64);
  stream[1] = static_cast<std::uint64_t>(state);
  const std::uint64_t folded = stream[0] ^ stream[1];
  const auto rotation = static_cast<int>(stream[0] >> 58);
  return (folded >> rotation) | (folded << (-rotation & 63));
}

// Uniform on [0, 1), a multiple of 2^-53, as Generator.random() gives it.
METAFAST_FORMULA double pcg64_double(std::uint64_t (&stream)[4]) {
  return static_cast<double>(pcg64(stream) >> 11) * 0x1p-53;
}

}  // namespace metafast
