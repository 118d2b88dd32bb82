// Tiles of sums over columns, of up to 64 rows with 64 others: scores in each of their forms, and plain products. 256
// threads keep up to 4 x 4 sums each in registers; a group of columns of both sides lies in shared memory.
#pragma once

#include <type_traits>

#include "attention/additive_prepare.cuh"
#include "common/reciprocal.cuh"

namespace metafast::attention {
namespace {

constexpr int kTile = 64;         // rows of either side
constexpr int kTileThreads = 256;
constexpr int kEach = 4;          // rows of either side that a thread has
constexpr int kGroups = kTile / kEach;
// Columns that lie in shared memory together.
template <class T>
constexpr int kColumns = sizeof(T) == sizeof(float) ? 32 : 16;
// With four columns more between rows, eight neighbouring rows are in different banks.
template <class T>
constexpr int kColumnStride = kColumns<T> + 4;

template <class T>
struct alignas(16) TileMemory {
  T first[kTile][kColumnStride<T>];
  T second[kTile][kColumnStride<T>];
  T weights[kColumns<T>];
};

// A thread's rows are group + 16 i; of the first side there may be fewer than 4. A warp has 4 groups of the first side
// and 8 of the second.
struct TilePlace {
  int first, second;

  __device__ TilePlace() {
    const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
    first = warp / 2 * 4 + lane / 8;
    second = warp % 2 * 8 + lane % 8;
  }
};

// Rows of a matrix; those beyond `count` count as zeros.
template <class T>
struct TileRows {
  const T* data;
  std::int64_t stride;
  std::int64_t count;
};

// The operations: `weights` of four columns, or of one, come with them.

struct Quads {
  static constexpr bool kByFours = true;
  static __device__ __forceinline__ void add(float& sum, const Four<float>& q, const Four<float>& k,
                                             const Four<float>& floors) {
    const float d1 = fmaf(q.x, k.x, floors.x), d2 = fmaf(q.y, k.y, floors.y);
    const float d3 = fmaf(q.z, k.z, floors.z), d4 = fmaf(q.w, k.w, floors.w);
    float numerator = d1 + d2, product = d1 * d2;
    numerator = fmaf(numerator, d3, product);
    product *= d3;
    numerator = fmaf(numerator, d4, product);
    product *= d4;
    sum = fmaf(numerator, reciprocal_estimate(product), sum);
  }
};

// With a Newton step for the quotient, because the weights may leave one column to decide the score, whose errors then
// have nothing to average out with.
struct Pairs {
  static constexpr bool kByFours = true;
  static __device__ __forceinline__ float add_quotient(float sum, float numerator, float denominator) {
    const float estimate = reciprocal_estimate(denominator), quotient = numerator * estimate;
    return sum + fmaf(fmaf(-denominator, quotient, numerator), estimate, quotient);
  }
  static __device__ __forceinline__ void add(float& sum, const Four<float>& q, const Four<float>& k,
                                             const Four<float>& weights) {
    constexpr float one = Range<float>::kScale;
    const float d1 = fmaf(q.x, k.x, one), d2 = fmaf(q.y, k.y, one);
    const float d3 = fmaf(q.z, k.z, one), d4 = fmaf(q.w, k.w, one);
    sum = add_quotient(sum, fmaf(weights.x, d2, weights.y * d1), d1 * d2);
    sum = add_quotient(sum, fmaf(weights.z, d4, weights.w * d3), d3 * d4);
  }
};

struct Direct {
  static constexpr bool kByFours = false;
  template <class T>
  static __device__ __forceinline__ void add(T& sum, T q, T k, T weight) {
    sum += weight * vector_tanh(q + k);
  }
};

struct Products {
  static constexpr bool kByFours = true;
  template <class T>
  static __device__ __forceinline__ void add(T& sum, const Four<T>& a, const Four<T>& b, const Four<T>&) {
    sum += a.x * b.x;
    sum += a.y * b.y;
    sum += a.z * b.z;
    sum += a.w * b.w;
  }
};

// Columns [begin, begin + kColumns) of `first_count` rows and of kTile others to shared memory. `by_fours`: rows and
// their ends are aligned so.
template <int first_count, bool by_fours, class T>
__device__ __forceinline__ void load_rows(T (&first_to)[kTile][kColumnStride<T>], const TileRows<T>& first,
                                          T (&second_to)[kTile][kColumnStride<T>], const TileRows<T>& second,
                                          std::int64_t begin, std::int64_t width) {
  using Unit = std::conditional_t<by_fours, Four<T>, T>;
  constexpr int step = by_fours ? 4 : 1, steps = kColumns<T> / step;
  const int column = threadIdx.x % steps * step;
  const bool inside = begin + column < width;
  // Both sides' loads are on their way together; more at once would take registers that the sums need.
#pragma unroll 1
  for (int row = threadIdx.x / steps; row < kTile; row += kTileThreads / steps) {
    Unit of_first{}, of_second{};
    if (row < first_count && row < first.count && inside)
      of_first = *reinterpret_cast<const Unit*>(first.data + row * first.stride + begin + column);
    if (row < second.count && inside)
      of_second = *reinterpret_cast<const Unit*>(second.data + row * second.stride + begin + column);
    if (row < first_count) *reinterpret_cast<Unit*>(&first_to[row][column]) = of_first;
    *reinterpret_cast<Unit*>(&second_to[row][column]) = of_second;
  }
}

// Adds to the sums [first rows, second rows] of a thread. `weigh(h)` gives what belongs to column h < width. The
// columns that are loaded together have sums of their own first, for shorter chains of roundings.
template <class Operation, bool by_fours, int each, class T, class Weigh>
__device__ __forceinline__ void add_tile(T (&sums)[each][kEach], const TileRows<T>& first, const TileRows<T>& second,
                                         std::int64_t width, TileMemory<T>& memory, const TilePlace& place,
                                         const Weigh& weigh) {
  for (std::int64_t begin = 0; begin < width; begin += kColumns<T>) {
    __syncthreads();
    load_rows<each * kGroups, by_fours>(memory.first, first, memory.second, second, begin, width);
    if (threadIdx.x < kColumns<T>)
      memory.weights[threadIdx.x] = begin + threadIdx.x < width ? weigh(begin + threadIdx.x) : T(0);
    __syncthreads();
    const int columns = width - begin < kColumns<T> ? static_cast<int>(width - begin) : kColumns<T>;
    T parts[each][kEach] = {};
    if constexpr (Operation::kByFours) {
#pragma unroll 1
      for (int column = 0; column < columns; column += 4) {
        const Four<T> weights = four_of(&memory.weights[column]);
        Four<T> b[kEach];
#pragma unroll
        for (int j = 0; j < kEach; ++j) b[j] = four_of(&memory.second[place.second + kGroups * j][column]);
#pragma unroll
        for (int i = 0; i < each; ++i) {
          const Four<T> a = four_of(&memory.first[place.first + kGroups * i][column]);
#pragma unroll
          for (int j = 0; j < kEach; ++j) Operation::add(parts[i][j], a, b[j], weights);
        }
      }
    } else {
#pragma unroll 1
      for (int column = 0; column < columns; ++column) {
        const T weight = memory.weights[column];
        T b[kEach];
#pragma unroll
        for (int j = 0; j < kEach; ++j) b[j] = memory.second[place.second + kGroups * j][column];
#pragma unroll
        for (int i = 0; i < each; ++i) {
          const T a = memory.first[place.first + kGroups * i][column];
#pragma unroll
          for (int j = 0; j < kEach; ++j) Operation::add(parts[i][j], a, b[j], weight);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < each; ++i)
#pragma unroll
      for (int j = 0; j < kEach; ++j) sums[i][j] += parts[i][j];
  }
}

}  // namespace
}  // namespace metafast::attention
