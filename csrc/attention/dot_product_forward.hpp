// Dot-product attention, streaming softmax (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018;
// Dao et al., "FlashAttention", NeurIPS 2022): keys come in tiles, each query keeps its largest score and its sum of
// exponentials, and what it has summed up is rescaled when a tile brings a larger score. Queries times keys exist for
// one block and tile at a time.
// For kernel files only.
#pragma once

#include "attention/key_tile.hpp"
#include "attention/power_of_two.hpp"

namespace metafast::attention {
namespace {

// Up to this many rows the scores are dot products of rows; for more it pays to transpose the keys. Both ways round
// differently and the gradient takes the exponentials of scores less the forward pass's largest, so both passes choose
// alike: by the queries of a problem, however many of them a slice has.
constexpr std::int64_t kFewRows = 4;

static inline bool scores_by_rows(const Extents& extents) { return extents.queries <= kFewRows; }

template <class T>
constexpr T kLowest = T(-__builtin_inf());

template <class T>
[[gnu::always_inline]] inline void scale_row(T* row, std::int64_t width, T factor) {
  for_lanes<T>(0, width, [&](auto lanes, std::int64_t i) {
    using P = Pack<T, decltype(lanes)::value>;
    P::store(row + i, P::load(row + i) * P::fill(factor));
  });
}

template <class T>
[[gnu::always_inline]] inline void fill_row(T* row, std::int64_t width, T value) {
  for_lanes<T>(0, width, [&](auto lanes, std::int64_t i) {
    using P = Pack<T, decltype(lanes)::value>;
    P::store(row + i, P::fill(value));
  });
}

// exp(scale (score - largest)) is 2^(factor (score - largest)) of scores without the scale: the scale costs nothing.
// Where it is not a positive number, or so large that the factor is infinite, the queries are multiplied by it instead.
template <class T>
struct Scaling {
  T of_queries;
  T factor;
};

template <class T>
Scaling<T> scaling(T scale) {
  constexpr T log2_e = T(0x1.71547652b82fep+0);
  if (scale > T(0) && scale * log2_e < -kLowest<T>) return {T(1), scale * log2_e};
  return {scale, log2_e};
}

// The queries times what Scaling says: `scaled` where that is not 1, else where they are.
template <class T>
Rows<T> scale_queries(Rows<T> queries, std::int64_t rows, std::int64_t width, T scale, T* scaled) {
  if (scale == T(1)) return queries;
  for (std::int64_t row = 0; row < rows; ++row)
    for_lanes<T>(0, width, [&](auto lanes, std::int64_t i) {
      using P = Pack<T, decltype(lanes)::value>;
      P::store(scaled + row * width + i, P::load(queries.data + row * queries.stride + i) * P::fill(scale));
    });
  return {scaled, width};
}

// The scores of one query with the tile's keys, rounded up to whole vectors.
template <class T>
[[gnu::noinline]] void score_row(const KeyTile& tile, const T* query, const T* key, std::int64_t stride,
                                 std::int64_t width, T* scores) {
  constexpr int W = kLanes<T>;
  constexpr int kTogether = W < 8 ? W : 8;  // as many row addresses as fit the registers
  const auto ahead = static_cast<std::uintptr_t>(stride) * W * sizeof(T);
  using P = Pack<T, W>;
  for (std::int64_t first = 0; first < tile.count; first += W) {
    typename P::Real sums[W];
    const std::int64_t whole = width / W * W;
#pragma GCC unroll 2
    for (int group = 0; group < W; group += kTogether) {
      const T* rows[kTogether];
#pragma GCC unroll 8
      for (int i = 0; i < kTogether; ++i) {
        rows[i] = key + tile.index_or_last(first + group + i) * stride;
        sums[group + i] = P::fill(T(0));
      }
      for (std::int64_t step = 0; step < whole; step += W) {
        const auto from_query = P::load(query + step);
#pragma GCC unroll 8
        for (int i = 0; i < kTogether; ++i) {
          sums[group + i] = P::multiply_add(from_query, P::load(rows[i] + step), sums[group + i]);
          // One query waits for memory: fetch the keys after these, a hint that may point past the last.
          __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<std::uintptr_t>(rows[i] + step) + ahead));
        }
      }
    }
    typename P::Real total = sums_of_lanes<T, W>(sums);
    for (std::int64_t step = whole; step < width; ++step) {
      T elements[W];
      for (int i = 0; i < W; ++i) elements[i] = key[tile.index_or_last(first + i) * stride + step];
      total = P::multiply_add(P::fill(query[step]), P::load(elements), total);
    }
    P::store(scores + first, total);
  }
}

// Finds the largest of `count` scores and, where it is larger than any before, rescales what was summed so far. Scores
// up to the next whole vector become -infinity.
template <class T>
[[gnu::always_inline]] inline void raise_largest(T* scores, std::int64_t count, T factor, T& largest, T* sums,
                                                 T* context, std::int64_t value_width) {
  constexpr int W = kLanes<T>;
  using P = Pack<T, W>;
  const std::int64_t end = whole_vectors<T>(count);
  for (std::int64_t i = count; i < end; ++i) scores[i] = kLowest<T>;
  auto tops = P::fill(kLowest<T>);
  for (std::int64_t i = 0; i < end; i += W) tops = larger(P::load(scores + i), tops);  // passes NaN over
  const T top = largest_lane<T, W>(tops);
  if (top > largest) {
    if (largest > kLowest<T>) {
      const T shrink = power_of_two_of((largest - top) * factor);
      scale_row(sums, W, shrink);
      scale_row(context, value_width, shrink);
    }
    largest = top;
  }
}

// Turns `count` scores, rounded up to whole vectors, into 2^(factor (score - largest)) and adds them to the sums.
template <class T>
[[gnu::always_inline]] inline void exponentiate(T* scores, std::int64_t count, T factor, T largest, T* sums) {
  constexpr int W = kLanes<T>;
  using P = Pack<T, W>;
  // Scores of -infinity alone: 0 instead of the NaN of a difference, because a later tile may hold a number.
  const auto base = P::fill(largest > kLowest<T> ? largest : T(0));
  auto total = P::load(sums);
  for (std::int64_t i = 0; i < count; i += W) {
    const auto power = power_of_two<T, W>((P::load(scores + i) - base) * P::fill(factor));
    total += power;
    P::store(scores + i, power);
  }
  P::store(sums, total);
}

// Parts of the scratch memory of a slice.
template <class T>
struct ForwardScratch {
  T* queries;  // [rows, width]
  T* largest;  // [rows]
  T* sums;     // [rows, lanes]: the sum of exponentials is kept lane by lane until the end
  T* keys;
  T* values;
  T* scores;

  ForwardScratch(const Extents& extents, T* scratch) {
    const std::int64_t rows = cut(extents).rows_per_slice;
    queries = scratch;
    largest = queries + padded(rows * extents.width);
    sums = largest + padded(rows);
    keys = sums + rows * kMostLanes;
    values = keys + kTileKeys * padded(extents.width);
    scores = values + kTileKeys * padded(extents.value_width);
  }
};

// The weights of one query from its scores, which lie in their place: those of keys that it does not see become 0.
template <class T>
void finish_weights(const DotProduct<T>& p, std::int64_t batch, std::int64_t query, std::int64_t end, T factor,
                    T largest, T inverse_sum, T* weights) {
  const std::int64_t seen = p.causal && query + 1 < end ? query + 1 : end;
  for_lanes<T>(0, seen, [&](auto lanes, std::int64_t i) {
    if constexpr (decltype(lanes)::value == 1) {
      weights[i] = power_of_two_of((weights[i] - largest) * factor) * inverse_sum;
    } else {
      using P = Pack<T, decltype(lanes)::value>;
      const auto x = (P::load(weights + i) - P::fill(largest)) * P::fill(factor);
      P::store(weights + i, power_of_two<T, decltype(lanes)::value>(x) * P::fill(inverse_sum));
    }
  });
  if (p.selection.mask != nullptr)
    for (std::int64_t key = 0; key < seen; ++key)
      if (!p.selection.takes(batch, key)) weights[key] = T(0);
  for (std::int64_t key = seen; key < p.extents.keys; ++key) weights[key] = T(0);
}

// Queries [begin, begin + rows) of one problem.
template <class T>
void attend(const DotProduct<T>& p, std::int64_t problem, std::int64_t begin, std::int64_t rows,
            const ForwardScratch<T>& scratch) {
  const Extents& extents = p.extents;
  const std::int64_t width = extents.width, value_width = extents.value_width;
  const std::int64_t batch = problem / extents.heads;
  const T* key = p.key.of(extents, problem);
  const T* value = p.value.of(extents, problem);
  T* context = p.context.of(extents, problem) + begin * p.context.row_stride;
  T* weights = p.weights ? p.weights.of(extents, problem) + begin * p.weights.row_stride : nullptr;
  const bool few = scores_by_rows(extents);
  const std::int64_t length = p.selection.end(batch, extents.keys);
  const std::int64_t end = p.causal && begin + rows < length ? begin + rows : length;

  const Scaling<T> scale = scaling(p.scale);
  const T* query = p.query.of(extents, problem) + begin * p.query.row_stride;
  const Rows<T> all_queries =
      scale_queries(Rows<T>{query, p.query.row_stride}, rows, width, scale.of_queries, scratch.queries);
  for (std::int64_t row = 0; row < rows; ++row) {
    scratch.largest[row] = kLowest<T>;
    fill_row(scratch.sums + row * kLanes<T>, kLanes<T>, T(0));
    fill_row(context + row * p.context.row_stride, value_width, T(0));
    if (weights && p.selection.mask) fill_row(weights + row * p.weights.row_stride, extents.keys, T(0));
  }

  KeyTile tile;
  KeyWalk walk{p.selection, batch, end};
  std::int64_t first_key = extents.keys;  // that takes part
  while (walk.take(tile)) {
    if (tile.index[0] < first_key) first_key = tile.index[0];
    if (!few) pack_transposed(tile, key, p.key.row_stride, width, scratch.keys);
    const Rows<T> values = together(tile, value, p.value.row_stride, value_width, scratch.values, !few);
    for (std::int64_t block = 0; block < rows; block += kBlockRows) {
      const std::int64_t block_end = block + kBlockRows < rows ? block + kBlockRows : rows;
      // Rows before `first` see none of these keys.
      std::int64_t first = block;
      while (first < block_end && tile.limit(p.causal, begin + first) == 0) ++first;
      const std::int64_t count = block_end - first;
      if (count <= 0) continue;
      std::int64_t limits[kBlockRows];
      for (std::int64_t row = 0; row < count; ++row) limits[row] = tile.limit(p.causal, begin + first + row);
      T* scores = scratch.scores;
      const Rows<T> queries{all_queries.data + first * all_queries.stride, all_queries.stride};
      if (few) {
        for (std::int64_t row = 0; row < count; ++row)
          score_row(tile, queries.data + row * queries.stride, key, p.key.row_stride, width, scores + row * kTileKeys);
      } else {
        multiply_packed(count, limits[count - 1], width, queries.data, queries.stride, scratch.keys, scores, kTileKeys);
      }
      for (std::int64_t row = 0; row < count; ++row) {
        T* row_scores = scores + row * kTileKeys;
        if (weights) {
          T* to = weights + (first + row) * p.weights.row_stride;
          for (std::int64_t i = 0; i < limits[row]; ++i) to[tile.index[i]] = row_scores[i];
        }
        raise_largest(row_scores, limits[row], scale.factor, scratch.largest[first + row],
                      scratch.sums + (first + row) * kLanes<T>, context + (first + row) * p.context.row_stride,
                      value_width);
      }
      // In a loop of their own, because these wait for nothing and so fill the pipeline.
      for (std::int64_t row = 0; row < count; ++row)
        exponentiate(scores + row * kTileKeys, limits[row], scale.factor, scratch.largest[first + row],
                     scratch.sums + (first + row) * kLanes<T>);
      multiply_to_limits(count, value_width, tile.count, limits, scores, kTileKeys, values.data, values.stride,
                         context + first * p.context.row_stride, p.context.row_stride);
    }
  }

  for (std::int64_t row = 0; row < rows; ++row) {
    // No key at all gives zeros. (Keys whose scores are all -infinity give NaN, as the formula does.)
    const bool empty = first_key >= end || (p.causal && begin + row < first_key);
    const T largest = empty ? T(0) : scratch.largest[row];
    const auto sums = Pack<T, kLanes<T>>::load(scratch.sums + row * kLanes<T>);
    const T inverse_sum = empty ? T(0) : T(1) / sum_of_lanes<T, kLanes<T>>(sums);
    if (!empty) scale_row(context + row * p.context.row_stride, value_width, inverse_sum);
    if (p.statistics) {
      T* to = p.statistics.of(extents, problem) + (begin + row) * p.statistics.row_stride;
      to[0] = largest;
      to[1] = inverse_sum;
    }
    if (weights) {
      T* to = weights + row * p.weights.row_stride;
      if (empty)
        fill_row(to, extents.keys, T(0));
      else
        finish_weights(p, batch, begin + row, length, scale.factor, largest, inverse_sum, to);
    }
  }
}

template <class T>
void forward(const DotProduct<T>& p, std::int64_t slice, T* memory) {
  const Cut work = cut(p.extents);
  const ForwardScratch<T> scratch(p.extents, memory);
  if (work.slices_per_problem > 1) {
    const std::int64_t begin = slice % work.slices_per_problem * work.rows_per_slice;
    const std::int64_t left = p.extents.queries - begin;
    attend(p, slice / work.slices_per_problem, begin, left < work.rows_per_slice ? left : work.rows_per_slice, scratch);
    return;
  }
  const std::int64_t first = slice * work.problems_per_slice;
  const std::int64_t left = p.extents.problems() - first;
  const std::int64_t count = left < work.problems_per_slice ? left : work.problems_per_slice;
  for (std::int64_t problem = first; problem < first + count; ++problem)
    attend(p, problem, 0, p.extents.queries, scratch);
}

}  // namespace
}  // namespace metafast::attention
