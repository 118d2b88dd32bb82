// Philox4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw, "Parallel Random Numbers: As Easy as
// 1, 2, 3" (SC 2011), section 3.3. A pure function of (counter, key): the same numbers in any order, on any number of
// threads, on the CPU and on the GPU. Free of branches, so a loop over environments vectorises.
#pragma once

#include <cstdint>

#include "common/host_device.hpp"

namespace metafast {

METAFAST_FORMULA void philox4x32(const std::uint32_t counter[4], const std::uint32_t key[2], std::uint32_t out[4]) {
  std::uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
  std::uint32_t k0 = key[0], k1 = key[1];
#if !defined(__CUDACC__)
#pragma GCC unroll 10
#endif
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t product0 = std::uint64_t{0xD2511F53u} * c0;
    const std::uint64_t product1 = std::uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<std::uint32_t>(product1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<std::uint32_t>(product1);
    c2 = static_cast<std::uint32_t>(product0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<std::uint32_t>(product0);
    k0 += 0x9E3779B9u;  // the Weyl sequence of the key schedule: the golden ratio and sqrt(3) - 1
    k1 += 0xBB67AE85u;
  }
  out[0] = c0;
  out[1] = c1;
  out[2] = c2;
  out[3] = c3;
}

// Uniform on [0, 1), a multiple of 2^-53: the upper 27 bits of `high` and, below them, the upper 26 of `low`.
METAFAST_FORMULA double uniform_double(std::uint32_t high, std::uint32_t low) {
  // Both halves fit a signed 32-bit integer, the only one that every level converts to double in vectors.
  const auto upper27 = static_cast<std::int32_t>(high >> 5);
  const auto lower26 = static_cast<std::int32_t>(low >> 6);
  return (upper27 * 67108864.0 + lower26) * 0x1p-53;
}

}  // namespace metafast
