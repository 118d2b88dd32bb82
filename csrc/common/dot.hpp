// The dot product of two rows.
// For kernel files only.
#pragma once

#include <cstdint>

#include "common/transpose.hpp"

namespace metafast {
namespace {

// Lane by lane with multiply-adds, then across the lanes, then what fills no vector.
template <class T>
[[gnu::always_inline]] inline T dot(const T* a, const T* b, std::int64_t count) {
  constexpr int W = kLanes<T>;
  using P = Pack<T, W>;
  typename P::Real sums{};
  std::int64_t i = 0;
  for (; i + W <= count; i += W) sums = P::multiply_add(P::load(a + i), P::load(b + i), sums);
  T sum = sum_of_lanes<T, W>(sums);
  for (; i < count; ++i) sum = Pack<T, 1>::multiply_add(a[i], b[i], sum);
  return sum;
}

}  // namespace
}  // namespace metafast
