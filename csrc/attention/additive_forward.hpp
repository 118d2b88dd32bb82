// Additive attention forward: scores by tiles of keys, softmax over a row, context by a matrix product.
#pragma once

#include "attention/additive_keys.hpp"
#include "common/transpose.hpp"
#include "attention/softmax.hpp"
#include "common/matrix.hpp"

namespace metafast::attention {
namespace {

template <class T>
struct ForwardScratch {
  T* query;   // [padded width]
  T* direct;  // [kPadding, padded width]: a tile of exponentials in the direct form
  T* ones;    // [padded width]: what they are multiplied with
  T* scores;  // [kQueryTile, padded keys]
  T* values;  // [keys, value width]: those of the active keys, where they are no run of rows

  static std::int64_t size(const Extents& extents) {
    const std::int64_t width = padded<T>(extents.width);
    return (kPadding<T> + 2) * width + kQueryTile * padded<T>(extents.keys) +
           padded<T>(extents.keys * extents.value_width);
  }
  ForwardScratch(const Extents& extents, void* memory) {
    const std::int64_t width = padded<T>(extents.width);
    query = static_cast<T*>(memory);
    direct = query + width;
    ones = direct + kPadding<T> * width;
    scores = ones + width;
    values = scores + kQueryTile * padded<T>(extents.keys);
  }
};

// sum + numerator / denominator. (maskz: gcc 12 warns of the plain one.) The float estimate of v4 has 14 bits, one
// Newton step makes it 28.
template <class T, int W, class Real = typename Pack<T, W>::Real>
[[gnu::always_inline]] inline Real add_quotient(Real sum, Real numerator, Real denominator) {
#if defined(__AVX512F__)
  if constexpr (sizeof(Real) == 64 && sizeof(T) == 4) {
    const Real estimate = (Real)_mm512_maskz_rcp14_ps(0xffff, (__m512)denominator);
    const Real correction = Pack<T, W>::subtract_product(denominator, estimate, Pack<T, W>::fill(2));
    return Pack<T, W>::multiply_add(numerator * estimate, correction, sum);
  }
#endif
  return sum + numerator / denominator;
}

// Sums of weight / (1 + e) for one query and `keys` neighbouring keys, one in each lane; of fewer keys than lanes the
// first lanes. `floors` and `weights` are those of the head.
template <class T, int keys, bool folded>
[[gnu::always_inline]] inline void score_keys(const T* query, const T* rows, std::int64_t padded_width,
                                              const T* weights, const T* floors, T* sums) {
  constexpr int W = kLanes<T>;
  using P = Pack<T, W>;
  using Real = typename P::Real;
  Real accumulated[keys];
#pragma GCC unroll 16
  for (int key = 0; key < keys; ++key) accumulated[key] = Real{};
  const Real one = P::fill(Range<T>::kScale);
  std::int64_t h = 0;
  for (; h + 2 * W <= padded_width; h += 2 * W) {
    const Real q1 = P::load(query + h), q2 = P::load(query + h + W);
    const Real w1 = P::load(weights + h), w2 = P::load(weights + h + W);
    const Real floor1 = folded ? P::load(floors + h) : one, floor2 = folded ? P::load(floors + h + W) : one;
#pragma GCC unroll 16
    for (int key = 0; key < keys; ++key) {
      const T* row = rows + key * padded_width + h;
      const Real d1 = P::multiply_add(q1, P::load(row), floor1), d2 = P::multiply_add(q2, P::load(row + W), floor2);
      const Real numerator = folded ? d1 + d2 : P::multiply_add(w1, d2, w2 * d1);
      accumulated[key] = add_quotient<T, W>(accumulated[key], numerator, d1 * d2);
    }
  }
  if (h < padded_width) {
    const Real q = P::load(query + h), w = P::load(weights + h), floor = folded ? P::load(floors + h) : one;
#pragma GCC unroll 16
    for (int key = 0; key < keys; ++key) {
      const Real d = P::multiply_add(q, P::load(rows + key * padded_width + h), floor);
      accumulated[key] = add_quotient<T, W>(accumulated[key], folded ? P::fill(1) : w, d);
    }
  }
  if constexpr (keys == W) {
    P::store(sums, sums_of_lanes<T, W>(accumulated));
  } else {
#pragma GCC unroll 16
    for (int key = 0; key < keys; ++key) sums[key] = sum_of_lanes<T, W>(accumulated[key]);
  }
}

// A tile of up to kLanes keys.
template <class T, bool folded>
inline void score_tile(const T* query, const T* rows, std::int64_t keys, std::int64_t padded_width, const T* weights,
                       const T* floors, T* sums) {
  constexpr int W = kLanes<T>;
  std::int64_t key = 0;
  if (keys > W - W / 4) return score_keys<T, W, folded>(query, rows, padded_width, weights, floors, sums);
  for (; key + 2 <= keys; key += 2)
    score_keys<T, 2, folded>(query, rows + key * padded_width, padded_width, weights, floors, sums + key);
  if (key < keys) score_keys<T, 1, folded>(query, rows + key * padded_width, padded_width, weights, floors, sums + key);
}

// The scores of a tile of queries with all keys, before the factor.
template <class T>
void score_queries(const AdditiveForward<T>& arguments, std::int64_t problem, std::int64_t begin, std::int64_t queries,
                   const PreparedKeys<T>& prepared, const ForwardScratch<T>& scratch) {
  const Extents& extents = arguments.extents;
  const std::int64_t width = padded<T>(extents.width), stride = padded<T>(extents.keys), head = problem % extents.heads;
  const T* weights = arguments.table.weights + head * width;
  const T* floors = arguments.table.floors + head * width;
  const T* query = arguments.query.of(extents, problem) + begin * arguments.query.row_stride;
  constexpr std::int64_t W = kLanes<T>;
  const std::int64_t count = *prepared.count;
  fill(scratch.ones, 0, width, T(1));
  for (std::int64_t index = 0; index < queries; ++index) {
    prepare_query(arguments, prepared, query + index * arguments.query.row_stride, Range<T>::kScale, scratch.query);
    T* sums = scratch.scores + index * stride;
    for (std::int64_t key = 0; key < count; key += W) {
      const std::int64_t keys = count - key < W ? count - key : W;
      const T* rows = prepared.rows + key * width;
      if (*prepared.form == Form::folded) {
        score_tile<T, true>(scratch.query, rows, keys, width, weights, floors, sums + key);
      } else if (*prepared.form == Form::separate) {
        score_tile<T, false>(scratch.query, rows, keys, width, weights, floors, sums + key);
      } else {
        for (std::int64_t tile = 0; tile < keys; ++tile)
          direct_exponentials(scratch.direct + tile * width, scratch.query, rows + tile * width, Range<T>::kScale,
                              width);
        score_tile<T, false>(scratch.ones, scratch.direct, keys, width, weights, floors, sums + key);
      }
    }
  }
}

// The rows of the active keys in an array [keys, columns]: themselves where they are a run, else a copy.
template <class T>
inline const T* gather_rows(const T* rows, std::int64_t& stride, std::int64_t columns, const PreparedKeys<T>& prepared,
                            T* copy) {
  const std::int64_t count = *prepared.count;
  if (count == 0) return rows;
  if (prepared.active[count - 1] - prepared.active[0] == count - 1) return rows + prepared.active[0] * stride;
  for (std::int64_t index = 0; index < count; ++index)
    __builtin_memcpy(copy + index * columns, rows + prepared.active[index] * stride, sizeof(T) * columns);
  stride = columns;
  return copy;
}

template <class T>
void forward(const AdditiveForward<T>& arguments, std::int64_t problem, std::int64_t begin, std::int64_t end,
             const PreparedKeys<T>& prepared, void* memory) {
  const Extents& extents = arguments.extents;
  const ForwardScratch<T> scratch(extents, memory);
  const std::int64_t stride = padded<T>(extents.keys), count = *prepared.count;
  std::int64_t value_stride = arguments.value.row_stride;
  const T* values =
      gather_rows(arguments.value.of(extents, problem), value_stride, extents.value_width, prepared, scratch.values);
  for (std::int64_t first = begin; first < end; first += kQueryTile) {
    const std::int64_t queries = end - first < kQueryTile ? end - first : kQueryTile;
    score_queries(arguments, problem, first, queries, prepared, scratch);
    for (std::int64_t index = 0; index < queries; ++index)
      softmax(scratch.scores + index * stride, count, arguments.table.factors[problem % extents.heads]);
    multiply<T>(queries, extents.value_width, count, scratch.scores, stride, 1, values, value_stride,
                arguments.context.of(extents, problem) + first * arguments.context.row_stride,
                arguments.context.row_stride, false);
    if (!arguments.weights) continue;
    for (std::int64_t index = 0; index < queries; ++index) {
      T* weights = arguments.weights.of(extents, problem) + (first + index) * arguments.weights.row_stride;
      fill(weights, 0, extents.keys, T(0));
      for (std::int64_t key = 0; key < count; ++key)
        weights[prepared.active[key]] = scratch.scores[index * stride + key];
    }
  }
}

}  // namespace
}  // namespace metafast::attention
