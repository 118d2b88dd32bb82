// The gradient of additive attention's backward pass, in one pass like the forward one and one like the backward one.
//
// With cotangents gq, gk, gv, gw of d_query, d_key, d_value, d_w, the backward pass's results are summed up in
//
//   sum_qk ds u + sum_qk weights p,   u = sum_h w tanh' (gq + gk) + gw tanh,   p = d_context . gv
//
// where ds = weights (d_weights - mean) is the only one of these that d_context meets, through d_weights. Hence, with
// m(x) the mean of x over the keys under the weights, t = d_weights,
//
//   r  = weights (u - m(u))                               the gradient of t, so d_context: r value + weights gv
//   a  = t u - t m(u) - m(t) u + p,  b = weights (a - m(a))   the gradient of the scores, through the softmax
//   x  = tanh' (w (b - 2 ds tanh (gq + gk)) + ds gw)      that of query + key, since tanh'' = -2 tanh tanh'
//   d_w: sum_qk b tanh + ds tanh' (gq + gk),  d_value: r^T d_context
#pragma once

#include "attention/additive_backward.hpp"

namespace metafast::attention {
namespace {

template <class T>
struct DoubleBackwardScratch : BackwardScratch<T> {
  T* query_cotangents;  // [kBackwardQueries, padded width]
  T* key_cotangents;    // [padded keys, padded width]
  T* weight_cotangent;  // [padded width]
  T* products;          // [kBackwardQueries, padded keys]: p, then b
  T* inner;             // [kBackwardQueries, padded keys]: u, then r
  T* value_cotangents;  // [value width, padded keys]: their transpose
  T* value_rows;        // [keys, value width] of the active keys, where they are no run; the cotangents' likewise
  T* cotangent_rows;

  static std::int64_t size(const Extents& extents) {
    const std::int64_t width = padded<T>(extents.width), keys = padded<T>(extents.keys);
    return BackwardScratch<T>::size(extents) + (kBackwardQueries + keys + 1) * width + 2 * kBackwardQueries * keys +
           3 * extents.value_width * keys;
  }
  DoubleBackwardScratch(const Extents& extents, void* memory) : BackwardScratch<T>(extents, memory) {
    const std::int64_t width = padded<T>(extents.width), keys = padded<T>(extents.keys);
    query_cotangents = static_cast<T*>(memory) + BackwardScratch<T>::size(extents);
    key_cotangents = query_cotangents + kBackwardQueries * width;
    weight_cotangent = key_cotangents + keys * width;
    products = weight_cotangent + width;
    inner = products + kBackwardQueries * keys;
    value_cotangents = inner + kBackwardQueries * keys;
    value_rows = value_cotangents + extents.value_width * keys;
    cotangent_rows = value_rows + extents.value_width * keys;
  }
};

// Of one query, and its head.
template <class T>
struct QuerySide {
  const T* row;  // what prepare_query makes of it
  const T* cotangents;
  const T* weights;
  const T* weight_cotangents;
};

// u for one query and `keys` keys.
template <class T, class Tanh, int keys>
[[gnu::always_inline]] inline void inner_products(const QuerySide<T>& query, const T* rows, const T* cotangents,
                                                  std::int64_t width, T* sums) {
  constexpr int W = kLanes<T>;
  using P = Pack<T, W>;
  using Real = typename P::Real;
  Real sum[keys];
#pragma GCC unroll 16
  for (int key = 0; key < keys; ++key) sum[key] = Real{};
  const Real one = P::fill(1);
  for (std::int64_t h = 0; h < width; h += W) {
    const Real row = P::load(query.row + h), cotangent = P::load(query.cotangents + h);
    const Real weight = P::load(query.weights + h), weight_cotangent = P::load(query.weight_cotangents + h);
#pragma GCC unroll 16
    for (int key = 0; key < keys; ++key) {
      const Real tanh = Tanh::template of<W>(row, P::load(rows + key * width + h));
      const Real slope = P::subtract_product(tanh, tanh, one);
      const Real both = cotangent + P::load(cotangents + key * width + h);
      sum[key] = P::multiply_add(weight * slope, both, P::multiply_add(weight_cotangent, tanh, sum[key]));
    }
  }
#pragma GCC unroll 16
  for (int key = 0; key < keys; ++key) sums[key] = sum_of_lanes<T, W>(sum[key]);
}

template <class Tanh, class T>
inline void inner_products(const QuerySide<T>& query, const T* rows, const T* cotangents, std::int64_t keys,
                           std::int64_t width, T* sums) {
  std::int64_t key = 0;
  for (; key + 4 <= keys; key += 4)
    inner_products<T, Tanh, 4>(query, rows + key * width, cotangents + key * width, width, sums + key);
  for (; key < keys; ++key)
    inner_products<T, Tanh, 1>(query, rows + key * width, cotangents + key * width, width, sums + key);
}

// The columns [h, h + W) of one query and a block of keys. `scores`: ds; `seconds`: b.
template <class Tanh, class T>
inline void second_order_block(const QuerySide<T>& query, const T* rows, const T* cotangents, std::int64_t keys,
                               std::int64_t width, const T* scores, const T* seconds, T* query_sums, T* key_sums,
                               T* weight_sums) {
  constexpr int W = kLanes<T>;
  using P = Pack<T, W>;
  using Real = typename P::Real;
  const Real one = P::fill(1);
  for (std::int64_t h = 0; h < width; h += W) {
    const Real row = P::load(query.row + h), cotangent = P::load(query.cotangents + h);
    const Real weight = P::load(query.weights + h), weight_cotangent = P::load(query.weight_cotangents + h);
    Real query_sum = P::load(query_sums + h), weight_sum = P::load(weight_sums + h);
    for (std::int64_t key = 0; key < keys; ++key) {
      const Real tanh = Tanh::template of<W>(row, P::load(rows + key * width + h));
      const Real slope = P::subtract_product(tanh, tanh, one);
      const Real both = cotangent + P::load(cotangents + key * width + h);
      const Real score = P::fill(scores[key]), second = P::fill(seconds[key]);
      const Real both_score = score * both;
      const Real bent = P::subtract_product(tanh + tanh, both_score, second);
      const Real inside = P::multiply_add(weight, bent, score * weight_cotangent);
      const Real gradient = slope * inside;
      query_sum += gradient;
      P::store(key_sums + key * width + h, P::load(key_sums + key * width + h) + gradient);
      weight_sum = P::multiply_add(slope, both_score, P::multiply_add(second, tanh, weight_sum));
    }
    P::store(query_sums + h, query_sum);
    P::store(weight_sums + h, weight_sum);
  }
}

template <class T>
inline void copy_padded(const T* from, std::int64_t width, T* to) {
  if (from) __builtin_memcpy(to, from, sizeof(T) * width);
  fill(to, from ? width : 0, padded<T>(width), T(0));
}

// u to r, p to b, d_weights to ds, for one query.
template <class T>
inline void through_softmax(const T* __restrict weights, T* __restrict scores, T* __restrict inner,
                            T* __restrict products, std::int64_t count) {
  const T mean = dot(weights, scores, count), inner_mean = dot(weights, inner, count);
  for (std::int64_t key = 0; key < count; ++key) {
    const T t = scores[key], u = inner[key];
    products[key] += t * (u - inner_mean) - mean * u;
    inner[key] = weights[key] * (u - inner_mean);
    scores[key] = weights[key] * (t - mean);
  }
  const T product_mean = dot(weights, products, count);
  for (std::int64_t key = 0; key < count; ++key) products[key] = weights[key] * (products[key] - product_mean);
}

template <class T>
void double_backward(const AdditiveDoubleBackward<T>& arguments, std::int64_t problem, std::int64_t begin,
                     std::int64_t end, const PreparedKeys<T>& prepared, T* sums_memory, T* weight_sums, void* memory) {
  const Extents& extents = arguments.extents;
  const DoubleBackwardScratch<T> scratch(extents, memory);
  const GradientSums<T> sums(extents, sums_memory);
  const std::int64_t width = padded<T>(extents.width), stride = padded<T>(extents.keys), count = *prepared.count;
  const std::int64_t columns = extents.value_width, sum_stride = padded<T>(columns);
  const bool direct = *prepared.form == Form::direct, narrow = *prepared.form == Form::narrow;
  const auto score_like = direct   ? inner_products<TanhItself<T>, T>
                          : narrow ? inner_products<TanhOfNarrow<T>, T>
                                   : inner_products<TanhOfProduct<T>, T>;
  const auto backward_like = direct   ? second_order_block<TanhItself<T>, T>
                             : narrow ? second_order_block<TanhOfNarrow<T>, T>
                                      : second_order_block<TanhOfProduct<T>, T>;
  const auto row_of = [&](const auto& view, std::int64_t row) {
    return view ? view.of(extents, problem) + row * view.row_stride : nullptr;
  };
  fill(sums.keys, 0, count * width, T(0));
  if (begin == end) fill(sums.values, 0, count * sum_stride, T(0));
  fill(weight_sums, 0, width, T(0));
  for (std::int64_t index = 0; index < count; ++index)
    copy_padded(row_of(arguments.key_cotangent, prepared.active[index]), extents.width,
                scratch.key_cotangents + index * width);
  copy_padded(arguments.score_weight_cotangent ? arguments.score_weight_cotangent.of(extents, problem % extents.heads)
                                               : nullptr,
              extents.width, scratch.weight_cotangent);
  const T* value = arguments.value.of(extents, problem);
  transpose_rows(value, arguments.value.row_stride, columns, prepared, scratch.values, stride);
  std::int64_t value_stride = arguments.value.row_stride, cotangent_stride = arguments.value_cotangent.row_stride;
  const T* value_rows = gather_rows(value, value_stride, columns, prepared, scratch.value_rows);
  const T* cotangent_rows = nullptr;
  if (arguments.value_cotangent) {
    const T* cotangent = arguments.value_cotangent.of(extents, problem);
    transpose_rows(cotangent, cotangent_stride, columns, prepared, scratch.value_cotangents, stride);
    cotangent_rows = gather_rows(cotangent, cotangent_stride, columns, prepared, scratch.cotangent_rows);
  }

  for (std::int64_t first = begin; first < end; first += kBackwardQueries) {
    const std::int64_t queries = end - first < kBackwardQueries ? end - first : kBackwardQueries;
    const T* context = row_of(arguments.context_gradient, first);
    const std::int64_t context_stride = arguments.context_gradient.row_stride;
    multiply<T>(queries, count, columns, context, context_stride, 1, scratch.values, stride, scratch.scores, stride,
                false);
    if (cotangent_rows)
      multiply<T>(queries, count, columns, context, context_stride, 1, scratch.value_cotangents, stride,
                  scratch.products, stride, false);
    else
      fill(scratch.products, 0, queries * stride, T(0));
    fill(scratch.gradients, 0, queries * width, T(0));

    for (std::int64_t index = 0; index < queries; ++index) {
      T* query_row = scratch.queries + index * width;
      T* cotangents = scratch.query_cotangents + index * width;
      prepare_query(arguments, prepared, row_of(arguments.query, first + index), T(0.5), query_row);
      copy_padded(row_of(arguments.query_cotangent, first + index), extents.width, cotangents);
      const QuerySide<T> query{query_row, cotangents, arguments.table.score_weights + problem % extents.heads * width,
                               scratch.weight_cotangent};
      T* weights = scratch.weights + index * stride;
      T* scores = scratch.scores + index * stride;
      T* inner = scratch.inner + index * stride;
      T* products = scratch.products + index * stride;
      gather_weights(arguments, problem, first + index, prepared, weights, scores);
      const auto rows_from = [&](std::int64_t key, std::int64_t keys) {
        const T* rows = prepared.rows + key * width;
        if (!direct) return rows;
        for (std::int64_t tile = 0; tile < keys; ++tile)
          direct_tanhs(scratch.direct + tile * width, query_row, rows + tile * width, width);
        return static_cast<const T*>(scratch.direct);
      };
      for (std::int64_t key = 0; key < count; key += kBackwardKeys) {
        const std::int64_t keys = count - key < kBackwardKeys ? count - key : kBackwardKeys;
        score_like(query, rows_from(key, keys), scratch.key_cotangents + key * width, keys, width, inner + key);
      }
      through_softmax(weights, scores, inner, products, count);
      for (std::int64_t key = 0; key < count; key += kBackwardKeys) {
        const std::int64_t keys = count - key < kBackwardKeys ? count - key : kBackwardKeys;
        backward_like(query, rows_from(key, keys), scratch.key_cotangents + key * width, keys, width, scores + key,
                      products + key, scratch.gradients + index * width, sums.keys + key * width, weight_sums);
      }
      __builtin_memcpy(row_of(arguments.query_gradient, first + index), scratch.gradients + index * width,
                       sizeof(T) * extents.width);
      if (arguments.weights_gradient_gradient) {
        T* gradient = row_of(arguments.weights_gradient_gradient, first + index);
        fill(gradient, 0, extents.keys, T(0));
        for (std::int64_t key = 0; key < count; ++key) gradient[prepared.active[key]] = inner[key];
      }
    }
    T* gradient = row_of(arguments.context_gradient_gradient, first);
    const std::int64_t gradient_stride = arguments.context_gradient_gradient.row_stride;
    multiply<T>(queries, columns, count, scratch.inner, stride, 1, value_rows, value_stride, gradient, gradient_stride,
                false);
    if (cotangent_rows)
      multiply<T>(queries, columns, count, scratch.weights, stride, 1, cotangent_rows, cotangent_stride, gradient,
                  gradient_stride, true);
    multiply<T>(count, columns, queries, scratch.inner, 1, stride, context, context_stride, sums.values, sum_stride,
                first != begin);
  }
}

}  // namespace
}  // namespace metafast::attention
