// What the kernels of this room share: the rows of a problem, the keys that take part, sums over a warp.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>

#include "attention/views.hpp"

namespace metafast::attention {
namespace {

constexpr int kWarpSize = 32;
constexpr unsigned kWholeWarp = 0xffffffffu;

// Four neighbouring columns.
template <class T>
struct alignas(16) Four {
  T x, y, z, w;
};

template <class T>
__device__ __forceinline__ const Four<T>& four_of(const T* columns) {
  return *reinterpret_cast<const Four<T>*>(columns);
}

// The first row of a problem.
template <class T>
__device__ __forceinline__ T* rows_of(const View<T>& view, const Extents& extents, std::int64_t problem) {
  return view.data + problem / extents.heads * view.batch_stride + problem % extents.heads * view.head_stride;
}

__device__ __forceinline__ std::int64_t problems_of(const Extents& extents) { return extents.batch * extents.heads; }

// Beyond the last key that may take part.
__device__ __forceinline__ std::int64_t end_of_keys(const KeySelection& selection, const Extents& extents,
                                                    std::int64_t batch) {
  if (selection.lengths == nullptr) return extents.keys;
  const std::int64_t length = selection.lengths[batch];
  return length < 0 ? 0 : length > extents.keys ? extents.keys : length;
}

__device__ __forceinline__ bool takes_part(const KeySelection& selection, std::int64_t batch, std::int64_t key) {
  return selection.mask == nullptr || selection.mask[batch * selection.mask_stride + key] != 0;
}

template <class T>
__device__ __forceinline__ T sum_of_warp(T value) {
#pragma unroll
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(kWholeWarp, value, offset);
  return value;
}

// The blocks of a kernel in one row.
inline dim3 row_of_blocks(std::int64_t count) {
  if (count > 0x7fffffff) throw std::length_error("attention over more problems than a CUDA grid has blocks for");
  return dim3(static_cast<unsigned>(count));
}

constexpr std::int64_t tiles_of(std::int64_t count, std::int64_t tile) { return (count + tile - 1) / tile; }

}  // namespace
}  // namespace metafast::attention
