// The matrix products around a softmax, in which keys that take no part are not read: whatever they hold, NaN included,
// stays there. In the full precision of their type, whatever torch's own products are set to.
#pragma once

#include "attention/device_rows.cuh"
#include "common/device.hpp"

namespace metafast::attention {

// out[query] = sum_key weights[query, key] rows[key] or, transposed, out[key] = sum_query weights[query, key]
// rows[query]; and a second product added to it, where there is one. Zeros for keys that take no part.
template <class T>
struct WeightedRows {
  Extents extents;
  KeySelection selection;
  View<const T> weights, rows;
  View<const T> more_weights, more_rows;  // optional
  T* out = nullptr;                       // [problems, queries or keys], `out_stride` apart
  std::int64_t out_stride = 0;
  std::int64_t columns = 0;
  bool transposed = false;
};

template <class T>
void add_weighted_rows(const WeightedRows<T>&, const Stream&);

// out[query, key] = first[query] . second[key]; zeros for keys that take no part.
template <class T>
struct RowProducts {
  Extents extents;
  KeySelection selection;
  View<const T> first, second;
  std::int64_t columns = 0;
  T* out = nullptr;  // [problems, queries, keys]
};

template <class T>
void multiply_rows(const RowProducts<T>&, const Stream&);

namespace {

// Adds four rows of up to 128 columns, weighted, to sums [rows, 2 groups of 64 columns, 4 of each].
template <int each, class T>
__device__ __forceinline__ void add_rows(T (&sums)[each][2][4], const Four<T> (&weights)[each], const T* rows,
                                         int stride, bool both) {
#pragma unroll
  for (int c = 0; c < 2; ++c) {
    if (c == 1 && !both) return;
#pragma unroll
    for (int index = 0; index < 4; ++index) {
      const Four<T> row = four_of(rows + index * stride + 64 * c);
#pragma unroll
      for (int i = 0; i < each; ++i) {
        const T weight = index == 0   ? weights[i].x
                         : index == 1 ? weights[i].y
                         : index == 2 ? weights[i].z
                                      : weights[i].w;
        sums[i][c][0] += weight * row.x;
        sums[i][c][1] += weight * row.y;
        sums[i][c][2] += weight * row.z;
        sums[i][c][3] += weight * row.w;
      }
    }
  }
}

}  // namespace
}  // namespace metafast::attention
