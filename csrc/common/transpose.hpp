// Transposing W vectors of W elements in registers, and summing the lanes of W vectors at once.
//
// Both are log2(W) rounds of perfect shuffles: vector i and vector i + n/2 are interleaved, which turns the bits of
// (vector, lane) by one place (Stone, "Parallel processing with the perfect shuffle", IEEE ToC 20, 1971).
// For kernel files only.
#pragma once

#include <utility>

#include "common/lanes.hpp"

namespace metafast {
namespace {

template <int W, class Real, int... lane>
[[gnu::always_inline]] inline Real interleave_low(Real a, Real b, std::integer_sequence<int, lane...>) {
  return __builtin_shufflevector(a, b, (lane % 2 * W + lane / 2)...);
}

template <int W, class Real, int... lane>
[[gnu::always_inline]] inline Real interleave_high(Real a, Real b, std::integer_sequence<int, lane...>) {
  return __builtin_shufflevector(a, b, (lane % 2 * W + W / 2 + lane / 2)...);
}

// Lane j of vector i and lane i of vector j change places.
template <class T, int W>
[[gnu::always_inline]] inline void transpose(typename Pack<T, W>::Real (&vectors)[W]) {
  using Real = typename Pack<T, W>::Real;
  constexpr auto lanes = std::make_integer_sequence<int, W>{};
#pragma GCC unroll 4
  for (int round = 1; round < W; round *= 2) {
    Real shuffled[W];
#pragma GCC unroll 8
    for (int i = 0; i < W / 2; ++i) {
      shuffled[2 * i] = interleave_low<W>(vectors[i], vectors[i + W / 2], lanes);
      shuffled[2 * i + 1] = interleave_high<W>(vectors[i], vectors[i + W / 2], lanes);
    }
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) vectors[i] = shuffled[i];
  }
}

// Lane j of the result is the sum over the lanes of vector j.
template <class T, int W>
[[gnu::always_inline]] inline typename Pack<T, W>::Real sums_of_lanes(typename Pack<T, W>::Real (&vectors)[W]) {
  constexpr auto lanes = std::make_integer_sequence<int, W>{};
#pragma GCC unroll 4
  for (int count = W / 2; count >= 1; count /= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < count; ++i)
      vectors[i] = interleave_low<W>(vectors[i], vectors[i + count], lanes) +
                   interleave_high<W>(vectors[i], vectors[i + count], lanes);
  }
  return vectors[0];
}

// The sum over the lanes of one vector, and the largest lane that is a number.
template <class T, int W>
[[gnu::always_inline]] inline T sum_of_lanes(typename Pack<T, W>::Real lanes) {
  if constexpr (W >= 16) lanes += Pack<T, W>::template shift_down<8>(lanes, lanes);
  if constexpr (W >= 8) lanes += Pack<T, W>::template shift_down<4>(lanes, lanes);
  if constexpr (W >= 4) lanes += Pack<T, W>::template shift_down<2>(lanes, lanes);
  lanes += Pack<T, W>::template shift_down<1>(lanes, lanes);
  return lanes[0];
}

template <class Real>
[[gnu::always_inline]] inline Real larger(Real candidate, Real than) {
  return candidate > than ? candidate : than;
}

template <class T, int W>
[[gnu::always_inline]] inline T largest_lane(typename Pack<T, W>::Real lanes) {
  if constexpr (W >= 16) lanes = larger(Pack<T, W>::template shift_down<8>(lanes, lanes), lanes);
  if constexpr (W >= 8) lanes = larger(Pack<T, W>::template shift_down<4>(lanes, lanes), lanes);
  if constexpr (W >= 4) lanes = larger(Pack<T, W>::template shift_down<2>(lanes, lanes), lanes);
  lanes = larger(Pack<T, W>::template shift_down<1>(lanes, lanes), lanes);
  return lanes[0];
}

}  // namespace
}  // namespace metafast
