// The bare recurrence in the drivers' terms. For kernel files only.
#pragma once

#include "returns/drivers.hpp"

namespace metafast::returns {
namespace {

template <class T>
struct AffineScanRow {
  const T *offsets, *decays;
  T* result;
  std::int64_t offsets_stride, decays_stride;

  [[gnu::always_inline]] void prefetch_earlier(std::int64_t column) const {
    __builtin_prefetch(offsets + column - offsets_stride);
    __builtin_prefetch(decays + column - decays_stride);
  }

  template <class P, bool kStream>
  [[gnu::always_inline]] typename P::Real solve(std::int64_t column, typename P::Real next) const {
    const Affine<typename P::Real> step{P::load(offsets + column), P::load(decays + column)};
    const auto solved = carry_back(step, next);
    write<kStream, P>(result + column, solved);
    return solved;
  }

  std::int64_t outputs_to_boundary() const { return elements_to_boundary(result); }
};

template <class T>
struct AffineScanRows {
  AffineScanRows(const AffineScan<T>& scan, std::int64_t outer, std::int64_t first_column, std::int64_t)
      : scan(scan), outer(outer), first_column(first_column) {}

  T initial(std::int64_t) const { return T(0); }

  AffineScanRow<T> row(std::int64_t time) const {
    return {cursor_at(scan.offsets, outer, time, first_column), cursor_at(scan.decays, outer, time, first_column),
            cursor_at(scan.result, outer, time, first_column), scan.offsets.time_stride, scan.decays.time_stride};
  }

 private:
  const AffineScan<T>& scan;
  const std::int64_t outer, first_column;
};

template <class T>
struct AffineScanSeries {
  // Forwards in time the strides are negative, and neighbours stand the wrong way round for the suffix scan.
  static bool takes(const AffineScan<T>& scan) { return scan.offsets.time_stride == 1; }

  AffineScanSeries(const AffineScan<T>& scan, std::int64_t outer)
      : offsets(scan.offsets.row(outer, 0)),
        decays(scan.decays.row(outer, 0)),
        result(scan.result.row(outer, 0)),
        last_time(scan.extents.time - 1) {}

  T initial() const { return T(0); }

  Affine<T> last() const { return step<Pack<T, 1>>(last_time); }

  template <class P>
  [[gnu::always_inline]] Affine<typename P::Real> step(std::int64_t time) const {
    return {P::load(offsets + time), P::load(decays + time)};
  }

  template <class P>
  [[gnu::always_inline]] void emit(std::int64_t time, typename P::Real solved) const {
    P::store(result + time, solved);
  }

 private:
  const T *offsets, *decays;
  T* result;
  std::int64_t last_time;
};

}  // namespace
}  // namespace metafast::returns
