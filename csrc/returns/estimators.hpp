// The arguments of each return estimator, and the kernel table of the room. Views are checked by the caller.
#pragma once

#include <cstdint>

#include "common/isa.hpp"
#include "common/view.hpp"

namespace metafast::returns {

template <class T>
struct Gae {
  SequenceExtents extents;
  SequenceView<const T> rewards;
  SequenceView<const T> values;
  // The values of the true successors; or, where `bootstrapped`, one row: those after the last step.
  SequenceView<const T> next_values;
  bool bootstrapped = false;
  SequenceView<const std::uint8_t> terminated;
  SequenceView<const std::uint8_t> truncated;  // optional
  SequenceView<const T> final_values;          // optional; read where truncated, in the bootstrapped form
  SequenceView<const std::uint8_t> mask;       // optional; 0 skips a step and carries the recurrence through
  Coefficient<T> gamma;
  Coefficient<T> lam;
  SequenceView<T> advantages;
  SequenceView<T> returns;
};

template <class T>
struct DiscountedReturns {
  SequenceExtents extents;
  SequenceView<const T> rewards;
  SequenceView<const std::uint8_t> terminated;
  SequenceView<const std::uint8_t> truncated;  // optional
  SequenceView<const T> bootstrap;             // optional; one row, 0 where absent
  SequenceView<const T> final_values;          // optional; 0 where absent
  Coefficient<T> gamma;
  SequenceView<T> returns;
};

// The recurrence itself, A_t = offset_t + decay_t A_{t+1} with nothing after the last step. With negative time
// strides it runs forwards in time, which is the adjoint of every estimator.
template <class T>
struct AffineScan {
  SequenceExtents extents;
  SequenceView<const T> offsets;
  SequenceView<const T> decays;
  SequenceView<T> result;
};

// Work is cut by its extents alone, so that a result does not depend on the number of threads: slices of whole
// outer indices where those are small, of columns of one outer index where they are large.
struct Cut {
  std::int64_t outers_per_slice;
  std::int64_t columns_per_slice;
  std::int64_t column_slices;
  std::int64_t num_slices;
};

constexpr std::int64_t kMaxColumns = 2048;
constexpr std::int64_t kSliceElements = 1 << 16;

// Wide slices stream best from memory; what fits the caches is cut finer, so that there is something to share.
static inline Cut cut(const SequenceExtents& extents) {
  const std::int64_t outer_elements = extents.time * extents.inner;
  const bool large = outer_elements > kSliceElements;
  Cut cut;
  cut.outers_per_slice = large ? 1 : kSliceElements / (outer_elements > 0 ? outer_elements : 1);
  cut.columns_per_slice = !large ? extents.inner : outer_elements < 16 * kSliceElements ? kMaxColumns / 4 : kMaxColumns;
  cut.column_slices = large ? (extents.inner + cut.columns_per_slice - 1) / cut.columns_per_slice : 1;
  cut.num_slices = (extents.outer + cut.outers_per_slice - 1) / cut.outers_per_slice * cut.column_slices;
  return cut;
}

struct Kernels {
  // Solve one slice of the Cut of the arguments' extents. `stream`: write the results past the caches.
  void (*gae_float)(const Gae<float>&, std::int64_t slice, bool stream);
  void (*gae_double)(const Gae<double>&, std::int64_t slice, bool stream);
  void (*discounted_returns_float)(const DiscountedReturns<float>&, std::int64_t slice, bool stream);
  void (*discounted_returns_double)(const DiscountedReturns<double>&, std::int64_t slice, bool stream);
  void (*affine_scan_float)(const AffineScan<float>&, std::int64_t slice, bool stream);
  void (*affine_scan_double)(const AffineScan<double>&, std::int64_t slice, bool stream);
};

}  // namespace metafast::returns

namespace metafast {
METAFAST_DISPATCH(returns::Kernels, returns_kernels)
}
