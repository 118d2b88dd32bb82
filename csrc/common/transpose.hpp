// Transposing W vectors of W elements in registers, and summing the lanes of W vectors at once.
//
// Both are rounds in which two vectors become one of their even elements and one of their odd ones (Stone, "Parallel
// processing with the perfect shuffle", IEEE ToC 20, 1971): first within parts of 128 bits, which takes the cheapest
// instructions, then of whole parts.
// For kernel files only.
#pragma once

#include <utility>

#include "common/lanes.hpp"

namespace metafast {
namespace {

// In each group of lanes, the even (odd = 0) units of a and then those of b.
template <int W, int unit, int group, int odd, class Real, int... lane>
[[gnu::always_inline]] inline Real take_alternate(Real a, Real b, std::integer_sequence<int, lane...>) {
  constexpr int half = group / 2;
  return __builtin_shufflevector(a, b,
                                 (lane / group * group + 2 * (lane % half / unit * unit) + odd * unit + lane % unit +
                                  (lane % group < half ? 0 : W))...);
}
template <int W, int unit, int group, class Real>
[[gnu::always_inline]] inline Real take_even(Real a, Real b) {
  return take_alternate<W, unit, group, 0>(a, b, std::make_integer_sequence<int, W>{});
}
template <int W, int unit, int group, class Real>
[[gnu::always_inline]] inline Real take_odd(Real a, Real b) {
  return take_alternate<W, unit, group, 1>(a, b, std::make_integer_sequence<int, W>{});
}

template <class T>
constexpr int kLanesOfPart = 16 / static_cast<int>(sizeof(T));

// Of group / unit vectors, `stride` apart: unit j of vector i and unit i of vector j, in each group, change places.
template <int W, int unit, int group, int stride, class Real>
[[gnu::always_inline]] inline void transpose_units(Real* vectors) {
  constexpr int count = group / unit;
#pragma GCC unroll 4
  for (int round = 1; round < count; round *= 2) {
    Real taken[count];
#pragma GCC unroll 8
    for (int i = 0; i < count / 2; ++i) {
      const Real a = vectors[2 * i * stride], b = vectors[(2 * i + 1) * stride];
      taken[i] = take_even<W, unit, group>(a, b);
      taken[i + count / 2] = take_odd<W, unit, group>(a, b);
    }
#pragma GCC unroll 16
    for (int i = 0; i < count; ++i) vectors[i * stride] = taken[i];
  }
}

// Lane j of vector i and lane i of vector j change places.
template <class T, int W>
[[gnu::always_inline]] inline void transpose(typename Pack<T, W>::Real (&vectors)[W]) {
  constexpr int part = kLanesOfPart<T>;
#pragma GCC unroll 8
  for (int i = 0; i < W; i += part) transpose_units<W, 1, part, 1>(vectors + i);
  if constexpr (W > part) {
#pragma GCC unroll 4
    for (int i = 0; i < part; ++i) transpose_units<W, part, W, part>(vectors + i);
  }
}

// Of group / unit vectors, `stride` apart: unit j of the first becomes, in each group, the sum of vector j's units.
template <int W, int unit, int group, int stride, class Real>
[[gnu::always_inline]] inline void sum_units(Real* vectors) {
#pragma GCC unroll 4
  for (int count = group / unit / 2; count >= 1; count /= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < count; ++i) {
      const Real a = vectors[2 * i * stride], b = vectors[(2 * i + 1) * stride];
      vectors[i * stride] = take_even<W, unit, group>(a, b) + take_odd<W, unit, group>(a, b);
    }
  }
}

// Lane j of the result is the sum over the lanes of vector j.
template <class T, int W>
[[gnu::always_inline]] inline typename Pack<T, W>::Real sums_of_lanes(typename Pack<T, W>::Real (&vectors)[W]) {
  constexpr int part = kLanesOfPart<T>;
#pragma GCC unroll 8
  for (int i = 0; i < W; i += part) sum_units<W, 1, part, 1>(vectors + i);
  if constexpr (W > part) sum_units<W, part, W, part>(vectors);
  return vectors[0];
}

// Every lane with the lane `distance` from it, a power of two, added.
template <int distance, class Real, int... lane>
[[gnu::always_inline]] inline Real add_lanes_at(Real lanes, std::integer_sequence<int, lane...>) {
  return lanes + __builtin_shufflevector(lanes, lanes, (lane ^ distance)...);
}

// The sum over the lanes of one vector, in the order of sums_of_lanes.
template <class T, int W>
[[gnu::always_inline]] inline T sum_of_lanes(typename Pack<T, W>::Real lanes) {
  constexpr auto all = std::make_integer_sequence<int, W>{};
  lanes = add_lanes_at<1>(lanes, all);
  if constexpr (W > 2) lanes = add_lanes_at<2>(lanes, all);
  if constexpr (W > 4) lanes = add_lanes_at<4>(lanes, all);
  if constexpr (W > 8) lanes = add_lanes_at<8>(lanes, all);
  return lanes[0];
}

template <class Real>
[[gnu::always_inline]] inline Real larger(Real candidate, Real than) {
  return candidate > than ? candidate : than;
}

// The largest lane that is a number.
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
