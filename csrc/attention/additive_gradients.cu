// Additive attention backward and double backward; formulas in additive_backward.hpp and additive_double_backward.hpp.
#include "attention/additive_gradients.cuh"

#include "attention/attention_products.cuh"
#include "attention/score_tile.cuh"
#include "common/dynamic_shared.cuh"
#include "common/launch.cuh"

namespace metafast::attention {
namespace {

template <class Order, class T>
__global__ void __launch_bounds__(kSumThreads) sum_all(SumArguments<T> arguments, std::int64_t chunks) {
  auto& memory = *dynamic_shared<SumMemory<T, Order::kSecond>>();
  const std::int64_t splits = arguments.backward.splits;
  const std::int64_t problem = blockIdx.x / (chunks * splits);
  const std::int64_t chunk = blockIdx.x / splits % chunks, split = blockIdx.x % splits;
  if constexpr (sizeof(T) == sizeof(float) && !Order::kSecond)
    if (arguments.backward.keys.forms[problem] == DeviceForm::product)
      return sum_shares<TanhOfProducts, Order>(arguments, memory, problem, chunk, split);
  sum_shares<TanhOfSum, Order>(arguments, memory, problem, chunk, split);
}

// Key gradients from those of the queries' parts, times w where it has been left to the end.
template <class T>
__global__ void __launch_bounds__(kSumThreads)
    add_key_sums(DeviceAdditiveBackward<T> arguments, std::int64_t count, bool times_weights) {
  const Extents& extents = arguments.extents;
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kSumThreads + threadIdx.x;
  if (index >= count) return;
  T sum = arguments.key_sums[index];
  for (std::int64_t split = 1; split < arguments.splits; ++split) sum += arguments.key_sums[split * count + index];
  const std::int64_t h = index % extents.width, head = index / (extents.width * extents.keys) % extents.heads;
  // Where a key takes no part the sum is 0, whatever the weight.
  if (times_weights && sum != T(0)) sum *= arguments.score_weight.data[head * arguments.score_weight.head_stride + h];
  arguments.key_gradient[index] = sum;
}

constexpr int kReduceRows = 8;

// The gradient of the score weights: sums of all parts of all batch entries, in their order, in double precision.
template <class T>
__global__ void __launch_bounds__(kWarpSize* kReduceRows) add_weight_sums(DeviceAdditiveBackward<T> arguments) {
  const Extents& extents = arguments.extents;
  const std::int64_t padded = padded_columns(extents.width), chunks = tiles_of(extents.width, kWarpSize);
  const std::int64_t head = blockIdx.x / chunks, h = blockIdx.x % chunks * kWarpSize + threadIdx.x;
  double sum = 0;
  if (h < extents.width)
    for (std::int64_t entry = threadIdx.y; entry < arguments.splits * extents.batch; entry += kReduceRows)
      sum += static_cast<double>(arguments.weight_sums[(entry * extents.heads + head) * padded + h]);
  __shared__ double sums[kReduceRows][kWarpSize];
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || h >= extents.width) return;
#pragma unroll
  for (int row = 1; row < kReduceRows; ++row) sum += sums[row][threadIdx.x];
  arguments.score_weight_gradient[head * extents.width + h] = static_cast<T>(sum);
}

constexpr int kRowThreads = 256;

// Of d_weights, in `scores`, and their own gradient: the gradient of the scores. A warp for each query.
template <class T>
__global__ void __launch_bounds__(kRowThreads) through_softmax(DeviceAdditiveBackward<T> arguments, std::int64_t rows) {
  const Extents& extents = arguments.extents;
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * (kRowThreads / kWarpSize) + threadIdx.x / kWarpSize;
  if (row >= rows) return;
  const int lane = threadIdx.x % kWarpSize;
  const std::int64_t problem = row / extents.queries, query = row % extents.queries, batch = problem / extents.heads;
  const T* weights = rows_of(arguments.weights, extents, problem) + query * arguments.weights.row_stride;
  const T* own = arguments.weights_gradient.data == nullptr
                     ? nullptr
                     : rows_of(arguments.weights_gradient, extents, problem) +
                           query * arguments.weights_gradient.row_stride;
  T* scores = arguments.scores + row * extents.keys;
  const std::int64_t end = end_of_keys(arguments.selection, extents, batch);
  T mean = 0;
  for (std::int64_t key = lane; key < end; key += kWarpSize) {
    if (!takes_part(arguments.selection, batch, key)) continue;
    if (own != nullptr) scores[key] += own[key];
    mean += weights[key] * scores[key];
  }
  mean = sum_of_warp(mean);
  for (std::int64_t key = lane; key < end; key += kWarpSize)
    if (takes_part(arguments.selection, batch, key)) scores[key] = weights[key] * (scores[key] - mean);
}

// The same of the double backward pass: u to r, p to b, d_weights to ds.
template <class T>
__global__ void __launch_bounds__(kRowThreads)
    through_softmax_twice(DeviceAdditiveDoubleBackward<T> arguments, std::int64_t rows) {
  const Extents& extents = arguments.extents;
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * (kRowThreads / kWarpSize) + threadIdx.x / kWarpSize;
  if (row >= rows) return;
  const int lane = threadIdx.x % kWarpSize;
  const std::int64_t problem = row / extents.queries, query = row % extents.queries, batch = problem / extents.heads;
  const T* weights = rows_of(arguments.weights, extents, problem) + query * arguments.weights.row_stride;
  const T* own = arguments.weights_gradient.data == nullptr
                     ? nullptr
                     : rows_of(arguments.weights_gradient, extents, problem) +
                           query * arguments.weights_gradient.row_stride;
  T* scores = arguments.scores + row * extents.keys;
  T* inner = arguments.inner + row * extents.keys;
  T* products = arguments.products + row * extents.keys;
  const std::int64_t end = end_of_keys(arguments.selection, extents, batch);
  T mean = 0, inner_mean = 0;
  for (std::int64_t key = lane; key < end; key += kWarpSize) {
    if (!takes_part(arguments.selection, batch, key)) continue;
    if (own != nullptr) scores[key] += own[key];
    mean += weights[key] * scores[key];
    inner_mean += weights[key] * inner[key];
  }
  mean = sum_of_warp(mean);
  inner_mean = sum_of_warp(inner_mean);
  T product_mean = 0;
  for (std::int64_t key = lane; key < end; key += kWarpSize) {
    if (!takes_part(arguments.selection, batch, key)) continue;
    const T t = scores[key], u = inner[key];
    const T product = products[key] + (t * (u - inner_mean) - mean * u);
    products[key] = product;
    product_mean += weights[key] * product;
    inner[key] = weights[key] * (u - inner_mean);
    scores[key] = weights[key] * (t - mean);
  }
  product_mean = sum_of_warp(product_mean);
  for (std::int64_t key = lane; key < end; key += kWarpSize)
    if (takes_part(arguments.selection, batch, key)) products[key] = weights[key] * (products[key] - product_mean);
}

template <class T>
struct alignas(16) InnerMemory {
  T queries[kTile][kColumnStride<T>], keys[kTile][kColumnStride<T>];
  T query_cotangents[kTile][kColumnStride<T>], key_cotangents[kTile][kColumnStride<T>];
};

// u[query, key] = sum_h w tanh' (gq + gk) + gw tanh, in tiles; zeros for keys that take no part.
template <class T>
__global__ void __launch_bounds__(kTileThreads)
    inner_products(DeviceAdditiveDoubleBackward<T> arguments, std::int64_t query_tiles, std::int64_t key_tiles) {
  InnerMemory<T>& memory = *dynamic_shared<InnerMemory<T>>();
  const Extents& extents = arguments.extents;
  const std::int64_t problem = blockIdx.x / (query_tiles * key_tiles), batch = problem / extents.heads;
  const std::int64_t query = blockIdx.x / key_tiles % query_tiles * kTile, key = blockIdx.x % key_tiles * kTile;
  const std::int64_t end = end_of_keys(arguments.selection, extents, batch), head = problem % extents.heads;
  const auto rows_at = [&](const View<const T>& view, std::int64_t first, std::int64_t rows) {
    // Rows that are not given count as zeros.
    const std::int64_t left = view.data == nullptr || rows < first ? 0 : rows - first;
    return TileRows<T>{view.data == nullptr ? nullptr : rows_of(view, extents, problem) + first * view.row_stride,
                       view.row_stride, left < kTile ? left : kTile};
  };
  const TilePlace place;
  T sums[kEach][kEach] = {};
  if (key < end)
    for (std::int64_t begin = 0; begin < extents.width; begin += kColumns<T>) {
      __syncthreads();
      load_rows<kTile, false>(memory.queries, rows_at(arguments.query, query, extents.queries), memory.keys,
                              rows_at(arguments.key, key, end), begin, extents.width);
      load_rows<kTile, false>(memory.query_cotangents, rows_at(arguments.query_cotangent, query, extents.queries),
                              memory.key_cotangents, rows_at(arguments.key_cotangent, key, end), begin, extents.width);
      __syncthreads();
      const int columns = extents.width - begin < kColumns<T> ? static_cast<int>(extents.width - begin) : kColumns<T>;
#pragma unroll 1
      for (int column = 0; column < columns; ++column) {
        const std::int64_t h = begin + column;
        const T weight = arguments.score_weight.data[head * arguments.score_weight.head_stride + h];
        const T weight_cotangent =
            arguments.score_weight_cotangent.data == nullptr
                ? T(0)
                : arguments.score_weight_cotangent.data[head * arguments.score_weight_cotangent.head_stride + h];
#pragma unroll
        for (int i = 0; i < kEach; ++i) {
          const T q = memory.queries[place.first + kGroups * i][column];
          const T of_query = memory.query_cotangents[place.first + kGroups * i][column];
#pragma unroll
          for (int j = 0; j < kEach; ++j) {
            const T tanh = vector_tanh(q + memory.keys[place.second + kGroups * j][column]);
            const T both = of_query + memory.key_cotangents[place.second + kGroups * j][column];
            sums[i][j] += weight * (T(1) - tanh * tanh) * both + weight_cotangent * tanh;
          }
        }
      }
    }
#pragma unroll
  for (int i = 0; i < kEach; ++i)
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      const std::int64_t row = query + place.first + kGroups * i, column = key + place.second + kGroups * j;
      if (row >= extents.queries || column >= extents.keys) continue;
      const bool active = column < end && takes_part(arguments.selection, batch, column);
      arguments.inner[(problem * extents.queries + row) * extents.keys + column] = active ? sums[i][j] : T(0);
    }
}

// d_weights of every query and key, or what the values' cotangents make of them.
template <class T>
void multiply_with_context_gradient(const DeviceAdditiveBackward<T>& arguments, const View<const T>& rows, T* out,
                                    const Stream& stream) {
  RowProducts<T> products;
  products.extents = arguments.extents;
  products.selection = arguments.selection;
  products.first = arguments.context_gradient;
  products.second = rows;
  products.columns = rows.data == nullptr ? 0 : arguments.extents.value_width;
  products.out = out;
  multiply_rows(products, stream);
}

template <class T>
View<const T> contiguous(const T* data, const Extents& extents) {
  const std::int64_t problem = extents.queries * extents.keys;
  return {data, extents.heads * problem, problem, extents.keys};
}

// What both passes end with: sums over queries, keys and both.
template <class Order, class T>
void sum_up(const SumArguments<T>& arguments, const Stream& stream) {
  const DeviceAdditiveBackward<T>& backward = arguments.backward;
  const Extents& extents = backward.extents;
  if (extents.width == 0) return;
  const std::int64_t chunks = tiles_of(extents.width, kWarpSize);
  if (extents.problems() > 0) {
    launch(stream, row_of_blocks(extents.problems() * chunks * backward.splits), kSumThreads,
           sizeof(SumMemory<T, Order::kSecond>), sum_all<Order, T>, arguments, chunks);
    const std::int64_t count = extents.problems() * extents.keys * extents.width;
    if (backward.splits > 1 && count > 0)
      launch(stream, row_of_blocks(tiles_of(count, kSumThreads)), kSumThreads, 0, add_key_sums<T>, backward, count,
             !Order::kSecond);
  }
  if (extents.heads > 0)
    launch(stream, row_of_blocks(extents.heads * chunks), dim3(kWarpSize, kReduceRows), 0, add_weight_sums<T>,
           backward);
}

}  // namespace

template <class T>
void differentiate(const DeviceAdditiveBackward<T>& arguments, const Stream& stream) {
  const DeviceScope scope(stream);
  const Extents& extents = arguments.extents;
  const std::int64_t rows = extents.problems() * extents.queries;
  if (rows > 0) {
    prepare_queries(arguments, stream);
    multiply_with_context_gradient(arguments, arguments.value, arguments.scores, stream);
    launch(stream, row_of_blocks(tiles_of(rows, kRowThreads / kWarpSize)), kRowThreads, 0, through_softmax<T>,
           arguments, rows);
  }
  SumArguments<T> sums;
  sums.backward = arguments;
  sum_up<FirstOrder<T>>(sums, stream);
  WeightedRows<T> values;
  values.extents = extents;
  values.selection = arguments.selection;
  values.weights = arguments.weights;
  values.rows = arguments.context_gradient;
  values.out = arguments.value_gradient;
  values.columns = values.out_stride = extents.value_width;
  values.transposed = true;
  add_weighted_rows(values, stream);
}

template <class T>
void differentiate_twice(const DeviceAdditiveDoubleBackward<T>& arguments, const Stream& stream) {
  const DeviceScope scope(stream);
  const Extents& extents = arguments.extents;
  const std::int64_t rows = extents.problems() * extents.queries;
  if (rows > 0) {
    prepare_queries(arguments, stream);
    multiply_with_context_gradient(arguments, arguments.value, arguments.scores, stream);
    multiply_with_context_gradient(arguments, arguments.value_cotangent, arguments.products, stream);
    if (extents.keys > 0) {
      const std::int64_t query_tiles = tiles_of(extents.queries, kTile), key_tiles = tiles_of(extents.keys, kTile);
      launch(stream, row_of_blocks(extents.problems() * query_tiles * key_tiles), kTileThreads, sizeof(InnerMemory<T>),
             inner_products<T>, arguments, query_tiles, key_tiles);
    }
    launch(stream, row_of_blocks(tiles_of(rows, kRowThreads / kWarpSize)), kRowThreads, 0, through_softmax_twice<T>,
           arguments, rows);
  }
  SumArguments<T> sums;
  sums.backward = arguments;
  sums.query_cotangent = arguments.query_cotangent;
  sums.key_cotangent = arguments.key_cotangent;
  sums.score_weight_cotangent = arguments.score_weight_cotangent;
  sums.seconds = arguments.products;
  sum_up<SecondOrder<T>>(sums, stream);
  WeightedRows<T> products;
  products.extents = extents;
  products.selection = arguments.selection;
  products.weights = contiguous<T>(arguments.inner, extents);
  products.rows = arguments.context_gradient;
  products.out = arguments.value_gradient;
  products.columns = products.out_stride = extents.value_width;
  products.transposed = true;
  add_weighted_rows(products, stream);
  products.rows = arguments.value;
  products.more_weights = arguments.weights;
  products.more_rows = arguments.value_cotangent;
  products.out = arguments.context_gradient_gradient;
  products.transposed = false;
  add_weighted_rows(products, stream);
}

template void differentiate(const DeviceAdditiveBackward<float>&, const Stream&);
template void differentiate(const DeviceAdditiveBackward<double>&, const Stream&);
template void differentiate_twice(const DeviceAdditiveDoubleBackward<float>&, const Stream&);
template void differentiate_twice(const DeviceAdditiveDoubleBackward<double>&, const Stream&);

}  // namespace metafast::attention
