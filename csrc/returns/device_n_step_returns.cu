// n-step returns (Sutton and Barto 2018, equation 7.1) on a CUDA device.
//
// The windows of neighbouring steps share most of their steps. A thread takes a few windows of one column: it joins the
// steps that they share to one affine map, from the last to the first, and applies to each window's value the steps
// that come after those in its window, the map, and the steps that come before. Neighbours in memory are neighbouring
// threads, so that what a window reads is found in the caches.
#include <algorithm>

#include "common/launch.cuh"
#include "returns/device_walk.cuh"

namespace metafast::returns {
namespace {

constexpr int kThreads = 256;
constexpr int kWindows = 8;  // of a thread

template <class Real, class Storage>
struct NStepColumn {
  const DeviceProblem<Real>& problem;
  const Columns columns;

  __device__ __forceinline__ std::int64_t offset(const DeviceArray& array, std::int64_t time) const {
    return columns.outer * array.outer_stride + columns.inner * array.inner_stride + time * array.time_stride;
  }
  __device__ __forceinline__ Real read(const DeviceArray& array, std::int64_t time) const {
    return widened(static_cast<const Storage*>(array.data)[offset(array, time)], problem.bfloat);
  }
  __device__ __forceinline__ bool flag(Flag which, std::int64_t time) const {
    const DeviceArray& array = problem.flags[which];
    return array.data != nullptr && static_cast<const std::uint8_t*>(array.data)[offset(array, time)] != 0;
  }
  __device__ __forceinline__ Real next_value(std::int64_t time) const {
    return read(problem.inputs[kNextValues], time);
  }
  // Behind the last step there is nothing, and no window reaches there uncut.
  __device__ __forceinline__ Affine<Real> step(std::int64_t time) const {
    if (time >= problem.extents.time) return {Real(0), Real(0)};
    const DeviceArray& gamma = problem.factors[kGamma];
    return discounted_return_step(read(problem.inputs[kRewards], time), next_value(time), flag(kTerminated, time),
                                  flag(kTruncated, time) || time == problem.extents.time - 1,
                                  gamma.data != nullptr ? read(gamma, time) : problem.numbers[kGamma]);
  }
  __device__ __forceinline__ void write(std::int64_t time, Real value) const {
    const DeviceArray& array = problem.results[0];
    narrow(value, static_cast<Storage*>(array.data)[offset(array, time)], problem.bfloat);
  }
};

template <class Real, class Storage>
__global__ void __launch_bounds__(kThreads)
solve_windows(const __grid_constant__ DeviceProblem<Real> problem, const std::int64_t n,
              const bool times_are_neighbours, const std::int64_t groups, const std::int64_t num_columns) {
  using P = Scalar<Real>;
  const std::int64_t number = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (number >= groups * num_columns) return;
  const std::int64_t column = times_are_neighbours ? number / groups : number % num_columns;
  const std::int64_t first = (times_are_neighbours ? number % groups : number / num_columns) * kWindows;
  const std::int64_t outer = column / problem.extents.inner;
  const NStepColumn<Real, Storage> steps{problem, {outer, column - outer * problem.extents.inner}};
  const std::int64_t time = problem.extents.time;
  const int windows = time - first < kWindows ? static_cast<int>(time - first) : kWindows;

  if (n < kWindows) {
    for (int window = 0; window < windows; ++window) {
      const std::int64_t begin = first + window, end = begin + n < time ? begin + n : time;
      Real value = steps.next_value(end - 1);
      for (std::int64_t t = end - 1; t >= begin; --t) value = carry_back<P>(steps.step(t), value);
      steps.write(begin, value);
    }
    return;
  }
  // Shared are the steps [first + kWindows - 1, first + n).
  Affine<Real> shared{Real(0), Real(1)};
  for (std::int64_t t = (first + n < time ? first + n : time) - 1; t >= first + kWindows - 1; --t)
    shared = join<P>(steps.step(t), shared);
  Affine<Real> before[kWindows - 1];
#pragma unroll
  for (int i = 0; i < kWindows - 1; ++i) before[i] = steps.step(first + i);
#pragma unroll
  for (int window = 0; window < kWindows; ++window) {
    if (window >= windows) break;
    const std::int64_t end = first + window + n;
    Real value = end < time ? steps.next_value(end - 1) : Real(0);  // the last step of all is cut
    for (std::int64_t t = (end < time ? end : time) - 1; t >= first + n; --t)
      value = carry_back<P>(steps.step(t), value);
    value = carry_back<P>(shared, value);
#pragma unroll
    for (int i = kWindows - 2; i >= window; --i) value = carry_back<P>(before[i], value);
    steps.write(first + window, value);
  }
}

template <class Real, class Storage>
void launch_windows(const DeviceProblem<Real>& problem, std::int64_t n, const Stream& stream) {
  const std::int64_t columns = problem.extents.outer * problem.extents.inner;
  const std::int64_t groups = (problem.extents.time + kWindows - 1) / kWindows;
  const std::int64_t blocks = (groups * columns + kThreads - 1) / kThreads;
  launch(stream, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), 0, &solve_windows<Real, Storage>, problem, n,
         problem.results[0].time_stride == 1 && problem.extents.time > 1, groups, columns);
}

}  // namespace

void device_n_step_returns(const DeviceProblem<double>& problem, std::int64_t n, const Stream& stream) {
  const DeviceScope scope(stream);
  switch (problem.floats) {
    case DeviceFloats::float64:
      return launch_windows<double, double>(problem, n, stream);
    case DeviceFloats::float32:
      return launch_windows<float, float>(rounded(problem), n, stream);
    default:
      return launch_windows<float, HalfPrecision>(rounded(problem), n, stream);
  }
}

}  // namespace metafast::returns
