// The kernel that solves an estimator's recurrence on a CUDA device.
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

#include "returns/device_scan.cuh"
#include "returns/device_walk.cuh"

namespace metafast::returns {
namespace {

enum class Pass {
  companions,  // leaves the maps of the chunks' companions
  maps,        // leaves the maps of the chunks
  solve,       // writes the results
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

}  // namespace
}  // namespace metafast::returns
