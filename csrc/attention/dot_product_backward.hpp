// The gradient of dot-product attention. With weights P, scores S and context O = P V, and gradients dO (and dW, where
// somebody used the weights themselves):
//
//   dV = P^T dO,  dP = dO V^T + dW,  dS = P (dP - delta),  delta_i = sum over j of P_ij dP_ij = dO_i O_i + (P dW)_i,
//   dQ = scale dS K,  dK = scale dS^T Q
//
// (Dao et al., "FlashAttention", NeurIPS 2022, appendix B.2). P is computed again from the scores and the statistics
// that the forward kernel saved, one block of rows and tile of keys at a time. For kernel files only.
#pragma once

#include "attention/dot_product_forward.hpp"
#include "common/dot.hpp"

namespace metafast::attention {
namespace {

// Parts of the scratch memory of a slice.
template <class T>
struct BackwardScratch {
  T* queries;
  T* delta;
  T* packed_keys;
  T* keys;
  T* key_gradient;
  T* packed_values;
  T* value_gradient;
  T* weights;
  T* score_gradient;

  BackwardScratch(const Extents& extents, T* scratch) {
    const std::int64_t tile = kTileKeys * padded(extents.width), value_tile = kTileKeys * padded(extents.value_width);
    queries = scratch;
    delta = queries + padded(kBlockRows * extents.width);
    packed_keys = delta + padded(extents.queries);
    keys = packed_keys + tile;
    key_gradient = keys + tile;
    packed_values = key_gradient + tile;
    value_gradient = packed_values + value_tile;
    weights = value_gradient + value_tile;
    score_gradient = weights + kBlockRows * kTileKeys;
  }
};

// dO_i O_i of every query. Where one key has all the weight, O_i is its value: summed in the order in which dO V^T is,
// that of multiply of matrix.hpp or of score_row, so that the difference of both is exactly 0.
template <class T>
void sum_deltas(const DotProductGradient<T>& p, const T* context, const T* context_gradient, const T* statistics,
                T* delta) {
  const std::int64_t queries = p.extents.queries, value_width = p.extents.value_width;
  const std::int64_t stride = p.context.row_stride, gradient_stride = p.context_gradient.row_stride;
  for (std::int64_t row = 0; row < queries; ++row)
    delta[row] = dot(context_gradient + row * gradient_stride, context + row * stride, value_width);
  if (scores_by_rows(p.extents)) return;
  constexpr std::int64_t kTogether = 8;  // a sum waits for itself at every step: several rows fill the pipeline
  const auto one_key = [&](std::int64_t row) { return statistics[row * p.statistics.row_stride + 1] == T(1); };
  for (std::int64_t row = 0; row < queries;) {
    std::int64_t rows[kTogether];
    std::int64_t count = 0;
    for (; row < queries && count < kTogether; ++row)
      if (one_key(row)) rows[count++] = row;
    if (count == 0) return;
    for (std::int64_t i = count; i < kTogether; ++i) rows[i] = rows[0];
    T sums[kTogether] = {};
    for (std::int64_t step = 0; step < value_width; ++step)
#pragma GCC unroll 8
      for (int i = 0; i < kTogether; ++i)
        sums[i] = Pack<T, 1>::multiply_add(context_gradient[rows[i] * gradient_stride + step],
                                           context[rows[i] * stride + step], sums[i]);
    for (std::int64_t i = 0; i < count; ++i) delta[rows[i]] = sums[i];
  }
}

// Turns the scores of one query into weights and dO V^T into the gradient of the unscaled scores, for `count` keys;
// `weights_gradient` is null or that of the tile's keys.
template <class T>
[[gnu::always_inline]] inline void differentiate_row(T* scores, T* gradient, const T* weights_gradient,
                                                     std::int64_t count, T factor, T largest, T inverse_sum, T delta,
                                                     T scale) {
  constexpr int W = kLanes<T>;
  using P = Pack<T, W>;
  const std::int64_t end = whole_vectors<T>(count);
  for (std::int64_t i = 0; i < end; i += W) {
    auto x = (P::load(scores + i) - P::fill(largest)) * P::fill(factor);
    x = x > P::fill(T(0)) ? P::fill(T(0)) : x;  // no score is beyond the largest; a NaN stays
    const auto weight = power_of_two<T, W>(x) * P::fill(inverse_sum);
    auto of_weight = P::load(gradient + i);
    if (weights_gradient != nullptr) of_weight += P::load(weights_gradient + i);
    P::store(scores + i, weight);
    P::store(gradient + i, weight * (of_weight - P::fill(delta)) * P::fill(scale));
  }
}

template <class T>
void add_gradients(const DotProductGradient<T>& p, std::int64_t problem, const BackwardScratch<T>& scratch) {
  const Extents& extents = p.extents;
  const std::int64_t width = extents.width, value_width = extents.value_width;
  const std::int64_t batch = problem / extents.heads;
  const T* query = p.query.of(extents, problem);
  const T* key = p.key.of(extents, problem);
  const T* value = p.value.of(extents, problem);
  const T* context = p.context.of(extents, problem);
  const T* context_gradient = p.context_gradient.of(extents, problem);
  const T* statistics = p.statistics.of(extents, problem);
  T* query_gradient = p.query_gradient.of(extents, problem);
  T* key_gradient = p.key_gradient.of(extents, problem);
  T* value_gradient = p.value_gradient.of(extents, problem);
  const std::int64_t length = p.selection.end(batch, extents.keys);
  const std::int64_t end = p.causal && extents.queries < length ? extents.queries : length;

  const Scaling<T> scale = scaling(p.scale);
  const bool few = scores_by_rows(extents);
  KeyTile tile;
  sum_deltas(p, context, context_gradient, statistics, scratch.delta);
  for (std::int64_t row = 0; row < extents.queries; ++row)
    fill_row(query_gradient + row * p.query_gradient.row_stride, width, T(0));
  for (std::int64_t row = 0; row < extents.keys; ++row) {
    fill_row(key_gradient + row * p.key_gradient.row_stride, width, T(0));
    fill_row(value_gradient + row * p.value_gradient.row_stride, value_width, T(0));
  }
  if (p.weights_gradient) {
    const T* weights = p.weights.of(extents, problem);
    const T* gradient = p.weights_gradient.of(extents, problem);
    KeyWalk walk{p.selection, batch, end};
    while (walk.take(tile))
      for (std::int64_t row = 0; row < extents.queries; ++row) {
        T sum = T(0);
        const std::int64_t limit = tile.limit(p.causal, row);
        for (std::int64_t i = 0; i < limit; ++i)
          sum += weights[row * p.weights.row_stride + tile.index[i]] *
                 gradient[row * p.weights_gradient.row_stride + tile.index[i]];
        scratch.delta[row] += sum;
      }
  }

  KeyWalk walk{p.selection, batch, end};
  while (walk.take(tile)) {
    if (!few) {
      pack_transposed(tile, key, p.key.row_stride, width, scratch.packed_keys);
      pack_transposed(tile, value, p.value.row_stride, value_width, scratch.packed_values);
    }
    const Rows<T> keys = together(tile, key, p.key.row_stride, width, scratch.keys, !few);
    fill_row(scratch.key_gradient, tile.count * width, T(0));
    fill_row(scratch.value_gradient, tile.count * value_width, T(0));
    for (std::int64_t block = 0; block < extents.queries; block += kBlockRows) {
      const std::int64_t block_end = block + kBlockRows < extents.queries ? block + kBlockRows : extents.queries;
      std::int64_t first = block;
      while (first < block_end && tile.limit(p.causal, first) == 0) ++first;
      const std::int64_t count = block_end - first;
      if (count == 0) continue;
      std::int64_t limits[kBlockRows] = {};
      for (std::int64_t row = 0; row < count; ++row) limits[row] = tile.limit(p.causal, first + row);
      const T* queries = query + first * p.query.row_stride;
      const T* gradients = context_gradient + first * p.context_gradient.row_stride;
      const Rows<T> scaled =
          scale_queries(Rows<T>{queries, p.query.row_stride}, count, width, scale.of_queries, scratch.queries);
      if (few) {
        for (std::int64_t row = 0; row < count; ++row) {
          score_row(tile, scaled.data + row * scaled.stride, key, p.key.row_stride, width,
                    scratch.weights + row * kTileKeys);
          score_row(tile, gradients + row * p.context_gradient.row_stride, value, p.value.row_stride, value_width,
                    scratch.score_gradient + row * kTileKeys);
        }
      } else {
        multiply_packed(count, limits[count - 1], width, scaled.data, scaled.stride, scratch.packed_keys,
                        scratch.weights, kTileKeys);
        multiply_packed(count, limits[count - 1], value_width, gradients, p.context_gradient.row_stride,
                        scratch.packed_values, scratch.score_gradient, kTileKeys);
      }
      for (std::int64_t row = 0; row < count; ++row) {
        T of_weights[kTileKeys];
        if (p.weights_gradient) {
          const T* from = p.weights_gradient.of(extents, problem) + (first + row) * p.weights_gradient.row_stride;
          for (std::int64_t i = 0; i < tile.count; ++i) of_weights[i] = from[tile.index[i]];
          for (std::int64_t i = tile.count; i < kTileKeys; ++i) of_weights[i] = T(0);
        }
        const T* numbers = statistics + (first + row) * p.statistics.row_stride;
        differentiate_row(scratch.weights + row * kTileKeys, scratch.score_gradient + row * kTileKeys,
                          p.weights_gradient ? of_weights : nullptr, limits[row], scale.factor, numbers[0], numbers[1],
                          scratch.delta[first + row], p.scale);
      }
      multiply_transposed_to_limits(count, value_width, tile.count, limits, scratch.weights, kTileKeys, gradients,
                                    p.context_gradient.row_stride, scratch.value_gradient, value_width);
      multiply_transposed_to_limits(count, width, tile.count, limits, scratch.score_gradient, kTileKeys, queries,
                                    p.query.row_stride, scratch.key_gradient, width);
      multiply_to_limits(count, width, tile.count, limits, scratch.score_gradient, kTileKeys, keys.data, keys.stride,
                         query_gradient + first * p.query_gradient.row_stride, p.query_gradient.row_stride);
    }
    for (std::int64_t i = 0; i < tile.count; ++i) {
      __builtin_memcpy(key_gradient + tile.index[i] * p.key_gradient.row_stride, scratch.key_gradient + i * width,
                       sizeof(T) * width);
      __builtin_memcpy(value_gradient + tile.index[i] * p.value_gradient.row_stride,
                       scratch.value_gradient + i * value_width, sizeof(T) * value_width);
    }
  }
}

template <class T>
void backward(const DotProductGradient<T>& p, std::int64_t slice, T* memory) {
  const Cut work = cut_gradient(p.extents);
  const BackwardScratch<T> scratch(p.extents, memory);
  const std::int64_t first = slice * work.problems_per_slice;
  const std::int64_t left = p.extents.problems() - first;
  const std::int64_t count = left < work.problems_per_slice ? left : work.problems_per_slice;
  for (std::int64_t problem = first; problem < first + count; ++problem) add_gradients(p, problem, scratch);
}

}  // namespace
}  // namespace metafast::attention
