// Dot-product attention, softmax(scale Q K^T) V, and its gradient: the arguments, how the work is cut, the scratch
// memory that a slice needs, and the kernel table. Views are checked by the caller.
#pragma once

#include <cstdint>

#include "attention/views.hpp"
#include "common/isa.hpp"

namespace metafast::attention {

// Keys are taken in tiles of this many, queries of a slice in blocks of this many rows: a block of scores stays in
// the first cache, a tile of keys and values in the second.
constexpr std::int64_t kTileKeys = 128;
constexpr std::int64_t kBlockRows = 24;

template <class T>
struct DotProduct {
  Extents extents;
  View<const T> query;
  View<const T> key;
  View<const T> value;
  KeySelection selection;
  bool causal = false;  // query i sees the keys up to i
  T scale = T(1);
  View<T> context;
  // What the gradient needs of each query [.., queries, 2]: its largest score times log2(e), and 1 / (the sum of
  // 2^(score log2(e) - largest)). Optional.
  View<T> statistics;
  View<T> weights;  // [.., queries, keys], optional
};

template <class T>
struct DotProductGradient {
  Extents extents;
  View<const T> query;
  View<const T> key;
  View<const T> value;
  KeySelection selection;
  bool causal = false;
  T scale = T(1);
  View<const T> context;
  View<const T> statistics;
  View<const T> weights;                // where weights_gradient is given
  View<const T> context_gradient;
  View<const T> weights_gradient;       // optional
  View<T> query_gradient;
  View<T> key_gradient;
  View<T> value_gradient;
};

// Work is cut by its extents alone, so that a result does not depend on the number of threads: blocks of queries of
// one problem, or several whole problems where they are small.
struct Cut {
  std::int64_t rows_per_slice;
  std::int64_t slices_per_problem;
  std::int64_t problems_per_slice;
  std::int64_t num_slices;
};

constexpr std::int64_t kSliceProducts = 1 << 20;

static inline Cut whole_problems(const Extents& extents) {
  const std::int64_t products = extents.queries * extents.keys * (extents.width + extents.value_width) + 1;
  const std::int64_t problems = products < kSliceProducts ? kSliceProducts / products : 1;
  return {extents.queries, 1, problems, (extents.problems() + problems - 1) / problems};
}

// A slice packs the keys for itself, so it has many rows where there are problems enough to share out.
static inline Cut cut(const Extents& extents) {
  constexpr std::int64_t least = 2 * kBlockRows, most = 10 * kBlockRows;
  std::int64_t rows = extents.problems() * extents.queries / 64 / kBlockRows * kBlockRows;
  rows = rows < least ? least : rows > most ? most : rows;
  if (extents.queries <= rows) return whole_problems(extents);
  const std::int64_t slices = (extents.queries + rows - 1) / rows;
  return {rows, slices, 1, extents.problems() * slices};
}

// The gradients of keys and values are sums over all queries, in one order: a slice is at least a whole problem.
static inline Cut cut_gradient(const Extents& extents) { return whole_problems(extents); }

// Scratch memory of one slice in elements, each part of it on a boundary of kScratchAlignment bytes.
constexpr std::int64_t kScratchAlignment = 64;

constexpr std::int64_t kMostLanes = 16;  // of a vector, at any level

static inline std::int64_t padded(std::int64_t elements) { return (elements + kMostLanes - 1) / kMostLanes * kMostLanes; }


static inline std::int64_t scratch_elements(const Extents& extents) {
  const std::int64_t rows = cut(extents).rows_per_slice;
  // Scaled queries, largest scores and sums, packed keys, gathered values, scores.
  return padded(rows * extents.width) + padded(rows) + rows * kMostLanes + kTileKeys * padded(extents.width) +
         kTileKeys * padded(extents.value_width) + kBlockRows * kTileKeys;
}

static inline std::int64_t gradient_scratch_elements(const Extents& extents) {
  // Scaled queries, sums of weight times gradient, keys and values packed and gathered, the gradients of both, the
  // weights and the gradients of the scores of a block.
  return padded(kBlockRows * extents.width) + padded(extents.queries) +
         3 * kTileKeys * (padded(extents.width) + padded(extents.value_width)) + 2 * kBlockRows * kTileKeys;
}

struct DotProductKernels {
  // Solve one slice of cut(extents), or of cut_gradient(extents); `scratch` holds as many elements as stated above.
  void (*forward_float)(const DotProduct<float>&, std::int64_t slice, float* scratch);
  void (*forward_double)(const DotProduct<double>&, std::int64_t slice, double* scratch);
  void (*backward_float)(const DotProductGradient<float>&, std::int64_t slice, float* scratch);
  void (*backward_double)(const DotProductGradient<double>&, std::int64_t slice, double* scratch);
};

}  // namespace metafast::attention

namespace metafast {
METAFAST_DISPATCH(attention::DotProductKernels, dot_product_kernels)
}
