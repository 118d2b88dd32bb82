// Activations of many samples: arrays [features, columns], a column for each sample.
//
// Side by side in memory lie the samples, so that every loop over columns fills whole vectors whatever the widths of the
// layers are, and a sample's numbers never depend on its neighbours. `columns`, a multiple of kColumnGroup, is also the
// row stride; columns past the last sample hold zeros at first and anything finite later.
// For kernel files only: everything here has internal linkage, because each level compiles its own copy.
#pragma once

#include <cstdint>

#include "common/transpose.hpp"

namespace metafast {
namespace {

constexpr std::int64_t kColumnGroup = 16;
// A block of this many samples with layers of 64 features fits the first-level cache, and a row of it is one panel of
// the matrix product (matrix.hpp).
constexpr std::int64_t kBlockColumns = 64;

[[gnu::always_inline]] inline std::int64_t padded_columns(std::int64_t samples) {
  return (samples + kColumnGroup - 1) / kColumnGroup * kColumnGroup;
}

// Calls body(c) for every column; the body may touch nothing but column c.
template <class Body>
[[gnu::always_inline]] inline void for_columns(std::int64_t columns, const Body& body) {
  for (std::int64_t first = 0; first < columns; first += kColumnGroup) {
#pragma GCC ivdep
    for (std::int64_t i = 0; i < kColumnGroup; ++i) body(first + i);
  }
}

template <class T>
[[gnu::always_inline]] inline void fill(T* to, std::int64_t count, T value) {
  for (std::int64_t i = 0; i < count; ++i) to[i] = value;
}

// to[c][r] = from[r][c] for r < rows, c < columns.
template <class T>
void transpose_columns(const T* from, std::int64_t rows, std::int64_t columns, T* to) {
  constexpr int W = kLanes<T>;
  using P = Pack<T, W>;
  std::int64_t row = 0;
  for (; row + W <= rows; row += W) {
    for (std::int64_t column = 0; column < columns; column += W) {
      typename P::Real vectors[W];
      for (int i = 0; i < W; ++i) vectors[i] = P::load(from + (row + i) * columns + column);
      transpose<T, W>(vectors);
      for (int i = 0; i < W; ++i) P::store(to + (column + i) * rows + row, vectors[i]);
    }
  }
  for (; row < rows; ++row)
    for (std::int64_t column = 0; column < columns; ++column) to[column * rows + row] = from[row * columns + column];
}

// The sum of each row over all columns, added to sums[0 .. rows).
template <class T>
void add_row_sums(const T* from, std::int64_t rows, std::int64_t columns, T* sums) {
  constexpr int W = kLanes<T>;
  using P = Pack<T, W>;
  for (std::int64_t row = 0; row < rows; ++row) {
    typename P::Real total = P::load(from + row * columns);
    for (std::int64_t column = W; column < columns; column += W) total += P::load(from + row * columns + column);
    sums[row] += sum_of_lanes<T, W>(total);
  }
}

}  // namespace
}  // namespace metafast
