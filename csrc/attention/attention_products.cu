// The products of attention_products.cuh, in tiles that pass through shared memory.
#include "attention/attention_products.cuh"

#include "attention/score_tile.cuh"
#include "common/dynamic_shared.cuh"
#include "common/launch.cuh"

namespace metafast::attention {
namespace {

constexpr int kBlockColumns = 128;
constexpr int kRowsTogether = 32;

template <class T>
struct alignas(16) WeightedMemory {
  T weights[kTile][kRowsTogether + 4];
  T rows[kRowsTogether][kBlockColumns + 4];
};

// Adds sum_index weights[row, index] rows[index] for kTile rows and kBlockColumns columns.
template <class T>
__device__ void add_product(T (&sums)[kEach][2][4], const WeightedRows<T>& arguments, const View<const T>& weights,
                            const View<const T>& rows, std::int64_t problem, std::int64_t first, std::int64_t column,
                            WeightedMemory<T>& memory, const TilePlace& place) {
  const Extents& extents = arguments.extents;
  const std::int64_t batch = problem / extents.heads;
  const std::int64_t end = end_of_keys(arguments.selection, extents, batch);
  const std::int64_t outer = arguments.transposed ? end : extents.queries;
  const std::int64_t inner = arguments.transposed ? extents.queries : end;
  const T* weight = rows_of(weights, extents, problem);
  const T* row = rows_of(rows, extents, problem);
  const bool both = arguments.columns - column > kTile;
  for (std::int64_t begin = 0; begin < inner; begin += kRowsTogether) {
    __syncthreads();
    for (int index = threadIdx.x; index < kTile * kRowsTogether; index += kTileThreads) {
      const int in = arguments.transposed ? index / kTile : index % kRowsTogether;
      const int out = arguments.transposed ? index % kTile : index / kRowsTogether;
      const std::int64_t query = arguments.transposed ? begin + in : first + out;
      const std::int64_t key = arguments.transposed ? first + out : begin + in;
      const bool inside = first + out < outer && begin + in < inner && takes_part(arguments.selection, batch, key);
      memory.weights[out][in] = inside ? weight[query * weights.row_stride + key] : T(0);
    }
    for (int index = threadIdx.x; index < kRowsTogether * kBlockColumns; index += kTileThreads) {
      const int in = index / kBlockColumns, h = index % kBlockColumns;
      const bool inside = begin + in < inner && column + h < arguments.columns &&
                          (arguments.transposed || takes_part(arguments.selection, batch, begin + in));
      memory.rows[in][h] = inside ? row[(begin + in) * rows.row_stride + column + h] : T(0);
    }
    __syncthreads();
#pragma unroll 1
    for (int in = 0; in < kRowsTogether; in += 4) {
      Four<T> four[kEach];
#pragma unroll
      for (int i = 0; i < kEach; ++i) four[i] = four_of(&memory.weights[place.first + kGroups * i][in]);
      add_rows(sums, four, &memory.rows[in][4 * place.second], kBlockColumns + 4, both);
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kTileThreads)
    weighted_rows(WeightedRows<T> arguments, std::int64_t tiles, std::int64_t chunks) {
  WeightedMemory<T>& memory = *dynamic_shared<WeightedMemory<T>>();
  const Extents& extents = arguments.extents;
  const std::int64_t problem = blockIdx.x / (tiles * chunks), batch = problem / extents.heads;
  const std::int64_t first = blockIdx.x / chunks % tiles * kTile, column = blockIdx.x % chunks * kBlockColumns;
  const std::int64_t rows = arguments.transposed ? extents.keys : extents.queries;
  const std::int64_t end = end_of_keys(arguments.selection, extents, batch);
  const TilePlace place;
  T sums[kEach][2][4] = {};
  add_product(sums, arguments, arguments.weights, arguments.rows, problem, first, column, memory, place);
  if (arguments.more_rows.data != nullptr)
    add_product(sums, arguments, arguments.more_weights, arguments.more_rows, problem, first, column, memory, place);
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const std::int64_t row = first + place.first + kGroups * i;
    if (row >= rows) continue;
    const bool active = !arguments.transposed || (row < end && takes_part(arguments.selection, batch, row));
    T* out = arguments.out + (problem * rows + row) * arguments.out_stride + column;
#pragma unroll
    for (int c = 0; c < 2; ++c)
#pragma unroll
      for (int v = 0; v < 4; ++v) {
        const int h = 4 * place.second + kTile * c + v;
        if (column + h < arguments.columns) out[h] = active ? sums[i][c][v] : T(0);
      }
  }
}

template <class T>
__global__ void __launch_bounds__(kTileThreads)
    row_products(RowProducts<T> arguments, std::int64_t first_tiles, std::int64_t second_tiles) {
  TileMemory<T>& memory = *dynamic_shared<TileMemory<T>>();
  const Extents& extents = arguments.extents;
  const std::int64_t problem = blockIdx.x / (first_tiles * second_tiles), batch = problem / extents.heads;
  const std::int64_t query = blockIdx.x / second_tiles % first_tiles * kTile;
  const std::int64_t key = blockIdx.x % second_tiles * kTile;
  const std::int64_t end = end_of_keys(arguments.selection, extents, batch);
  const TilePlace place;
  T sums[kEach][kEach] = {};
  const auto at_most = [](std::int64_t count) { return count < 0 ? 0 : count < kTile ? count : kTile; };
  if (key < end)
    add_tile<Products, false>(sums,
                       TileRows<T>{rows_of(arguments.first, extents, problem) + query * arguments.first.row_stride,
                                   arguments.first.row_stride, at_most(extents.queries - query)},
                       TileRows<T>{rows_of(arguments.second, extents, problem) + key * arguments.second.row_stride,
                                   arguments.second.row_stride, at_most(end - key)},
                       arguments.columns, memory, place, [](std::int64_t) { return T(0); });
#pragma unroll
  for (int i = 0; i < kEach; ++i)
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      const std::int64_t row = query + place.first + kGroups * i, column = key + place.second + kGroups * j;
      if (row >= extents.queries || column >= extents.keys) continue;
      const bool active = column < end && takes_part(arguments.selection, batch, column);
      arguments.out[(problem * extents.queries + row) * extents.keys + column] = active ? sums[i][j] : T(0);
    }
}

}  // namespace

template <class T>
void add_weighted_rows(const WeightedRows<T>& arguments, const Stream& stream) {
  const Extents& extents = arguments.extents;
  const std::int64_t rows = arguments.transposed ? extents.keys : extents.queries;
  if (extents.problems() == 0 || rows == 0 || arguments.columns <= 0) return;
  const std::int64_t tiles = tiles_of(rows, kTile), chunks = tiles_of(arguments.columns, kBlockColumns);
  launch(stream, row_of_blocks(extents.problems() * tiles * chunks), kTileThreads, sizeof(WeightedMemory<T>),
         weighted_rows<T>, arguments, tiles, chunks);
}

template <class T>
void multiply_rows(const RowProducts<T>& arguments, const Stream& stream) {
  const Extents& extents = arguments.extents;
  if (extents.problems() == 0 || extents.queries == 0 || extents.keys == 0) return;
  const std::int64_t first_tiles = tiles_of(extents.queries, kTile), second_tiles = tiles_of(extents.keys, kTile);
  launch(stream, row_of_blocks(extents.problems() * first_tiles * second_tiles), kTileThreads, sizeof(TileMemory<T>),
         row_products<T>, arguments, first_tiles, second_tiles);
}

template void add_weighted_rows(const WeightedRows<float>&, const Stream&);
template void add_weighted_rows(const WeightedRows<double>&, const Stream&);
template void multiply_rows(const RowProducts<float>&, const Stream&);
template void multiply_rows(const RowProducts<double>&, const Stream&);

}  // namespace metafast::attention
