// Additive attention forward: a block has 64 queries of a problem, or 16, and goes through its keys, 64 at a time;
// scores, running softmax (Milakov and Gimelshein 2018) and the first columns of the context in one pass.
#include "attention/additive_device.hpp"
#include "attention/attention_products.cuh"
#include "attention/score_tile.cuh"
#include "common/dynamic_shared.cuh"
#include "common/launch.cuh"

namespace metafast::attention {
namespace {

constexpr int kValueRows = 32;                           // that lie in shared memory together
constexpr int kValueStride = static_cast<int>(kContextColumns) + 4;
constexpr int kWeightStride = kTile + 4;

template <int each, class T>
struct alignas(16) ForwardMemory {
  union {
    TileMemory<T> tile;
    T values[kValueRows][kValueStride];
  };
  T weights[each * kGroups][kWeightStride];  // scores without their factor, then weights without their sum
  T largest[each * kGroups], sums[each * kGroups], rescale[each * kGroups];
  bool active[kTile];
};

// Sums of a tile in the problem's form, and with which sign they are scores.
template <int each, class T>
__device__ __forceinline__ void score_tile(T (&sums)[each][kEach], const DeviceAdditive<T>& arguments,
                                           DeviceForm form, std::int64_t head, const TileRows<T>& queries,
                                           const TileRows<T>& keys, TileMemory<T>& memory, const TilePlace& place) {
  const std::int64_t padded = padded_columns(arguments.extents.width);
  const T* weights = arguments.keys.weights + head * padded;
  if constexpr (sizeof(T) == sizeof(float)) {
    const T* inverses = arguments.keys.inverses + head * padded;
    if (form == DeviceForm::quads)
      return add_tile<Quads, true>(sums, queries, keys, padded, memory, place, [&](std::int64_t h) {
        return inverses[h] == T(0) ? kQuadPadding : kQuadScale * inverses[h];
      });
    if (form == DeviceForm::pairs)
      return add_tile<Pairs, true>(sums, queries, keys, padded, memory, place,
                             [&](std::int64_t h) { return weights[h]; });
  }
  add_tile<Direct, true>(sums, queries, keys, padded, memory, place, [&](std::int64_t h) { return weights[h]; });
}

// Values of kValueRows keys, of which `count` are there, to shared memory: 128 columns of them, or 64 where there are
// no more; zeros for keys that take no part.
template <class Unit, class T>
__device__ __forceinline__ void load_values(T (&to)[kValueRows][kValueStride], const T* rows, std::int64_t stride,
                                            std::int64_t count, const bool* active, int columns) {
  constexpr int step = sizeof(Unit) / sizeof(T), loads = 4;
  const int units = (columns > kTile ? 2 * kTile : kTile) / step;  // of a row, a power of two that threads share
  const int column = threadIdx.x % units * step, rows_together = kTileThreads / units;
#pragma unroll 1
  for (int first = threadIdx.x / units; first < kValueRows; first += loads * rows_together) {
    Unit unit[loads]{};
#pragma unroll
    for (int load = 0; load < loads; ++load) {
      const int row = first + load * rows_together;
      if (row < kValueRows && row < count && active[row] && column < columns)
        unit[load] = *reinterpret_cast<const Unit*>(rows + row * stride + column);
    }
#pragma unroll
    for (int load = 0; load < loads; ++load) {
      const int row = first + load * rows_together;
      if (row < kValueRows) *reinterpret_cast<Unit*>(&to[row][column]) = unit[load];
    }
  }
}

// `each`: queries of a thread.
template <int each, class T>
__global__ void __launch_bounds__(kTileThreads, sizeof(T) == sizeof(float) ? 2 : 1)
    forward(DeviceAdditiveForward<T> arguments, std::int64_t tiles) {
  constexpr int block_queries = each * kGroups;
  constexpr int row_threads = kTileThreads / block_queries;  // that share a row of the softmax
  constexpr int rows_of_warp = block_queries / (kTileThreads / kWarpSize);
  auto& memory = *dynamic_shared<ForwardMemory<each, T>>();
  const Extents& extents = arguments.extents;
  const std::int64_t problem = blockIdx.x / tiles, first = blockIdx.x % tiles * block_queries;
  const std::int64_t batch = problem / extents.heads, head = problem % extents.heads;
  const std::int64_t padded = padded_columns(extents.width);
  const std::int64_t queries = extents.queries - first < block_queries ? extents.queries - first : block_queries;
  const std::int64_t end = end_of_keys(arguments.selection, extents, batch);
  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  const TilePlace place;
  const DeviceForm form = arguments.keys.forms[problem];
  const bool negative = form != DeviceForm::direct;
  const T scale = negative ? 2 * query_scale<T>(form) : T(1);
  const T factor = scalbn(scale, arguments.keys.exponents[head]);
  const TileRows<T> query_rows{arguments.query_rows + (problem * extents.queries + first) * padded, padded, queries};
  T* const raw = arguments.weights ? arguments.weights + (problem * extents.queries + first) * extents.keys : nullptr;
  const int columns = extents.value_width < kContextColumns ? static_cast<int>(extents.value_width) : kContextColumns;
  const T* value = rows_of(arguments.value, extents, problem);
  const bool by_fours = columns % 4 == 0 && arguments.value.row_stride * sizeof(T) % 16 == 0 &&
                        reinterpret_cast<std::uintptr_t>(value) % 16 == 0;

  if (threadIdx.x < block_queries) {
    memory.largest[threadIdx.x] = -T(INFINITY);
    memory.sums[threadIdx.x] = 0;
  }
  // Columns 4 place.second + 64 c of the context.
  T context[each][2][4] = {};
  for (std::int64_t begin = 0; begin < end; begin += kTile) {
    const bool active = threadIdx.x < kTile && begin + threadIdx.x < end &&
                        takes_part(arguments.selection, batch, begin + threadIdx.x);
    if (!__syncthreads_or(active)) continue;
    if (threadIdx.x < kTile) memory.active[threadIdx.x] = active;
    const std::int64_t keys = end - begin < kTile ? end - begin : kTile;
    T sums[each][kEach] = {};
    score_tile(sums, arguments, form, head, query_rows,
               TileRows<T>{arguments.keys.rows + (problem * extents.keys + begin) * padded, padded, keys},
               memory.tile, place);
#pragma unroll
    for (int i = 0; i < each; ++i)
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
        const int key = place.second + kGroups * j;
        const T score = negative ? -sums[i][j] : sums[i][j];
        memory.weights[place.first + kGroups * i][key] = memory.active[key] ? score : -T(INFINITY);
      }
    __syncthreads();
    if (raw)
#pragma unroll
      for (int index = 0; index < rows_of_warp; ++index) {
        const int row = warp * rows_of_warp + index;
        if (row >= queries) break;
        for (int key = lane; key < keys; key += kWarpSize)
          raw[row * extents.keys + begin + key] = memory.weights[row][key];
      }
    __syncthreads();
    {
      const int row = threadIdx.x / row_threads, part = threadIdx.x % row_threads;
      T largest = -T(INFINITY);
#pragma unroll
      for (int key = part; key < kTile; key += row_threads)
        largest = memory.weights[row][key] > largest ? memory.weights[row][key] : largest;
#pragma unroll
      for (int offset = row_threads / 2; offset > 0; offset /= 2) {
        const T other = __shfl_xor_sync(kWholeWarp, largest, offset);
        largest = other > largest ? other : largest;
      }
      const T before = memory.largest[row];
      largest = before > largest ? before : largest;
      T sum = 0;
#pragma unroll
      for (int key = part; key < kTile; key += row_threads) {
        const T weight =
            memory.active[key] ? vector_exp(factor * (memory.weights[row][key] - largest)) : T(0);
        memory.weights[row][key] = weight;
        sum += weight;
      }
#pragma unroll
      for (int offset = row_threads / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(kWholeWarp, sum, offset);
      __syncwarp();
      if (part == 0) {
        // Of nothing at first; the factor may have come out as 0.
        const T rescale = before > -T(INFINITY) ? vector_exp(factor * (before - largest)) : T(0);
        memory.rescale[row] = rescale;
        memory.sums[row] = memory.sums[row] * rescale + sum;
        memory.largest[row] = largest;
      }
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < each; ++i) {
      const T rescale = memory.rescale[place.first + kGroups * i];
#pragma unroll
      for (int c = 0; c < 2; ++c)
#pragma unroll
        for (int v = 0; v < 4; ++v) context[i][c][v] *= rescale;
    }
    for (int half = 0; half < kTile && half < keys; half += kValueRows) {
      __syncthreads();
      const std::int64_t stride = arguments.value.row_stride;
      const T* rows = value + (begin + half) * stride;
      if (by_fours)
        load_values<Four<T>>(memory.values, rows, stride, keys - half, &memory.active[half], columns);
      else
        load_values<T>(memory.values, rows, stride, keys - half, &memory.active[half], columns);
      __syncthreads();
#pragma unroll 1
      for (int key = 0; key < kValueRows; key += 4) {
        Four<T> weights[each];
#pragma unroll
        for (int i = 0; i < each; ++i) weights[i] = four_of(&memory.weights[place.first + kGroups * i][half + key]);
        add_rows(context, weights, &memory.values[key][4 * place.second], kValueStride, columns > kTile);
      }
    }
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < each; ++i) {
    const int row = place.first + kGroups * i;
    if (row >= queries) continue;
    const T inverse = end == 0 || memory.sums[row] == T(0) ? T(0) : T(1) / memory.sums[row];
    T* out = arguments.context + (problem * extents.queries + first + row) * extents.value_width;
#pragma unroll
    for (int c = 0; c < 2; ++c)
#pragma unroll
      for (int v = 0; v < 4; ++v) {
        const int column = 4 * place.second + kTile * c + v;
        if (column < columns) out[column] = context[i][c][v] * inverse;
      }
  }
  if (raw == nullptr) return;
  for (int index = 0; index < rows_of_warp; ++index) {
    const int row = warp * rows_of_warp + index;
    if (row >= queries) break;
    const T largest = memory.largest[row], inverse = T(1) / memory.sums[row];
    for (std::int64_t key = lane; key < extents.keys; key += kWarpSize) {
      T& weight = raw[row * extents.keys + key];
      weight = key < end && takes_part(arguments.selection, batch, key)
                   ? vector_exp(factor * (weight - largest)) * inverse
                   : T(0);
    }
  }
}

}  // namespace

template <class T>
void attend(const DeviceAdditiveForward<T>& arguments, const Stream& stream) {
  const Extents& extents = arguments.extents;
  if (extents.problems() == 0 || extents.queries == 0) return;
  const DeviceScope scope(stream);
  prepare_queries(arguments, stream);
  // Many queries to a block share what it loads; few make more blocks.
  const std::int64_t whole_tiles = tiles_of(extents.queries, kTile), small_tiles = tiles_of(extents.queries, kGroups);
  const bool whole = sizeof(T) == sizeof(float) && extents.queries > kGroups &&
                     extents.problems() * whole_tiles >= count_multiprocessors(stream);
  constexpr int most = sizeof(T) == sizeof(float) ? kEach : 1;
  const std::int64_t tiles = whole ? whole_tiles : small_tiles;
  launch(stream, row_of_blocks(extents.problems() * tiles), kTileThreads,
         whole ? sizeof(ForwardMemory<most, T>) : sizeof(ForwardMemory<1, T>),
         whole ? forward<most, T> : forward<1, T>, arguments, tiles);
  if (extents.value_width <= kContextColumns) return;
  // The other columns, from the weights.
  WeightedRows<T> rest;
  rest.extents = extents;
  rest.selection = arguments.selection;
  rest.weights = {arguments.weights, extents.heads * extents.queries * extents.keys, extents.queries * extents.keys,
                  extents.keys};
  rest.rows = arguments.value;
  rest.rows.data += kContextColumns;
  rest.out = arguments.context + kContextColumns;
  rest.columns = extents.value_width - kContextColumns;
  rest.out_stride = extents.value_width;
  add_weighted_rows(rest, stream);
}

template void attend(const DeviceAdditiveForward<float>&, const Stream&);
template void attend(const DeviceAdditiveForward<double>&, const Stream&);

}  // namespace metafast::attention
