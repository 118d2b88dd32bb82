// Softmax of a row in place.
#pragma once

#include "attention/lane_sums.hpp"
#include "common/vector_math.hpp"

namespace metafast::attention {
namespace {

// row = softmax(factor * row). The row has room for whole vectors; what lies beyond `count` becomes 0. A NaN among the
// scores makes the row NaN, as does an infinite one.
template <class T>
void softmax(T* row, std::int64_t count, T factor) {
  constexpr int W = kLanes<T>;
  using P = Pack<T, W>;
  using Real = typename P::Real;
  const std::int64_t whole = (count + W - 1) / W * W;
  for (std::int64_t index = 0; index < count; ++index) row[index] *= factor;
  for (std::int64_t index = count; index < whole; ++index) row[index] = -T(__builtin_inf());
  Real largest = P::fill(-T(__builtin_inf()));
  for (std::int64_t index = 0; index < whole; index += W) {
    const Real lanes = P::load(row + index);
    largest = lanes > largest ? lanes : largest;
  }
  T lanes[W];
  P::store(lanes, largest);
  T most = lanes[0];
  for (int lane = 1; lane < W; ++lane) most = lanes[lane] > most ? lanes[lane] : most;
  for (std::int64_t index = 0; index < whole; ++index) row[index] = vector_exp(row[index] - most);
  Real sum{};
  for (std::int64_t index = 0; index < whole; index += W) sum += P::load(row + index);
  const T inverse = T(1) / sum_lanes<T, W>(sum);
  for (std::int64_t index = 0; index < whole; ++index) row[index] *= inverse;
}

}  // namespace
}  // namespace metafast::attention
