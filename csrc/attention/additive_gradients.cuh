// One traversal for the backward and the double backward pass: sums over queries, over keys and over both of what every
// query, key and column give, with nothing of their product held.
//
// A thread has one column and 16 keys of a problem, in registers; its block's 8 warps have other keys and the same 32
// columns. All go through the queries together, 16 at a time: what a query gets from a thread's keys is one number,
// which the warps add up in shared memory. Nobody else has these columns, so that the sums of a query over more keys
// than a block has are added in place, in order. Where problems and columns make too few blocks, the queries are cut
// into parts, whose sums of keys a second kernel adds up, in order.
#pragma once

#include "attention/additive_prepare.cuh"
#include "common/reciprocal.cuh"

namespace metafast::attention {
namespace {

constexpr int kSumThreads = 256;
constexpr int kSumWarps = kSumThreads / kWarpSize;
constexpr int kSumQueries = 16;                      // that lie in shared memory together
template <class T>
constexpr int kThreadKeys = sizeof(T) == sizeof(float) ? 16 : 8;
template <class T>
constexpr int kSumKeys = kSumWarps * kThreadKeys<T>;  // of a block at a time

// tanh from what prepare_keys and prepare_queries made of a query and a key.
// A saturated one is 1 itself: to the one side 1 - 0, to the other 1 - 1 / (1/2).
struct TanhOfProducts {
  static __device__ __forceinline__ float of(float query, float key) {
    return 1.0f - reciprocal_estimate(fmaf(query, key, 0.5f));
  }
};

struct TanhOfSum {
  template <class T>
  static __device__ __forceinline__ T of(T query, T key) {
    return vector_tanh(query + key);
  }
};

// What an element gives: to its query and key alike, and to the score weight of its column.
template <class T>
struct Shares {
  T both, weight;
};

// ds sech^2 and ds tanh; the first is multiplied with w at last.
template <class T>
struct FirstOrder {
  static constexpr bool kSecond = false;
  __device__ __forceinline__ static Shares<T> of(T tanh, T score, T, T, T, T) {
    const T product = score * tanh;
    return {score - product * tanh, product};
  }
};

// See additive_double_backward.hpp. `cotangents`: of query plus key.
template <class T>
struct SecondOrder {
  static constexpr bool kSecond = true;
  __device__ __forceinline__ static Shares<T> of(T tanh, T score, T second, T cotangents, T weight,
                                                 T weight_cotangent) {
    const T slope = T(1) - tanh * tanh;
    const T both_score = score * cotangents;
    const T bent = second - (tanh + tanh) * both_score;
    return {slope * (weight * bent + score * weight_cotangent), slope * both_score + second * tanh};
  }
};

template <class T, bool second>
struct alignas(16) SumMemory {
  T scores[kSumQueries][kSumKeys<T>];
  T seconds[second ? kSumQueries : 1][kSumKeys<T>];
  T queries[kSumQueries][kWarpSize];
  T cotangents[second ? kSumQueries : 1][kWarpSize];
  T parts[kSumWarps][kSumQueries][kWarpSize];
};

template <class T>
struct SumArguments {
  DeviceAdditiveBackward<T> backward;
  View<const T> query_cotangent, key_cotangent, score_weight_cotangent;
  const T* seconds = nullptr;  // b
};

template <class Tanh, class Order, class T>
__device__ void sum_shares(const SumArguments<T>& arguments, SumMemory<T, Order::kSecond>& memory, std::int64_t problem,
                           std::int64_t chunk, std::int64_t split) {
  constexpr int keys_of_thread = kThreadKeys<T>;
  const DeviceAdditiveBackward<T>& backward = arguments.backward;
  const Extents& extents = backward.extents;
  const std::int64_t batch = problem / extents.heads, head = problem % extents.heads;
  const std::int64_t padded = padded_columns(extents.width);
  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  const std::int64_t h = chunk * kWarpSize + lane;
  const bool inside = h < extents.width;
  const std::int64_t end = end_of_keys(backward.selection, extents, batch);
  const std::int64_t part = tiles_of(tiles_of(extents.queries, backward.splits), kSumQueries) * kSumQueries;
  const std::int64_t begin_query = split * part < extents.queries ? split * part : extents.queries;
  const std::int64_t end_query = begin_query + part < extents.queries ? begin_query + part : extents.queries;
  const T weight = inside ? backward.score_weight.data[head * backward.score_weight.head_stride + h] : T(0);
  const T weight_cotangent =
      Order::kSecond && inside && arguments.score_weight_cotangent.data != nullptr
          ? arguments.score_weight_cotangent.data[head * arguments.score_weight_cotangent.head_stride + h]
          : T(0);
  const T factor = Order::kSecond ? T(1) : weight;
  T* const key_sums = backward.splits == 1
                          ? backward.key_gradient
                          : backward.key_sums + split * problems_of(extents) * extents.keys * extents.width;
  T weight_sum = 0;
  // At least once, so that gradients without any key are written too.
  std::int64_t begin = 0;
  do {
    const std::int64_t first = begin + warp * keys_of_thread;
    bool busy = false;
    T key[keys_of_thread], key_cotangent[Order::kSecond ? keys_of_thread : 1], key_sum[keys_of_thread];
#pragma unroll
    for (int j = 0; j < keys_of_thread; ++j) {
      const bool active = inside && first + j < end && takes_part(backward.selection, batch, first + j);
      key[j] = active ? backward.keys.rows[(problem * extents.keys + first + j) * padded + h] : T(0);
      key_sum[j] = 0;
      busy = busy || active;
      if constexpr (Order::kSecond)
        key_cotangent[j] =
            active && arguments.key_cotangent.data != nullptr
                ? rows_of(arguments.key_cotangent, extents,
                          problem)[(first + j) * arguments.key_cotangent.row_stride + h]
                : T(0);
    }
    for (std::int64_t query = begin_query; query < end_query; query += kSumQueries) {
      const int queries = end_query - query < kSumQueries ? static_cast<int>(end_query - query) : kSumQueries;
      __syncthreads();
      for (int index = threadIdx.x; index < kSumQueries * kWarpSize; index += kSumThreads) {
        const int row = index / kWarpSize;  // of this thread's own column
        memory.queries[row][lane] = row < queries && inside
                                        ? backward.query_rows[(problem * extents.queries + query + row) * padded + h]
                                        : T(0);
        if constexpr (Order::kSecond)
          memory.cotangents[row][lane] =
              row < queries && inside && arguments.query_cotangent.data != nullptr
                  ? rows_of(arguments.query_cotangent, extents,
                            problem)[(query + row) * arguments.query_cotangent.row_stride + h]
                  : T(0);
      }
      for (int index = threadIdx.x; index < kSumQueries * kSumKeys<T>; index += kSumThreads) {
        const int row = index / kSumKeys<T>, column = index % kSumKeys<T>;
        const bool known = row < queries && begin + column < end;
        const std::int64_t at = (problem * extents.queries + query + row) * extents.keys + begin + column;
        memory.scores[row][column] = known ? backward.scores[at] : T(0);
        if constexpr (Order::kSecond) memory.seconds[row][column] = known ? arguments.seconds[at] : T(0);
      }
      __syncthreads();
#pragma unroll 1
      for (int row = 0; row < queries; ++row) {
        T query_sum = 0, products = 0;
        if (busy) {
          const T own = memory.queries[row][lane];
          const T cotangent = Order::kSecond ? memory.cotangents[row][lane] : T(0);
#pragma unroll
          for (int j = 0; j < keys_of_thread; j += 4) {
            const Four<T> score = four_of(&memory.scores[row][warp * keys_of_thread + j]);
            const Four<T> second =
                Order::kSecond ? four_of(&memory.seconds[row][warp * keys_of_thread + j]) : Four<T>{};
#pragma unroll
            for (int of_four = 0; of_four < 4; ++of_four) {
              const T one_score = of_four == 0 ? score.x : of_four == 1 ? score.y : of_four == 2 ? score.z : score.w;
              const T one_second = of_four == 0   ? second.x
                                   : of_four == 1 ? second.y
                                   : of_four == 2 ? second.z
                                                  : second.w;
              const T both = Order::kSecond ? cotangent + key_cotangent[Order::kSecond ? j + of_four : 0] : T(0);
              const Shares<T> shares = Order::of(Tanh::of(own, key[j + of_four]), one_score, one_second, both, weight,
                                                 weight_cotangent);
              products += shares.weight;
              query_sum += shares.both;
              key_sum[j + of_four] += shares.both;
            }
          }
        }
        weight_sum += products;
        memory.parts[warp][row][lane] = query_sum;
      }
      __syncthreads();
      for (int row = warp; row < queries; row += kSumWarps) {
        if (!inside) break;
        T sum = 0;
#pragma unroll
        for (int other = 0; other < kSumWarps; ++other) sum += memory.parts[other][row][lane];
        T& gradient = backward.query_gradient[(problem * extents.queries + query + row) * extents.width + h];
        if (begin > 0) sum += gradient;
        gradient = begin + kSumKeys<T> < end ? sum : sum * factor;
      }
    }
    if (inside)
#pragma unroll
      for (int j = 0; j < keys_of_thread; ++j) {
        if (first + j >= extents.keys) break;
        const bool active = first + j < end && takes_part(backward.selection, batch, first + j);
        key_sums[(problem * extents.keys + first + j) * extents.width + h] =
            !active ? T(0) : backward.splits == 1 ? key_sum[j] * factor : key_sum[j];
      }
    begin += kSumKeys<T>;
  } while (begin < end);
  // Keys beyond the last block of keys.
  if (inside)
    for (std::int64_t index = begin + warp; index < extents.keys; index += kSumWarps)
      key_sums[(problem * extents.keys + index) * extents.width + h] = T(0);
  __syncthreads();
  memory.parts[warp][0][lane] = weight_sum;
  __syncthreads();
  if (warp != 0 || h >= padded) return;
  T sum = 0;
#pragma unroll
  for (int other = 0; other < kSumWarps; ++other) sum += memory.parts[other][0][lane];
  backward.weight_sums[(split * problems_of(extents) + problem) * padded + h] = sum;
}

}  // namespace
}  // namespace metafast::attention
