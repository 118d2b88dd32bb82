// Philox4x32-10 (philox.hpp) for several counters side by side, over the compiler's portable vector types.
//
// A lane of 64 bits holds one 32-bit word of a counter. What is above the word is never looked at: the multiplication
// takes the lower halves only, and xor keeps the halves apart. So a round is two multiplications, two shifts and four
// xors, which the compiler does not find by itself in a loop over philox4x32: there it shuffles halves. The words are
// the same. For kernel files only: everything here has internal linkage, because each level compiles its own copy.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/lanes.hpp"

namespace metafast {
namespace {

constexpr int kPhiloxLanes = kVectorBytes / 8;
typedef std::uint64_t PhiloxLanes __attribute__((vector_size(kVectorBytes)));

// The products of the lanes' lower halves.
[[gnu::always_inline]] inline PhiloxLanes multiply_lower_halves(PhiloxLanes a, PhiloxLanes b) {
#if defined(__AVX512F__)
  // Masked, because gcc 12 finds the plain form to read a vector that was never set.
  return (PhiloxLanes)_mm512_maskz_mul_epu32(0xff, (__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return (PhiloxLanes)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif defined(__SSE2__) && !defined(__AVX__)
  return (PhiloxLanes)_mm_mul_epu32((__m128i)a, (__m128i)b);
#else
  return (a & 0xFFFFFFFFu) * (b & 0xFFFFFFFFu);
#endif
}

// Replaces the counter by its four random words, in the lower halves of the lanes.
[[gnu::always_inline]] inline void philox_lanes(PhiloxLanes (&counter)[4], PhiloxLanes key0, PhiloxLanes key1) {
  PhiloxLanes c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {
    const PhiloxLanes product0 = multiply_lower_halves(PhiloxLanes{} + 0xD2511F53u, c0);
    const PhiloxLanes product1 = multiply_lower_halves(PhiloxLanes{} + 0xCD9E8D57u, c2);
    c0 = (product1 >> 32) ^ c1 ^ key0;
    c1 = product1;
    c2 = (product0 >> 32) ^ c3 ^ key1;
    c3 = product0;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  counter[0] = c0;
  counter[1] = c1;
  counter[2] = c2;
  counter[3] = c3;
}

// The lanes' lower halves, side by side.
[[gnu::always_inline]] inline void store_lower_halves(PhiloxLanes lanes, std::uint32_t* to) {
  for (int lane = 0; lane < kPhiloxLanes; ++lane) to[lane] = static_cast<std::uint32_t>(lanes[lane]);
}

}  // namespace
}  // namespace metafast
