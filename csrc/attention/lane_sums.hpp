// Sums over the lanes of vectors, in one fixed order.
#pragma once

#include <utility>

#include "common/lanes.hpp"

namespace metafast::attention {
namespace {

// Elements that lie in one 128-bit part of a vector, within which shuffles are cheapest.
template <class T>
constexpr int kPart = 16 / static_cast<int>(sizeof(T));

// Shuffles of two vectors, by the lane that each lane of the result is taken from (W and more: the second vector).
template <class T, int W, bool high>
struct InterleaveLanes {  // a0 b0 a1 b1 | ... of the low or the high half of every part
  static constexpr int at(int lane) {
    const int part = lane / kPart<T> * kPart<T>, place = lane % kPart<T>;
    return part + place / 2 + (high ? kPart<T> / 2 : 0) + (place % 2 ? W : 0);
  }
};
template <class T, int W, bool high>
struct InterleavePairs {  // a0 a1 b0 b1 | ... of parts of four
  static constexpr int at(int lane) {
    const int part = lane / 4 * 4, place = lane % 4;
    return part + place % 2 + (high ? 2 : 0) + (place / 2 ? W : 0);
  }
};
template <class T, int W, bool high>
struct JoinHalves {  // the low or the high halves of both vectors
  static constexpr int at(int lane) { return lane % (W / 2) + (high ? W / 2 : 0) + (lane / (W / 2) ? W : 0); }
};
template <class T, int W, bool high>
struct JoinParts {  // of four parts each: the first and third, or the second and fourth, of both vectors
  static constexpr int at(int lane) {
    const int part = lane / kPart<T>, place = lane % kPart<T>;
    return (part % 2 * 2 + (high ? 1 : 0)) * kPart<T> + place + (part / 2 ? W : 0);
  }
};

template <class Lanes, class Real, int... lane>
[[gnu::always_inline]] inline Real shuffle(Real a, Real b, std::integer_sequence<int, lane...>) {
  return __builtin_shufflevector(a, b, Lanes::at(lane)...);
}

template <class T, int W, template <class, int, bool> class Lanes, class Real>
[[gnu::always_inline]] inline Real fold(Real a, Real b) {
  using All = std::make_integer_sequence<int, W>;
  return shuffle<Lanes<T, W, false>>(a, b, All{}) + shuffle<Lanes<T, W, true>>(a, b, All{});
}

template <class T, int W, template <class, int, bool> class Lanes, class Real>
[[gnu::always_inline]] inline void fold_neighbours(Real* vectors, int count) {
#pragma GCC unroll 16
  for (int index = 0; index < count / 2; ++index) vectors[index] = fold<T, W, Lanes>(vectors[2 * index], vectors[2 * index + 1]);
}

// Lane j of the result is the sum of the lanes of vectors[j], for as many vectors as there are lanes.
template <class T, int W>
[[gnu::always_inline]] inline typename Pack<T, W>::Real sum_lanes_of_each(typename Pack<T, W>::Real (&vectors)[W]) {
  if constexpr (W == 1) {
    return vectors[0];
  } else {
    fold_neighbours<T, W, InterleaveLanes>(vectors, W);
    if constexpr (kPart<T> == 4) fold_neighbours<T, W, InterleavePairs>(vectors, W / 2);
    constexpr int parts = W / kPart<T>;
    if constexpr (parts == 4) {
      fold_neighbours<T, W, JoinHalves>(vectors, 4);
      return fold<T, W, JoinParts>(vectors[0], vectors[1]);
    } else if constexpr (parts == 2) {
      return fold<T, W, JoinHalves>(vectors[0], vectors[1]);
    } else {
      return vectors[0];
    }
  }
}

template <class T, int W>
[[gnu::always_inline]] inline T sum_lanes(typename Pack<T, W>::Real vector) {
  T lanes[W];
  Pack<T, W>::store(lanes, vector);
#pragma GCC unroll 4
  for (int half = W / 2; half > 0; half /= 2)
    for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  return lanes[0];
}

}  // namespace
}  // namespace metafast::attention
