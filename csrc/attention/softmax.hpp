// Softmax of a row in place.
#pragma once

#include "common/transpose.hpp"
#include "common/vector_math.hpp"

namespace metafast::attention {
namespace {

// row = softmax(factor * row) for a factor below 0: the least of the row is the largest score, and is taken away before
// the factor, which might overflow. The row has room for whole vectors; what lies beyond `count` becomes 0. A NaN makes
// the row NaN.
template <class T>
void softmax(T* row, std::int64_t count, T factor) {
  constexpr int W = kLanes<T>;
  using P = Pack<T, W>;
  using Real = typename P::Real;
  const std::int64_t whole = (count + W - 1) / W * W;
  for (std::int64_t index = count; index < whole; ++index) row[index] = T(__builtin_inf());
  Real lanes = P::fill(-T(__builtin_inf()));
  for (std::int64_t index = 0; index < whole; index += W) lanes = larger(-P::load(row + index), lanes);
  const T least = -largest_lane<T, W>(lanes);
  for (std::int64_t index = 0; index < whole; ++index) row[index] = vector_exp(factor * (row[index] - least));
  Real sum{};
  for (std::int64_t index = 0; index < whole; index += W) sum += P::load(row + index);
  const T inverse = T(1) / sum_of_lanes<T, W>(sum);
  for (std::int64_t index = 0; index < whole; ++index) row[index] *= inverse;
}

}  // namespace
}  // namespace metafast::attention
