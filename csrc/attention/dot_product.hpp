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
  // What the gradient needs of each query [.., queries, 2]: its largest score, as Scaling of
  // dot_product_forward.hpp has it, and 1 / (the sum of the exponentials less that). Optional.
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

// a b + c of numbers that are not negative, or the largest number where that has too many bits.
static inline std::int64_t bounded_multiply_add(std::int64_t a, std::int64_t b, std::int64_t c) {
  std::int64_t result;
  if (__builtin_mul_overflow(a, b, &result) || __builtin_add_overflow(result, c, &result)) return INT64_MAX;
  return result;
}

static inline Cut whole_problems(const Extents& extents) {
  // One more of each: rows are filled and keys looked at even where there is nothing to multiply.
  const std::int64_t pairs = bounded_multiply_add(extents.queries + 1, extents.keys + 1, 0);
  const std::int64_t products = bounded_multiply_add(pairs, extents.width + extents.value_width + 1, 0);
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

static inline std::int64_t padded(std::int64_t elements) {
  return (elements + kMostLanes - 1) / kMostLanes * kMostLanes;
}

// INT64_MAX where the number has too many bits.
static inline std::int64_t scratch_elements(const Extents& extents) {
  const std::int64_t rows = cut(extents).rows_per_slice;
  // Largest scores and sums, scores, packed keys, gathered values, scaled queries.
  const std::int64_t least = padded(rows) + rows * kMostLanes + kBlockRows * kTileKeys;
  const std::int64_t with_keys = bounded_multiply_add(kTileKeys, padded(extents.width), least);
  const std::int64_t with_values = bounded_multiply_add(kTileKeys, padded(extents.value_width), with_keys);
  return bounded_multiply_add(padded(rows), extents.width, with_values);
}

static inline std::int64_t gradient_scratch_elements(const Extents& extents) {
  // Sums of weight times gradient, the weights and the gradients of the scores of a block, keys and values packed and
  // gathered, the gradients of both, scaled queries.
  const std::int64_t least = padded(extents.queries) + 2 * kBlockRows * kTileKeys;
  const std::int64_t with_keys = bounded_multiply_add(3 * kTileKeys, padded(extents.width), least);
  const std::int64_t with_values = bounded_multiply_add(3 * kTileKeys, padded(extents.value_width), with_keys);
  return bounded_multiply_add(padded(kBlockRows), extents.width, with_values);
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
