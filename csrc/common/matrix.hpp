// The matrix product that attention and networks are made of: C (+)= A B for blocks that lie in the caches.
//
// A tile of C (kTileRows x kTileVectors vectors) is summed in registers, while one row of B is loaded and kTileRows
// elements of A are broadcast for each step (Goto and van de Geijn, "Anatomy of high-performance matrix
// multiplication", ACM TOMS 34, 2008). There is no packing and no blocking of steps here: a caller hands in blocks of
// B that stay in the first or second cache, with neighbouring columns next to each other in memory, and best with a
// row of B no longer than a few vectors, because rows a power of two apart share a few places of the cache.
//
// For kernel files only: each instruction-set level compiles its own copy.
#pragma once

#include <cstdint>

#include "common/lanes.hpp"

namespace metafast {
namespace {

// 24 sums, 4 vectors of B and 1 of A in 32 registers; 12, 2 and 1 in 16.
#if defined(__AVX512F__)
constexpr int kTileVectors = 4;
#else
constexpr int kTileVectors = 2;
#endif
constexpr int kTileRows = 6;

template <class T>
struct MatrixProduct {
  std::int64_t steps;
  const T* a;
  std::int64_t a_row;
  std::int64_t a_step;
  const T* b;
  std::int64_t b_row;
  T* c;
  std::int64_t c_row;
};

// What becomes of a vector of sums that belongs at `c`, in row `row` of C: it is written there, or added.
template <class T>
struct KeepSums {
  bool accumulate;
  template <class P>
  [[gnu::always_inline]] void finish(typename P::Real sums, std::int64_t, T* c) const {
    P::store(c, accumulate ? P::load(c) + sums : sums);
  }
};

// R rows by V vectors of W columns, from row `row` and column `column` of C.
template <int R, int V, int W, class T, class Finish>
[[gnu::always_inline]] inline void multiply_tile(const MatrixProduct<T>& product, const Finish& finish,
                                                 std::int64_t row, std::int64_t column) {
  using P = Pack<T, W>;
  typename P::Real sums[R][V] = {};
  const T* a = product.a + row * product.a_row;
  const T* b = product.b + column;
  for (std::int64_t step = product.steps; step > 0; --step) {
    typename P::Real from_b[V];
    for (int v = 0; v < V; ++v) from_b[v] = P::load(b + v * W);
    for (int r = 0; r < R; ++r) {
      const auto from_a = P::fill(a[r * product.a_row]);
      for (int v = 0; v < V; ++v) sums[r][v] = P::multiply_add(from_a, from_b[v], sums[r][v]);
    }
    a += product.a_step;
    b += product.b_row;
  }
  for (int r = 0; r < R; ++r) {
    T* c = product.c + (row + r) * product.c_row + column;
    for (int v = 0; v < V; ++v) finish.template finish<P>(sums[r][v], row + r, c + v * W);
  }
}

// All rows of V vectors of columns.
template <int V, int W, class T, class Finish>
[[gnu::noinline]] void multiply_panel(const MatrixProduct<T>& product, const Finish& finish, std::int64_t rows,
                                      std::int64_t column) {
  std::int64_t row = 0;
  for (; row + kTileRows <= rows; row += kTileRows) multiply_tile<kTileRows, V, W>(product, finish, row, column);
  static_assert(kTileRows == 6, "one case for each number of rows that may be left");
  switch (rows - row) {
    case 5:
      return multiply_tile<5, V, W>(product, finish, row, column);
    case 4:
      return multiply_tile<4, V, W>(product, finish, row, column);
    case 3:
      return multiply_tile<3, V, W>(product, finish, row, column);
    case 2:
      return multiply_tile<2, V, W>(product, finish, row, column);
    case 1:
      return multiply_tile<1, V, W>(product, finish, row, column);
    default:
      return;
  }
}

// The columns of C that fill whole vectors; returns how many.
template <class T, class Finish>
std::int64_t multiply_vectors(const MatrixProduct<T>& product, const Finish& finish, std::int64_t rows,
                              std::int64_t columns) {
  constexpr int W = kLanes<T>;
  std::int64_t column = 0;
  for (; column + kTileVectors * W <= columns; column += kTileVectors * W)
    multiply_panel<kTileVectors, W>(product, finish, rows, column);
  if constexpr (kTileVectors > 2) {
    if (column + 2 * W <= columns) {
      multiply_panel<2, W>(product, finish, rows, column);
      column += 2 * W;
    }
  }
  if (column + W <= columns) {
    multiply_panel<1, W>(product, finish, rows, column);
    column += W;
  }
  return column;
}

// C[i * c_row + j] (+)= sum over p of A[i * a_row + p * a_step] * B[p * b_row + j], for i < rows, j < columns and
// p < steps; `accumulate` adds to what C holds, else C is overwritten (with zeros where there are no steps).
//
// Nothing outside these elements is read or written. Every element is summed on its own in ascending p, from 0, by
// fused multiply-adds where the level has them, so its bits depend on its row of A, its column of B and `steps` alone.
// A zero in A multiplies like any number: a NaN or infinity in B reaches every row.
template <class T>
void multiply(std::int64_t rows, std::int64_t columns, std::int64_t steps, const T* a, std::int64_t a_row,
              std::int64_t a_step, const T* b, std::int64_t b_row, T* c, std::int64_t c_row, bool accumulate) {
  const MatrixProduct<T> product{steps, a, a_row, a_step, b, b_row, c, c_row};
  const KeepSums<T> keep{accumulate};
  for_lanes<T>(multiply_vectors(product, keep, rows, columns), columns, [&](auto width, std::int64_t index) {
    multiply_panel<1, decltype(width)::value>(product, keep, rows, index);
  });
}

}  // namespace
}  // namespace metafast
