// Additive attention backward, from the weights that the forward pass saved; tanh is computed again.
//
//   d_weights = d_context value^T (+ their own gradient),  ds = weights (d_weights - sum_k weights d_weights)
//   d_query[q] = w sum_k ds (1 - tanh^2),  d_key[k] = w sum_q ds (1 - tanh^2),  d_w = sum_qk ds tanh
//   d_value = weights^T d_context
//
// A vector holds neighbouring columns; a few queries pass over a block of keys that stays in the first cache. The
// gradient of w is a sum of ds tanh, not of ds sigma, whose share of 1/2 cancels only but for rounding.
#pragma once

#include "attention/additive_forward.hpp"
#include "common/dot.hpp"

namespace metafast::attention {
namespace {

// Queries whose weights are gathered together, and keys that stay in the first cache with their gradients.
constexpr std::int64_t kBackwardQueries = 32;
constexpr std::int64_t kBackwardKeys = 32;

// What a block of queries gives to the gradients of its problem's keys and values: rows of the active keys.
template <class T>
struct GradientSums {
  T* keys;    // [count, padded width]
  T* values;  // [count, padded value width]

  GradientSums(const Extents& extents, T* memory)
      : keys(memory), values(memory + padded<T>(extents.keys) * padded<T>(extents.width)) {}
};

template <class T>
struct BackwardScratch {
  T* queries;    // [kBackwardQueries, padded width]: what prepare_query makes of them
  T* gradients;  // [kBackwardQueries, padded width]: the sums of the queries' gradients
  T* weights;    // [kBackwardQueries, padded keys], of the active keys, as are the next two
  T* scores;     // [kBackwardQueries, padded keys]: gradients of the scores
  T* values;     // [value width, padded keys]: the values' transpose
  T* direct;     // [kBackwardKeys, padded width]: tanh, in the direct form

  static std::int64_t size(const Extents& extents) {
    const std::int64_t width = padded<T>(extents.width), keys = padded<T>(extents.keys);
    return kBackwardQueries * 2 * (width + keys) + extents.value_width * keys + kBackwardKeys * width;
  }
  BackwardScratch(const Extents& extents, void* memory) {
    const std::int64_t width = padded<T>(extents.width), keys = padded<T>(extents.keys);
    queries = static_cast<T*>(memory);
    gradients = queries + kBackwardQueries * width;
    weights = gradients + kBackwardQueries * width;
    scores = weights + kBackwardQueries * keys;
    values = scores + kBackwardQueries * keys;
    direct = values + extents.value_width * keys;
  }
};

// tanh of a query's and a key's column from what exponential_form.hpp makes of them, in each of its forms.

// 1 - 1 / (1/2 + e/2), where the query's exponential is halved.
template <class T>
struct TanhOfProduct {
  template <int W, class Real>
  [[gnu::always_inline]] static inline Real of(Real query, Real key) {
    using P = Pack<T, W>;
    const Real half_sum = P::multiply_add(query, key, P::fill(T(0.5)));
#if defined(__AVX512F__)
    if constexpr (sizeof(Real) == 64 && sizeof(T) == 4) {
      // 1 - r is exact where it is small, so that only the products round.
      const Real estimate = (Real)_mm512_maskz_rcp14_ps(0xffff, (__m512)half_sum);
      const Real residual = P::subtract_product(half_sum, estimate, P::fill(1));
      return P::subtract_product(estimate, residual, P::fill(1) - estimate);
    }
#endif
    return T(1) - T(1) / half_sum;
  }
};

// (e - 1) / (e + 1), where query and key are exponentials less 1; as 1 - 2 / (e + 1) where that is near 1, so that a
// saturated tanh is 1 itself.
template <class T>
struct TanhOfNarrow {
  template <int W, class Real>
  [[gnu::always_inline]] static inline Real of(Real query, Real key) {
    using P = Pack<T, W>;
    const Real less_one = P::multiply_add(query, key, query + key), more_one = less_one + T(2);
#if defined(__AVX512F__)
    if constexpr (sizeof(Real) == 64 && sizeof(T) == 4) {
      const Real estimate = (Real)_mm512_maskz_rcp14_ps(0xffff, (__m512)more_one);
      const Real residual = P::subtract_product(more_one, estimate, P::fill(1));
      const Real quotient = less_one * estimate, twice = estimate + estimate;
      return less_one > T(1) ? P::subtract_product(twice, residual, P::fill(1) - twice)
                             : P::multiply_add(quotient, residual, quotient);
    }
#endif
    return less_one > T(1) ? T(1) - T(2) / more_one : less_one / more_one;
  }
};

// The key's row is tanh already.
template <class T>
struct TanhItself {
  template <int W, class Real>
  [[gnu::always_inline]] static inline Real of(Real, Real key) {
    return key;
  }
};

// The columns [h, h + W) of `queries` queries and `keys` keys: adds to the sums of both, and to that of the weights.
template <class T, class Tanh, int queries>
[[gnu::always_inline]] inline void backward_tile(const T* query_rows, const T* key_rows, std::int64_t keys,
                                                 std::int64_t width, const T* scores, std::int64_t score_stride,
                                                 T* query_sums, T* key_sums, T* weight_sums) {
  constexpr int W = kLanes<T>;
  using P = Pack<T, W>;
  using Real = typename P::Real;
  Real exponential[queries], sum[queries];
#pragma GCC unroll 4
  for (int query = 0; query < queries; ++query) {
    exponential[query] = P::load(query_rows + query * width);
    sum[query] = P::load(query_sums + query * width);
  }
  Real weight_sum = P::load(weight_sums);
  for (std::int64_t key = 0; key < keys; ++key) {
    const Real row = P::load(key_rows + key * width);
    Real key_sum = P::load(key_sums + key * width), products{};
#pragma GCC unroll 4
    for (int query = 0; query < queries; ++query) {
      const Real tanh = Tanh::template of<W>(exponential[query], row);
      const Real score = P::fill(scores[query * score_stride + key]);
      const Real product = score * tanh;
      const Real gradient = P::subtract_product(product, tanh, score);
      products += product;
      sum[query] += gradient;
      key_sum += gradient;
    }
    weight_sum += products;
    P::store(key_sums + key * width, key_sum);
  }
#pragma GCC unroll 4
  for (int query = 0; query < queries; ++query) P::store(query_sums + query * width, sum[query]);
  P::store(weight_sums, weight_sum);
}

// As many queries at a time as the registers hold.
template <class T>
constexpr int kBackwardTile = kVectorBytes == 64 ? 4 : 2;

template <class Tanh, class T>
inline void backward_block(const T* query_rows, std::int64_t queries, const T* key_rows, std::int64_t keys,
                           std::int64_t width, const T* scores, std::int64_t score_stride, T* query_sums, T* key_sums,
                           T* weight_sums) {
  constexpr int tile = kBackwardTile<T>;
  for (std::int64_t h = 0; h < width; h += kLanes<T>) {
    std::int64_t query = 0;
    for (; query + tile <= queries; query += tile)
      backward_tile<T, Tanh, tile>(query_rows + query * width + h, key_rows + h, keys, width,
                                   scores + query * score_stride, score_stride, query_sums + query * width + h,
                                   key_sums + h, weight_sums + h);
    for (; query < queries; ++query)
      backward_tile<T, Tanh, 1>(query_rows + query * width + h, key_rows + h, keys, width,
                                scores + query * score_stride, score_stride, query_sums + query * width + h,
                                key_sums + h, weight_sums + h);
  }
}

// [rows of the active keys, columns] to [columns, stride], where `stride` has room for whole vectors.
template <class T>
inline void transpose_rows(const T* rows, std::int64_t row_stride, std::int64_t columns,
                           const PreparedKeys<T>& prepared, T* transposed, std::int64_t stride) {
  constexpr int W = kLanes<T>;
  const std::int64_t count = *prepared.count;
  for (std::int64_t first = 0; first < count; first += W) {
    const T* block[W];
    // Beyond the last row, that row again: its copies land in the padding.
    for (int index = 0; index < W; ++index)
      block[index] = rows + prepared.active[first + index < count ? first + index : count - 1] * row_stride;
    std::int64_t column = 0;
    for (; column + W <= columns; column += W) {
      typename Pack<T, W>::Real vectors[W];
#pragma GCC unroll 16
      for (int index = 0; index < W; ++index) vectors[index] = Pack<T, W>::load(block[index] + column);
      transpose<T, W>(vectors);
#pragma GCC unroll 16
      for (int index = 0; index < W; ++index)
        Pack<T, W>::store(transposed + (column + index) * stride + first, vectors[index]);
    }
    for (; column < columns; ++column)
      for (int index = 0; index < W; ++index) transposed[column * stride + first + index] = block[index][column];
  }
}

// The elements of a row [keys] that belong to active keys.
template <class T>
inline void gather_row(const T* row, const PreparedKeys<T>& prepared, T* gathered) {
  const std::int64_t count = *prepared.count;
  if (count > 0 && prepared.active[count - 1] - prepared.active[0] == count - 1) {
    __builtin_memcpy(gathered, row + prepared.active[0], sizeof(T) * count);
    return;
  }
  for (std::int64_t index = 0; index < count; ++index) gathered[index] = row[prepared.active[index]];
}

// Fewer than these are multiplied with the values' rows as they lie.
constexpr std::int64_t kQueriesWorthTransposing = 8;

// result[query, index] = queries[query] . rows[active[index]]
template <class T>
inline void multiply_rows(std::int64_t queries, const T* query_rows, std::int64_t query_stride, const T* rows,
                          std::int64_t row_stride, std::int64_t columns, const PreparedKeys<T>& prepared, T* result,
                          std::int64_t result_stride) {
  for (std::int64_t query = 0; query < queries; ++query)
    for (std::int64_t index = 0; index < *prepared.count; ++index)
      result[query * result_stride + index] =
          dot(query_rows + query * query_stride, rows + prepared.active[index] * row_stride, columns);
}

// The weights of one query, and d_weights in `scores`, for the active keys.
template <class T>
inline void gather_weights(const AdditiveBackward<T>& arguments, std::int64_t problem, std::int64_t query,
                           const PreparedKeys<T>& prepared, T* weights, T* weight_gradients) {
  const Extents& extents = arguments.extents;
  gather_row(arguments.weights.of(extents, problem) + query * arguments.weights.row_stride, prepared, weights);
  if (!arguments.weights_gradient) return;
  const T* own = arguments.weights_gradient.of(extents, problem) + query * arguments.weights_gradient.row_stride;
  for (std::int64_t index = 0; index < *prepared.count; ++index) weight_gradients[index] += own[prepared.active[index]];
}

template <class T>
void backward(const AdditiveBackward<T>& arguments, std::int64_t problem, std::int64_t begin, std::int64_t end,
              const PreparedKeys<T>& prepared, T* sums_memory, T* weight_sums, void* memory) {
  const Extents& extents = arguments.extents;
  const BackwardScratch<T> scratch(extents, memory);
  const GradientSums<T> sums(extents, sums_memory);
  const std::int64_t width = padded<T>(extents.width), stride = padded<T>(extents.keys), count = *prepared.count;
  const std::int64_t value_stride = padded<T>(extents.value_width);
  const Form form = *prepared.form;
  const T* weights = arguments.table.score_weights + problem % extents.heads * width;
  fill(sums.keys, 0, count * width, T(0));
  if (begin == end) fill(sums.values, 0, count * value_stride, T(0));
  fill(weight_sums, 0, width, T(0));
  const T* values = arguments.value.of(extents, problem);
  const bool few = end - begin < kQueriesWorthTransposing;
  if (!few) transpose_rows(values, arguments.value.row_stride, extents.value_width, prepared, scratch.values, stride);
  for (std::int64_t first = begin; first < end; first += kBackwardQueries) {
    const std::int64_t queries = end - first < kBackwardQueries ? end - first : kBackwardQueries;
    const T* context = arguments.context_gradient.of(extents, problem) + first * arguments.context_gradient.row_stride;
    if (few)
      multiply_rows(queries, context, arguments.context_gradient.row_stride, values, arguments.value.row_stride,
                    extents.value_width, prepared, scratch.scores, stride);
    else
      multiply<T>(queries, count, extents.value_width, context, arguments.context_gradient.row_stride, 1,
                  scratch.values, stride, scratch.scores, stride, false);
    for (std::int64_t index = 0; index < queries; ++index) {
      T* __restrict row_weights = scratch.weights + index * stride;
      T* __restrict row = scratch.scores + index * stride;
      gather_weights(arguments, problem, first + index, prepared, row_weights, row);
      const T mean = dot(row_weights, row, count);
      for (std::int64_t key = 0; key < count; ++key) row[key] = row_weights[key] * (row[key] - mean);
      prepare_query(arguments, prepared,
                    arguments.query.of(extents, problem) + (first + index) * arguments.query.row_stride, T(0.5),
                    scratch.queries + index * width);
    }
    multiply<T>(count, extents.value_width, queries, scratch.weights, 1, stride, context,
                arguments.context_gradient.row_stride, sums.values, value_stride, first != begin);
    fill(scratch.gradients, 0, queries * width, T(0));
    for (std::int64_t key = 0; key < count; key += kBackwardKeys) {
      const std::int64_t keys = count - key < kBackwardKeys ? count - key : kBackwardKeys;
      const T* rows = prepared.rows + key * width;
      if (form != Form::direct) {
        const auto block =
            form == Form::narrow ? backward_block<TanhOfNarrow<T>, T> : backward_block<TanhOfProduct<T>, T>;
        block(scratch.queries, queries, rows, keys, width, scratch.scores + key, stride, scratch.gradients,
              sums.keys + key * width, weight_sums);
        continue;
      }
      for (std::int64_t index = 0; index < queries; ++index) {
        const T* query = scratch.queries + index * width;
        for (std::int64_t tile = 0; tile < keys; ++tile)
          direct_tanhs(scratch.direct + tile * width, query, rows + tile * width, width);
        backward_block<TanhItself<T>>(query, 1, scratch.direct, keys, width, scratch.scores + index * stride + key,
                                      stride, scratch.gradients + index * width, sums.keys + key * width, weight_sums);
      }
    }
    for (std::int64_t index = 0; index < queries; ++index) {
      T* gradient =
          arguments.query_gradient.of(extents, problem) + (first + index) * arguments.query_gradient.row_stride;
      for (std::int64_t h = 0; h < extents.width; ++h) gradient[h] = weights[h] * scratch.gradients[index * width + h];
    }
  }
}

// Adds the rows of all blocks, in their order, into the rows of the active keys; the others are 0.
template <class T>
inline void add_rows(const T* sums, std::int64_t sum_stride, std::int64_t block_stride, std::int64_t blocks,
                     const PreparedKeys<T>& prepared, const Extents& extents, std::int64_t columns, const T* factors,
                     T* gradient, std::int64_t gradient_stride) {
  std::int64_t next = 0;
  for (std::int64_t index = 0; index <= *prepared.count; ++index) {
    const std::int64_t key = index < *prepared.count ? prepared.active[index] : extents.keys;
    for (; next < key; ++next) fill(gradient + next * gradient_stride, 0, columns, T(0));
    if (key == extents.keys) return;
    T* __restrict row = gradient + key * gradient_stride;
    const T* __restrict first = sums + index * sum_stride;
    if (blocks == 1 && factors) {
      for (std::int64_t column = 0; column < columns; ++column) row[column] = first[column] * factors[column];
    } else {
      __builtin_memcpy(row, first, sizeof(T) * columns);
      for (std::int64_t block = 1; block < blocks; ++block) {
        const T* __restrict from = first + block * block_stride;
        for (std::int64_t column = 0; column < columns; ++column) row[column] += from[column];
      }
      if (factors)
        for (std::int64_t column = 0; column < columns; ++column) row[column] *= factors[column];
    }
    next = key + 1;
  }
}

template <class T>
void finish(const AdditiveBackward<T>& arguments, std::int64_t problem, const PreparedKeys<T>& prepared,
            const T* memory, std::int64_t stride, std::int64_t blocks, bool times_weights) {
  const Extents& extents = arguments.extents;
  const std::int64_t width = padded<T>(extents.width);
  const GradientSums<const T> sums(extents, memory);
  const T* weights = times_weights ? arguments.table.score_weights + problem % extents.heads * width : nullptr;
  add_rows(sums.keys, width, stride, blocks, prepared, extents, extents.width, weights,
           arguments.key_gradient.of(extents, problem), arguments.key_gradient.row_stride);
  add_rows(sums.values, padded<T>(extents.value_width), stride, blocks, prepared, extents, extents.value_width,
           static_cast<const T*>(nullptr), arguments.value_gradient.of(extents, problem),
           arguments.value_gradient.row_stride);
}

}  // namespace
}  // namespace metafast::attention
