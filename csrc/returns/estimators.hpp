// How the work of the return estimators is cut, and the kernel table of the room.
#pragma once

#include <cstdint>

#include "common/isa.hpp"
#include "returns/problem.hpp"

namespace metafast::returns {

// Work is cut by its extents alone, so that a result does not depend on the number of threads: slices of whole
// outer indices where those are small, of columns of one outer index where they are large, of time where there are few
// columns and many steps.
struct Cut {
  std::int64_t outers_per_slice;
  std::int64_t columns_per_slice;
  std::int64_t column_slices;
  std::int64_t steps_per_slice;
  std::int64_t time_slices;
  std::int64_t num_slices;
};

constexpr std::int64_t kMaxColumns = 2048;
constexpr std::int64_t kSliceElements = 1 << 16;
constexpr std::int64_t kFewColumns = 8;
constexpr std::int64_t kFewOuters = 16;

// Wide slices stream best from memory; what fits the caches is cut finer, so that there is something to share.
static inline Cut cut(const SequenceExtents& extents) {
  const std::int64_t outer_elements = extents.time * extents.inner;
  const bool large = outer_elements > kSliceElements;
  Cut cut;
  cut.outers_per_slice = large ? 1 : kSliceElements / (outer_elements > 0 ? outer_elements : 1);
  cut.columns_per_slice = !large ? extents.inner : outer_elements < 16 * kSliceElements ? kMaxColumns / 4 : kMaxColumns;
  cut.column_slices = large ? (extents.inner + cut.columns_per_slice - 1) / cut.columns_per_slice : 1;
  const bool in_time = large && extents.inner <= kFewColumns && extents.outer < kFewOuters;
  cut.steps_per_slice = in_time ? kSliceElements / 2 / extents.inner / 64 * 64 : extents.time;
  cut.time_slices = in_time ? (extents.time + cut.steps_per_slice - 1) / cut.steps_per_slice : 1;
  cut.num_slices =
      (extents.outer + cut.outers_per_slice - 1) / cut.outers_per_slice * cut.column_slices * cut.time_slices;
  return cut;
}

template <class T>
struct NStepReturns {
  Problem<T> problem;
  std::int64_t n;
};

// Its work: a chunk is a few steps of a few columns, or the steps of several outer indices, and the n - 1 steps after
// them, held in scratch memory.
struct NStepCut {
  std::int64_t columns, column_tiles;
  std::int64_t steps, time_chunks;
  std::int64_t outers_per_chunk;
  std::int64_t num_chunks;
  std::int64_t scratch_elements;  // of each of kNStepScratchArrays
};

constexpr std::int64_t kNStepColumns = 64;
constexpr std::int64_t kNStepElements = 4096;
constexpr int kNStepScratchArrays = 3;

static inline NStepCut n_step_cut(const SequenceExtents& extents, std::int64_t n) {
  const auto chunks = [](std::int64_t size, std::int64_t of) { return (size + of - 1) / of; };
  const auto at_least = [](std::int64_t a, std::int64_t b) { return a < b ? b : a; };
  NStepCut cut;
  cut.columns = extents.inner < kNStepColumns ? extents.inner : kNStepColumns;
  cut.column_tiles = chunks(extents.inner, cut.columns);
  cut.steps = at_least(kNStepElements / cut.columns, n);
  cut.time_chunks = chunks(extents.time, cut.steps);
  const bool gather = cut.time_chunks == 1 && cut.column_tiles == 1;
  cut.outers_per_chunk = gather ? at_least(kNStepElements / (extents.time * cut.columns), 1) : 1;
  cut.num_chunks = chunks(extents.outer, cut.outers_per_chunk) * cut.column_tiles * cut.time_chunks;
  const std::int64_t loaded = cut.steps + n - 1 < extents.time ? cut.steps + n - 1 : extents.time;
  cut.scratch_elements = (cut.outers_per_chunk * loaded + n + 1) * cut.columns;
  return cut;
}

// Solves one slice of the Cut of the problem's extents. `stream`: write the results past the caches.
template <class T>
using Solve = void (*)(const Problem<T>&, std::int64_t slice, bool stream);

// The same kernel for both types.
struct Kernel {
  Solve<float> solve_float;
  Solve<double> solve_double;

  Solve<float> solve(float) const { return solve_float; }
  Solve<double> solve(double) const { return solve_double; }
};

struct Kernels {
  Kernel gae, discounted_returns, lambda_returns, vtrace, retrace, upgo, affine_scan;
  // One chunk of the NStepCut.
  void (*n_step_returns_float)(const NStepReturns<float>&, std::int64_t chunk, float* scratch);
  void (*n_step_returns_double)(const NStepReturns<double>&, std::int64_t chunk, double* scratch);
};

}  // namespace metafast::returns

namespace metafast {
METAFAST_DISPATCH(returns::Kernels, returns_kernels)
}
