// The kernel that solves an estimator's recurrence on a CUDA device, and how it is launched.
//
// A block holds some columns over all of time, in tiles that go backwards. Each thread takes a few steps of its
// columns and joins them to one affine map; the maps of the threads that hold the same columns are joined by shuffles
// within a warp, and through shared memory between warps (Blelloch 1990); then every thread knows what comes after its
// steps, goes through them again in registers and writes. Memory is read and written once. Where there are too few
// columns to fill the card, time is cut into chunks, each with a block of its own, and read twice: a first pass leaves
// every chunk's map in scratch memory, out of which each block of the second joins what comes after its chunk.
//
// The grouping of the sums depends on the extents, the layout and the card alone: the same input gives the same bits.
#pragma once

#include <algorithm>

#include "common/launch.cuh"
#include "returns/device_walk.cuh"

namespace metafast::returns {
namespace {

constexpr int kThreads = 256;
constexpr unsigned kWholeWarp = 0xffffffffu;

enum class Pass {
  companions,  // leaves the maps of the chunks' companions
  maps,        // leaves the maps of the chunks
  solve,       // writes the results
};

// How a problem is laid over blocks. Powers of 2: `columns` threads side by side (each with Shape::kColumns of them),
// times `time_threads`.
struct Schedule {
  int columns = 0, time_threads = 0;
  int vectors = 0;  // as in DeviceWalk::load
  std::int64_t blocks = 0;
  int tiles = 0, tiles_per_chunk = 0, chunks = 1;
};

template <class Real>
__device__ __forceinline__ Affine<Real> shuffle(const Affine<Real>& map, int from) {
  return {__shfl_sync(kWholeWarp, map.offset, from), __shfl_sync(kWholeWarp, map.decay, from)};
}
template <class Real>
__device__ __forceinline__ Affine<Real> shuffle_down(const Affine<Real>& map, unsigned lanes) {
  return {__shfl_down_sync(kWholeWarp, map.offset, lanes), __shfl_down_sync(kWholeWarp, map.decay, lanes)};
}

// The maps of a thread, one for each of its columns.
template <class Real, int kColumns>
struct alignas(kColumns * sizeof(Affine<Real>) < 16 ? kColumns * sizeof(Affine<Real>) : 16) Maps {
  Affine<Real> columns[kColumns];
};

// Joins the maps of a block's threads.
template <class P, int kColumns>
class BlockScan {
  using Real = typename P::Real;
  using Map = Affine<Real>;

 public:
  using Shared = Maps<Real, kColumns>;

  __device__ __forceinline__ BlockScan(Shared* shared, const Schedule& schedule)
      : shared_(shared),
        columns_(schedule.columns),
        lane_columns_(schedule.columns < 32 ? schedule.columns : 32),
        slots_(schedule.time_threads * lane_columns_ / 32),
        lane_(static_cast<int>(threadIdx.x) % 32),
        column_(static_cast<int>(threadIdx.x) % schedule.columns),
        slot_(static_cast<int>(threadIdx.x) / schedule.columns * lane_columns_ / 32) {}

  // From what comes after the block's steps (`carry`) to what comes after this thread's (`behind`); `carry` becomes what
  // comes after the block's earlier neighbour.
  __device__ __forceinline__ void solve(Shared& maps, Real (&carry)[kColumns], Real (&behind)[kColumns]) {
    join_lanes(maps);
    if (slots_ > 1) {
#pragma unroll 1
      for (int slot = slots_ - 1; slot >= 0; --slot) {
        const Shared of_slot = shared_[place(slot)];
#pragma unroll
        for (int v = 0; v < kColumns; ++v) {
          if (slot == slot_) behind[v] = carry[v];
          carry[v] = carry_back<P>(of_slot.columns[v], carry[v]);
        }
      }
    } else {
#pragma unroll
      for (int v = 0; v < kColumns; ++v) {
        behind[v] = carry[v];
        carry[v] = carry_back<P>(shuffle(maps.columns[v], column_ % 32), carry[v]);
      }
    }
#pragma unroll
    for (int v = 0; v < kColumns; ++v) {
      const Map later = shuffle_down(maps.columns[v], static_cast<unsigned>(lane_columns_) % 32);
      if (lane_ + lane_columns_ < 32) behind[v] = carry_back<P>(later, behind[v]);
    }
    half_ ^= 1;
  }

  // Joins the maps of the block's steps to those of the steps after it, in memory: for the first thread of a column to
  // write, where that is `in_use`.
  __device__ __forceinline__ void join_all(Shared& maps, Map* after, bool is_first, bool in_use) {
    join_lanes(maps);
    if (in_use && static_cast<int>(threadIdx.x) < columns_) {
#pragma unroll
      for (int v = 0; v < kColumns; ++v) {
        Map all = is_first ? Map{Real(0), Real(1)} : after[v];
        for (int slot = slots_ - 1; slot > 0; --slot) all = join<P>(shared_[place(slot)].columns[v], all);
        after[v] = join<P>(maps.columns[v], all);
      }
    }
    half_ ^= 1;
  }

 private:
  // Each lane's maps are joined to those of the later lanes of its columns; the first of them leaves the warp's.
  __device__ __forceinline__ void join_lanes(Shared& maps) {
    for (int lanes = lane_columns_; lanes < 32; lanes *= 2) {
#pragma unroll
      for (int v = 0; v < kColumns; ++v) {
        const Map later = shuffle_down(maps.columns[v], static_cast<unsigned>(lanes));
        if (lane_ + lanes < 32) maps.columns[v] = join<P>(maps.columns[v], later);
      }
    }
    if (slots_ == 1) return;
    if (lane_ < lane_columns_) shared_[place(slot_)] = maps;
    __syncthreads();
  }

  // The next maps go to the other half, so that nobody's are overwritten who has not yet read: before the half after
  // that is written, everybody has come through a barrier.
  __device__ __forceinline__ int place(int slot) const { return half_ * kThreads + slot * columns_ + column_; }

  Shared* shared_;
  const int columns_, lane_columns_, slots_, lane_, column_, slot_;
  int half_ = 0;
};

template <class Formula, class Real, class Shape>
__global__ void __launch_bounds__(kThreads, 2)
solve_tiles(const __grid_constant__ DeviceProblem<Real> problem, const __grid_constant__ Schedule schedule,
            const Pass pass, Affine<Real>* const maps_of_chunks, Affine<Real>* const companions_of_chunks) {
  using P = Scalar<Real>;
  using Map = Affine<Real>;
  constexpr int kColumns = Shape::kColumns, kSteps = Shape::kSteps;
  constexpr bool kScannedCompanion = Formula::kCompanion && Formula::kMasked;
  using Scan = BlockScan<P, kColumns>;
  __shared__ typename Scan::Shared shared[2 * kThreads];
  Scan scan(shared, schedule);

  const SequenceExtents& extents = problem.extents;
  const int time_thread = static_cast<int>(threadIdx.x) / schedule.columns;
  const std::int64_t num_columns = extents.outer * extents.inner;
  const std::int64_t column =
      (static_cast<std::int64_t>(blockIdx.x) * schedule.columns + static_cast<int>(threadIdx.x) % schedule.columns) *
      kColumns;
  const bool in_use = column < num_columns;
  Columns columns{0, 0};
  if (in_use) {
    columns.outer = extents.outer == 1 ? 0 : extents.inner == 1 ? column : column / extents.inner;
    columns.inner = extents.inner == 1 ? 0 : column - columns.outer * extents.inner;
  }
  DeviceWalk<Real, Shape> walk(problem, columns);

  const int chunk = static_cast<int>(blockIdx.y) + (pass == Pass::solve ? 0 : 1);
  // What comes after the steps at hand: of the recurrence, and of the companion.
  Real carry[kColumns] = {}, companion_carry[kColumns] = {};
  if (in_use) {
#pragma unroll
    for (int v = 0; v < kColumns; ++v) {
      carry[v] = Formula::initial(walk, columns.outer, columns.inner + v);
      if constexpr (kScannedCompanion)
        companion_carry[v] = Formula::initial_companion(walk, columns.outer, columns.inner + v);
    }
  }
  const auto go_through_later_chunks = [&](const Map* maps, Real(&carried)[kColumns]) {
    for (int end = schedule.chunks; end > chunk + 1; end -= schedule.time_threads) {
      const int of_thread = end - schedule.time_threads + time_thread;
      typename Scan::Shared later;
      Real behind[kColumns];
#pragma unroll
      for (int v = 0; v < kColumns; ++v) {
        later.columns[v] = {Real(0), Real(1)};
        if (in_use && of_thread > chunk) later.columns[v] = maps[of_thread * num_columns + column + v];
      }
      scan.solve(later, carried, behind);
    }
  };
  if (pass == Pass::solve) go_through_later_chunks(maps_of_chunks, carry);
  if (kScannedCompanion && pass != Pass::companions) go_through_later_chunks(companions_of_chunks, companion_carry);

  const int first_tile = chunk * schedule.tiles_per_chunk;
  const int last_tile = first_tile + schedule.tiles_per_chunk < schedule.tiles
                            ? first_tile + schedule.tiles_per_chunk - 1
                            : schedule.tiles - 1;
  for (int tile = last_tile; tile >= first_tile; --tile) {
    const std::int64_t time = (static_cast<std::int64_t>(tile) * schedule.time_threads + time_thread) * kSteps;
    const std::int64_t left = in_use ? extents.time - time : 0;
    const int count = left <= 0 ? 0 : left < kSteps ? static_cast<int>(left) : kSteps;
    walk.template load<Formula>(time, count, schedule.vectors);
    if (tile > first_tile && in_use)
      walk.template prefetch_steps<Formula>(time - std::int64_t{schedule.time_threads} * kSteps);

    // The companion of the step behind those at hand.
    Real companion[kColumns] = {};
    if constexpr (kScannedCompanion) {
      typename Scan::Shared held;
#pragma unroll
      for (int v = 0; v < kColumns; ++v) {
        held.columns[v] = {Real(0), Real(1)};
#pragma unroll
        for (int step = kSteps - 1; step >= 0; --step) {
          const int index = step * kColumns + v;
          if (step < count && walk.template flag<P>(kMask, index))
            held.columns[v] = {Formula::template companion<P>(walk, index), Real(0)};
        }
      }
      if (pass == Pass::companions) {
        scan.join_all(held, companions_of_chunks + chunk * num_columns + column, tile == last_tile, in_use);
        continue;
      }
      scan.solve(held, companion_carry, companion);
    } else if constexpr (Formula::kCompanion) {
      const typename DeviceWalk<Real, Shape>::Behind behind{walk};
#pragma unroll
      for (int v = 0; v < kColumns; ++v) {
        if (count < kSteps || left == kSteps)
          companion[v] = in_use ? Formula::initial_companion(walk, columns.outer, columns.inner + v) : Real(0);
        else
          companion[v] = Formula::template companion<P>(behind, v);
      }
    }

    using Step = decltype(Formula::template step<P>(walk, std::int64_t{}, Real{}));
    Step steps[kSteps * kColumns];
    typename Scan::Shared joined;
#pragma unroll
    for (int v = 0; v < kColumns; ++v) {
#pragma unroll
      for (int step = kSteps - 1; step >= 0; --step) {
        const int index = step * kColumns + v;
        steps[index] = Formula::template step<P>(walk, index, companion[v]);
        if constexpr (Formula::kCompanion) {
          bool taken = step < count;
          if constexpr (Formula::kMasked) taken = taken && walk.template flag<P>(kMask, index);
          if (taken) companion[v] = Formula::template companion<P>(walk, index);
        }
        if (step >= count) steps[index].affine = {Real(0), Real(1)};
        joined.columns[v] =
            step == kSteps - 1 ? steps[index].affine : join<P>(steps[index].affine, joined.columns[v]);
      }
    }
    if (pass == Pass::maps) {
      scan.join_all(joined, maps_of_chunks + chunk * num_columns + column, tile == last_tile, in_use);
      continue;
    }
    Real next[kColumns];
    scan.solve(joined, carry, next);
#pragma unroll
    for (int step = kSteps - 1; step >= 0; --step) {
#pragma unroll
      for (int v = 0; v < kColumns; ++v) {
        const int index = step * kColumns + v;
        const Real solved = carry_back<P>(steps[index].affine, next[v]);
        Formula::template emit<P, false>(walk, index, steps[index], next[v], solved);
        next[v] = solved;
      }
    }
    walk.template store<Formula>();
  }
}

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
