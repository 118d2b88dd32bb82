// A tile of the keys that take part, brought next to each other: what is masked is never read, so a NaN or infinity
// in it cannot leak. For kernel files only.
#pragma once

#include "attention/dot_product.hpp"
#include "common/matrix.hpp"
#include "common/transpose.hpp"

namespace metafast::attention {
namespace {

struct KeyTile {
  std::int64_t count = 0;
  bool contiguous = true;
  std::int64_t index[kTileKeys];  // where each key lies among all keys, ascending

  std::int64_t index_or_last(std::int64_t key) const { return index[key < count ? key : count - 1]; }

  // How many of the tile's keys the query may see.
  std::int64_t limit(bool causal, std::int64_t query) const {
    if (!causal || index[count - 1] <= query) return count;
    if (contiguous) return query < index[0] ? 0 : query - index[0] + 1;
    std::int64_t seen = 0;
    while (index[seen] <= query) ++seen;
    return seen;
  }
};

// Walks the keys of one batch entry below `end`.
struct KeyWalk {
  const KeySelection& selection;
  std::int64_t batch;
  std::int64_t end;
  std::int64_t next = 0;

  // The next tile; false where no key is left.
  bool take(KeyTile& tile) {
    tile.count = 0;
    if (selection.mask == nullptr) {
      for (; tile.count < kTileKeys && next < end; ++next) tile.index[tile.count++] = next;
    } else {
      for (; tile.count < kTileKeys && next < end; ++next)
        if (selection.takes(batch, next)) tile.index[tile.count++] = next;
    }
    tile.contiguous = tile.count == 0 || tile.index[tile.count - 1] - tile.index[0] == tile.count - 1;
    return tile.count > 0;
  }
};

template <class T>
constexpr std::int64_t kPanel = kTileVectors * kLanes<T>;

template <class T>
[[gnu::always_inline]] inline std::int64_t whole_vectors(std::int64_t count) {
  constexpr std::int64_t W = kLanes<T>;
  return (count + W - 1) / W * W;
}

// The rows of the tile transposed, as panels [steps][kPanel] one after the other; a last vector that the keys do not
// fill repeats the last key, and its columns are for nobody to read.
template <class T>
[[gnu::noinline]] void pack_transposed(const KeyTile& tile, const T* from, std::int64_t stride, std::int64_t steps,
                                       T* to) {
  constexpr int W = kLanes<T>;
  using P = Pack<T, W>;
  for (std::int64_t first = 0; first < tile.count; first += W) {
    T* column = to + first / kPanel<T> * kPanel<T> * steps + first % kPanel<T>;
    const T* rows[W];
    for (int i = 0; i < W; ++i) rows[i] = from + tile.index_or_last(first + i) * stride;
    std::int64_t step = 0;
    for (; step + W <= steps; step += W) {
      typename P::Real vectors[W];
      for (int i = 0; i < W; ++i) vectors[i] = P::load(rows[i] + step);
      transpose<T, W>(vectors);
      for (int i = 0; i < W; ++i) P::store(column + (step + i) * kPanel<T>, vectors[i]);
    }
    for (; step < steps; ++step)
      for (int i = 0; i < W; ++i) column[step * kPanel<T> + i] = rows[i][step];
  }
}

// C[i, j] = sum over p of A[i, p] times column j of the tile packed by pack_transposed, for `columns` of its columns,
// rounded up to whole vectors.
template <class T>
void multiply_packed(std::int64_t rows, std::int64_t columns, std::int64_t steps, const T* a, std::int64_t a_row,
                     const T* packed, T* c, std::int64_t c_row) {
  for (std::int64_t first = 0; first < columns; first += kPanel<T>) {
    const std::int64_t left = columns - first;
    multiply(rows, left < kPanel<T> ? whole_vectors<T>(left) : kPanel<T>, steps, a, a_row, std::int64_t{1},
             packed + first * steps, kPanel<T>, c + first, c_row, false);
  }
}

template <class T>
struct Rows {
  const T* data;
  std::int64_t stride;
};

// The tile's rows as a matrix: where they lie if they lie together, else copied to `beside`.
template <class T>
Rows<T> together(const KeyTile& tile, const T* from, std::int64_t stride, std::int64_t width, T* beside,
                 bool stride_matters) {
  if (tile.contiguous && (stride == width || !stride_matters)) return {from + tile.index[0] * stride, stride};
  for (std::int64_t row = 0; row < tile.count; ++row)
    __builtin_memcpy(beside + row * width, from + tile.index[row] * stride, sizeof(T) * width);
  return {beside, width};
}

// C (+)= A B where row i of A has only limits[i] steps, an ascending sequence: what lies beyond is not multiplied, for
// it may be NaN or infinite in B. `limits` is null where all rows have `steps`.
template <class T>
void multiply_to_limits(std::int64_t rows, std::int64_t columns, std::int64_t steps, const std::int64_t* limits,
                        const T* a, std::int64_t a_row, const T* b, std::int64_t b_row, T* c, std::int64_t c_row) {
  if (limits == nullptr || limits[0] >= steps)
    return multiply(rows, columns, steps, a, a_row, std::int64_t{1}, b, b_row, c, c_row, true);
  for (std::int64_t first = 0; first < rows; first += kTileRows) {
    const std::int64_t last = first + kTileRows < rows ? first + kTileRows : rows;
    const std::int64_t shared = limits[first];
    multiply(last - first, columns, shared, a + first * a_row, a_row, std::int64_t{1}, b, b_row, c + first * c_row,
             c_row, true);
    for (std::int64_t row = first + 1; row < last; ++row)
      if (limits[row] > shared)
        multiply(std::int64_t{1}, columns, limits[row] - shared, a + row * a_row + shared, a_row, std::int64_t{1},
                 b + shared * b_row, b_row, c + row * c_row, c_row, true);
  }
}

// C += A^T B where column j of A starts at row starts(j), the first whose limit is beyond j: the same triangle, walked
// the other way.
template <class T>
void multiply_transposed_to_limits(std::int64_t rows, std::int64_t columns, std::int64_t steps,
                                   const std::int64_t* limits, const T* a, std::int64_t a_row, const T* b,
                                   std::int64_t b_row, T* c, std::int64_t c_row) {
  if (limits == nullptr || limits[0] >= steps)
    return multiply(steps, columns, rows, a, std::int64_t{1}, a_row, b, b_row, c, c_row, true);
  for (std::int64_t first = 0; first < steps; first += kTileRows) {
    const std::int64_t last = first + kTileRows < steps ? first + kTileRows : steps;
    // From this row on every column of the group takes part.
    std::int64_t shared = 0;
    while (shared < rows && limits[shared] < last) ++shared;
    for (std::int64_t row = 0; row < shared; ++row)
      if (limits[row] > first)
        multiply(limits[row] - first, columns, std::int64_t{1}, a + row * a_row + first, std::int64_t{1}, a_row,
                 b + row * b_row, b_row, c + first * c_row, c_row, true);
    if (shared < rows)
      multiply(last - first, columns, rows - shared, a + shared * a_row + first, std::int64_t{1}, a_row,
               b + shared * b_row, b_row, c + first * c_row, c_row, true);
  }
}

}  // namespace
}  // namespace metafast::attention
