// The keys' ranges and the forms that they allow; the exponentials of keys and queries.
#include "attention/additive_device.hpp"
#include "attention/additive_prepare.cuh"
#include "common/launch.cuh"

namespace metafast::attention {
namespace {

constexpr int kRangeRows = 16;  // threads that share a column's keys
constexpr int kTransformThreads = 256;
constexpr int kTransformRows = 32;  // of a block
constexpr int kLoads = 4;           // of a thread that are on their way together

template <class T>
__device__ __forceinline__ T largest_of_warp(T value) {
#pragma unroll
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    const T other = __shfl_xor_sync(kWholeWarp, value, offset);
    value = other > value ? other : value;
  }
  return value;
}

// The scaled weights of a head, by one warp.
template <class T>
__device__ void weigh(const DeviceAdditive<T>& arguments, std::int64_t head, int lane) {
  const std::int64_t width = arguments.extents.width, padded = padded_columns(width);
  const T* given = arguments.score_weight.data + head * arguments.score_weight.head_stride;
  T largest = 0, smallest = T(INFINITY);
  for (std::int64_t h = lane; h < width; h += kWarpSize) {
    const T magnitude = fabs(given[h]);
    largest = magnitude > largest ? magnitude : largest;
    smallest = magnitude > T(0) && magnitude < smallest ? magnitude : smallest;
  }
  largest = largest_of_warp(largest);
  smallest = -largest_of_warp(-smallest);
  // By a power of two, so that nothing is rounded. Where no number in [1, 2) can be had, as it is.
  const bool scalable = largest > T(0) && largest < T(INFINITY);
  const int exponent = scalable ? ilogb(largest) : 0;
  for (std::int64_t h = lane; h < padded; h += kWarpSize) {
    const T weight = h < width ? T(scalbn(given[h], -exponent)) : T(0);
    arguments.keys.weights[head * padded + h] = weight;
    arguments.keys.inverses[head * padded + h] = weight == T(0) ? T(0) : T(1) / weight;
  }
  if (lane != 0) return;
  arguments.keys.exponents[head] = exponent;
  arguments.keys.smallest[head] = scalable ? ilogb(smallest) - exponent : kUnscaled;
}

// Centres and half ranges of 32 columns of the active keys of a problem.
template <class T>
__global__ void __launch_bounds__(kWarpSize* kRangeRows) find_ranges(DeviceAdditive<T> arguments, std::int64_t chunks) {
  const Extents& extents = arguments.extents;
  const std::int64_t problem = blockIdx.x / chunks, batch = problem / extents.heads;
  const std::int64_t h = blockIdx.x % chunks * kWarpSize + threadIdx.x, padded = padded_columns(extents.width);
  const std::int64_t end = end_of_keys(arguments.selection, extents, batch);
  T low = T(INFINITY), high = -T(INFINITY);
  if (h < extents.width) {
    const T* column = rows_of(arguments.key, extents, problem) + h;
#pragma unroll 4
    for (std::int64_t key = threadIdx.y; key < end; key += kRangeRows) {
      // A NaN is passed over: its row is NaN whatever the centre.
      const T x = takes_part(arguments.selection, batch, key) ? column[key * arguments.key.row_stride] : T(NAN);
      low = x < low ? x : low;
      high = x > high ? x : high;
    }
  }
  __shared__ T lows[kRangeRows][kWarpSize], highs[kRangeRows][kWarpSize];
  lows[threadIdx.y][threadIdx.x] = low;
  highs[threadIdx.y][threadIdx.x] = high;
  __syncthreads();
  if (threadIdx.y == 0 && h < padded) {
#pragma unroll
    for (int row = 1; row < kRangeRows; ++row) {
      low = lows[row][threadIdx.x] < low ? lows[row][threadIdx.x] : low;
      high = highs[row][threadIdx.x] > high ? highs[row][threadIdx.x] : high;
    }
    const bool any = low <= high;
    const T centre = any ? T(0.5) * low + T(0.5) * high : T(0);
    const T below = centre - low, above = high - centre;
    const T half_range = !any ? T(0) : below > above ? below : above;
    arguments.keys.centres[problem * padded + h] = centre;
    arguments.keys.half_ranges[problem * padded + h] = half_range;
    arguments.keys.limits[problem * padded + h] = half_range + Range<T>::kSaturation;
  }
  if (problem < extents.heads && blockIdx.x % chunks == 0 && threadIdx.y == 1) weigh(arguments, problem, threadIdx.x);
}

// The form of a problem, from the half ranges of its columns; for every thread of the block.
template <class T>
__device__ DeviceForm choose_form(const DeviceAdditive<T>& arguments, std::int64_t problem, DevicePass pass) {
  if (sizeof(T) == sizeof(double) || pass == DevicePass::double_backward) return DeviceForm::direct;
  const std::int64_t padded = padded_columns(arguments.extents.width);
  const T* half_ranges = arguments.keys.half_ranges + problem * padded;
  T widest = 0;
  bool finite = true;
  for (std::int64_t h = threadIdx.x % kWarpSize; h < padded; h += kWarpSize) {
    finite = finite && half_ranges[h] <= T(0x1p100);
    widest = half_ranges[h] > widest ? half_ranges[h] : widest;
  }
  widest = largest_of_warp(finite ? widest : T(INFINITY));
  if (widest > Range<T>::kMaxHalfRange) return DeviceForm::direct;
  if (pass == DevicePass::backward) return widest > Range<T>::kNarrow ? DeviceForm::product : DeviceForm::direct;
  const std::int32_t smallest = arguments.keys.smallest[problem % arguments.extents.heads];
  return fits_quads(widest, smallest) ? DeviceForm::quads : DeviceForm::pairs;
}

// One row in its form, by one warp: exponentials of the sums with `sign` times the centres, or itself; zeros where
// there is none. `inverses`: what they are multiplied with, optional.
template <class T>
__device__ __forceinline__ void transform_row(const DeviceAdditive<T>& arguments, DeviceForm form, std::int64_t problem,
                                              const T* row, T sign, T scale, const T* inverses, T* out) {
  const std::int64_t width = arguments.extents.width, padded = padded_columns(width);
  const T* centres = arguments.keys.centres + problem * padded;
  const T* limits = arguments.keys.limits + problem * padded;
  for (std::int64_t begin = threadIdx.x % kWarpSize; begin < padded; begin += kLoads * kWarpSize) {
    T x[kLoads];
#pragma unroll
    for (int load = 0; load < kLoads; ++load) {
      const std::int64_t h = begin + load * kWarpSize;
      x[load] = row != nullptr && h < width ? row[h] : T(0);
    }
#pragma unroll
    for (int load = 0; load < kLoads; ++load) {
      const std::int64_t h = begin + load * kWarpSize;
      if (h >= padded) break;
      T result = 0;
      if (row != nullptr && h < width) {
        result = form == DeviceForm::direct ? x[load]
                                            : shifted_exponential<false>(x[load], sign * centres[h], limits[h], scale);
        if (inverses != nullptr) result *= inverses[h];
      }
      out[h] = result;
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kTransformThreads)
    transform_keys(DeviceAdditive<T> arguments, std::int64_t tiles, DevicePass pass) {
  const Extents& extents = arguments.extents;
  const std::int64_t problem = blockIdx.x / tiles, first = blockIdx.x % tiles * kTransformRows;
  const std::int64_t batch = problem / extents.heads, padded = padded_columns(extents.width);
  const DeviceForm form = choose_form(arguments, problem, pass);
  if (first == 0 && threadIdx.x == 0) arguments.keys.forms[problem] = form;
  const std::int64_t end = end_of_keys(arguments.selection, extents, batch);
  const std::int64_t last = extents.keys - first < kTransformRows ? extents.keys : first + kTransformRows;
  const T* keys = rows_of(arguments.key, extents, problem);
  const T* inverses =
      form == DeviceForm::quads ? arguments.keys.inverses + problem % extents.heads * padded : nullptr;
  for (std::int64_t key = first + threadIdx.x / kWarpSize; key < last; key += kTransformThreads / kWarpSize) {
    const bool active = key < end && takes_part(arguments.selection, batch, key);
    transform_row(arguments, form, problem, active ? keys + key * arguments.key.row_stride : nullptr, T(-1), T(1),
                  inverses, arguments.keys.rows + (problem * extents.keys + key) * padded);
  }
}

template <class T>
__global__ void __launch_bounds__(kTransformThreads)
    transform_queries(DeviceAdditive<T> arguments, std::int64_t tiles) {
  const Extents& extents = arguments.extents;
  const std::int64_t problem = blockIdx.x / tiles, first = blockIdx.x % tiles * kTransformRows;
  const std::int64_t padded = padded_columns(extents.width);
  const DeviceForm form = arguments.keys.forms[problem];
  const std::int64_t last = extents.queries - first < kTransformRows ? extents.queries : first + kTransformRows;
  const T* queries = rows_of(arguments.query, extents, problem);
  for (std::int64_t query = first + threadIdx.x / kWarpSize; query < last; query += kTransformThreads / kWarpSize)
    transform_row(arguments, form, problem, queries + query * arguments.query.row_stride, T(1), query_scale<T>(form),
                  static_cast<const T*>(nullptr), arguments.query_rows + (problem * extents.queries + query) * padded);
}

}  // namespace

template <class T>
void prepare_keys(const DeviceAdditive<T>& arguments, DevicePass pass, const Stream& stream) {
  const Extents& extents = arguments.extents;
  if (extents.problems() == 0) return;
  const DeviceScope scope(stream);
  const std::int64_t chunks = tiles_of(padded_columns(extents.width), kWarpSize);
  launch(stream, row_of_blocks(extents.problems() * chunks), dim3(kWarpSize, kRangeRows), 0, find_ranges<T>, arguments,
         chunks);
  // At least one block for each problem, which writes its form.
  const std::int64_t tiles = extents.keys == 0 ? 1 : tiles_of(extents.keys, kTransformRows);
  launch(stream, row_of_blocks(extents.problems() * tiles), kTransformThreads, 0, transform_keys<T>, arguments, tiles,
         pass);
}

template <class T>
void prepare_queries(const DeviceAdditive<T>& arguments, const Stream& stream) {
  const Extents& extents = arguments.extents;
  const std::int64_t tiles = tiles_of(extents.queries, kTransformRows);
  launch(stream, row_of_blocks(extents.problems() * tiles), kTransformThreads, 0, transform_queries<T>, arguments,
         tiles);
}

template void prepare_keys(const DeviceAdditive<float>&, DevicePass, const Stream&);
template void prepare_keys(const DeviceAdditive<double>&, DevicePass, const Stream&);
template void prepare_queries(const DeviceAdditive<float>&, const Stream&);
template void prepare_queries(const DeviceAdditive<double>&, const Stream&);

}  // namespace metafast::attention
