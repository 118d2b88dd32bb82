// How the threads of a block find out what comes after the steps that each of them holds.
#pragma once

#include "returns/device_elements.cuh"

namespace metafast::returns {
namespace {

constexpr int kThreads = 256;
constexpr unsigned kWholeWarp = 0xffffffffu;

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

  // From what comes after the block's steps (`carry`) to what comes after this thread's (`behind`); `carry` becomes
  // what comes after the steps before the block's.
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

}  // namespace
}  // namespace metafast::returns
