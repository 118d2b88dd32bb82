// Takes the place of csrc/common/reciprocal.cuh: as wrong as the card's may be, rounded to the farther of the two
// numbers around the exact one.
#pragma once

#include <cuda_runtime.h>

namespace metafast {

inline float reciprocal_estimate(float x) {
  const double exact = 1 / static_cast<double>(x);
  const float nearest = static_cast<float>(exact);
  if (nearest == exact || !(std::fabs(exact) < 0x1p127)) return nearest;  // a power of two; infinity or NaN
  const bool outward = std::fabs(nearest) < std::fabs(exact);
  return __uint_as_float(__float_as_uint(nearest) + (outward ? 1u : ~0u));
}

}  // namespace metafast
