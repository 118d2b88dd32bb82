// How an estimator's kernel is laid over a problem and launched.
#pragma once

#include <algorithm>

#include "common/launch.cuh"
#include "returns/device_tiles.cuh"

namespace metafast::returns {
namespace {

inline std::int64_t quotient(std::int64_t size, std::int64_t of) { return (size + of - 1) / of; }

inline int power_of_2(std::int64_t at_least, int at_most) {
  int power = 1;
  while (power < at_least && power < at_most) power *= 2;
  return power;
}

// The threads of a warp should read whole lines of 128 bytes, at least sectors of 32; and there should be a block for
// every multiprocessor.
template <class Shape>
Schedule make_schedule(const SequenceExtents& extents, bool time_is_contiguous, int multiprocessors) {
  Schedule schedule;
  const std::int64_t columns = quotient(extents.outer * extents.inner, Shape::kColumns);
  const int time_threads = power_of_2(quotient(extents.time, Shape::kSteps), kThreads);
  const int element_bytes = Shape::kColumns * static_cast<int>(sizeof(typename Shape::Storage));
  const int line = time_is_contiguous ? 1 : power_of_2(columns, 128 / element_bytes);
  const int sector = time_is_contiguous ? 1 : std::max(32 / element_bytes, 1);
  schedule.columns = std::max(line, kThreads / time_threads);
  while (schedule.columns > sector && kThreads / schedule.columns < time_threads &&
         quotient(columns, schedule.columns) < multiprocessors)
    schedule.columns /= 2;
  schedule.columns = std::max(power_of_2(columns, schedule.columns), time_threads < 32 ? 32 / time_threads : 1);
  schedule.time_threads = std::min(time_threads, kThreads / schedule.columns);
  schedule.blocks = quotient(columns, schedule.columns);
  schedule.tiles = static_cast<int>(quotient(extents.time, std::int64_t{schedule.time_threads} * Shape::kSteps));
  schedule.tiles_per_chunk = schedule.tiles;
  // Two more launches, and the memory read once more, are worth it where most of the card would be idle for long.
  constexpr int kTilesWorthChunks = 4;
  if (2 * schedule.blocks <= multiprocessors && schedule.tiles >= kTilesWorthChunks) {
    const std::int64_t chunks = std::min<std::int64_t>(schedule.tiles, 2 * multiprocessors / schedule.blocks);
    schedule.tiles_per_chunk = static_cast<int>(quotient(schedule.tiles, chunks));
    schedule.chunks = static_cast<int>(quotient(schedule.tiles, schedule.tiles_per_chunk));
  }
  return schedule;
}

// What every array that is moved in vectors must be like.
template <class Formula, class Real>
class Alignment {
 public:
  explicit Alignment(const DeviceProblem<Real>& problem) : problem_(problem) {}

  // Vectors of `count` columns of arrays of elements of `bytes`, where the coefficients are numbers.
  bool takes_columns(int count, int bytes) const {
    if (problem_.extents.inner % count != 0) return false;
    for (const DeviceArray& factor : problem_.factors)
      if (factor.data != nullptr) return false;
    return all([&](const DeviceArray& array, int size) {
      return array.inner_stride == 1 && array.time_stride % count == 0 && starts_aligned(array, count, size);
    }, bytes);
  }
  // Vectors of `count` steps, in this direction.
  bool takes_steps(int direction, int count, int bytes) const {
    return all([&](const DeviceArray& array, int size) {
      // Backwards it is the last of the steps that comes first in memory.
      DeviceArray first = array;
      if (direction < 0) first.data = static_cast<char*>(array.data) - (count - 1) * size;
      return array.time_stride == direction && array.inner_stride % count == 0 && starts_aligned(first, count, size);
    }, bytes);
  }

 private:
  static bool starts_aligned(const DeviceArray& array, int count, int bytes) {
    return reinterpret_cast<std::uintptr_t>(array.data) % static_cast<unsigned>(count * bytes) == 0 &&
           array.outer_stride % count == 0;
  }

  template <class Fits>
  bool all(const Fits& fits, int bytes) const {
    bool result = all_inputs(fits, bytes, typename Formula::Inputs{});
    const auto check = [&](const DeviceArray& array, int size) {
      result = result && (array.data == nullptr || fits(array, size));
    };
    for (const DeviceArray& flag : problem_.flags) check(flag, 1);
    for (int i = 0; i < Formula::kResults; ++i) check(problem_.results[i], bytes);
    return result;
  }
  template <class Fits, Input... which>
  bool all_inputs(const Fits& fits, int bytes, InputList<which...>) const {
    const auto fit = [&](Input input) {
      const DeviceArray& array = problem_.inputs[input];
      return array.data == nullptr || input == kFinalValues || (input == kNextValues && problem_.bootstrapped) ||
             fits(array, bytes);
    };
    return (fit(which) && ...);
  }

  const DeviceProblem<Real>& problem_;
};

template <class Formula, class Real, class Shape>
std::int64_t launch_shape(const DeviceProblem<Real>& problem, int vectors, bool time_is_contiguous, void* scratch,
                          const Stream& stream) {
  Schedule schedule = make_schedule<Shape>(problem.extents, time_is_contiguous, count_multiprocessors(stream));
  schedule.vectors = vectors;
  const std::int64_t maps = schedule.chunks * problem.extents.outer * problem.extents.inner;
  constexpr bool kScannedCompanion = Formula::kCompanion && Formula::kMasked;
  auto* const of_chunks = static_cast<Affine<Real>*>(scratch);
  if (schedule.chunks > 1 && scratch == nullptr)
    return (kScannedCompanion ? 2 : 1) * maps * static_cast<std::int64_t>(sizeof(Affine<Real>));
  const auto run = [&](Pass pass) {
    const auto chunks = static_cast<unsigned>(schedule.chunks - (pass == Pass::solve ? 0 : 1));
    launch(stream, dim3(static_cast<unsigned>(schedule.blocks), chunks),
           dim3(static_cast<unsigned>(schedule.columns * schedule.time_threads)), 0, &solve_tiles<Formula, Real, Shape>,
           problem, schedule, pass, of_chunks, of_chunks + (kScannedCompanion ? maps : 0));
  };
  if (schedule.chunks > 1) {
    if (kScannedCompanion) run(Pass::companions);
    run(Pass::maps);
  }
  run(Pass::solve);
  return 0;
}

// As a SolveOnDevice function, for the floats of one type.
template <class Formula, class Real, class Storage>
std::int64_t launch_formula(const DeviceProblem<Real>& problem, void* scratch, const Stream& stream) {
  using Wide = typename ShapeOf<Formula, Real, Storage, true>::type;
  using Narrow = typename ShapeOf<Formula, Real, Storage, false>::type;
  constexpr int bytes = sizeof(Storage);
  const Alignment<Formula, Real> alignment(problem);
  if (alignment.takes_columns(Wide::kPart, bytes))
    return launch_shape<Formula, Real, Wide>(problem, 0, false, scratch, stream);
  // Flags are moved in words of 4.
  constexpr int kPart = Narrow::kPart > 4 ? Narrow::kPart : 4;
  const int vectors = alignment.takes_steps(1, kPart, bytes)    ? 1
                      : alignment.takes_steps(-1, kPart, bytes) ? -1
                                                                 : 0;
  const std::int64_t stride = problem.results[0].time_stride;
  return launch_shape<Formula, Real, Narrow>(problem, vectors, stride == 1 || stride == -1, scratch, stream);
}

// As a SolveOnDevice function.
template <class Formula>
std::int64_t launch_floats(const DeviceProblem<double>& problem, void* scratch,
                           const Stream& stream) {
  const DeviceScope scope(stream);
  switch (problem.floats) {
    case DeviceFloats::float64:
      return launch_formula<Formula, double, double>(problem, scratch, stream);
    case DeviceFloats::float32:
      return launch_formula<Formula, float, float>(rounded(problem), scratch, stream);
    default:
      return launch_formula<Formula, float, HalfPrecision>(rounded(problem), scratch, stream);
  }
}

}  // namespace
}  // namespace metafast::returns
