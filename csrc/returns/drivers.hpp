// Traversal for the affine recurrences: which step is solved when, and with how many lanes.
//
// Two memory orders, neither with a transpose:
//   rows    neighbours in memory are columns: each row is streamed once, in descending time, and the carry of every
//           column stays in the first-level cache;
//   series  neighbours in memory are times: W steps are joined by an in-register suffix scan (Hillis and Steele
//           1986).
// For kernel files only.
#pragma once

#include <algorithm>

#include "common/lanes.hpp"
#include "returns/estimators.hpp"
#include "returns/recurrence.hpp"

namespace metafast::returns {
namespace {

template <bool kStream, class P, class T, class Real>
[[gnu::always_inline]] inline void write(T* to, Real lanes) {
  if constexpr (kStream)
    P::stream(to, lanes);
  else
    P::store(to, lanes);
}

// A coefficient along one row or series: a pointer that moves with it, or one number.
template <class T>
struct CoefficientCursor {
  T value;
  const T* array;

  template <class P>
  [[gnu::always_inline]] typename P::Real load(std::int64_t index) const {
    return array != nullptr ? P::load(array + index) : P::fill(value);
  }
};

template <class T>
[[gnu::always_inline]] inline CoefficientCursor<T> cursor_at(const Coefficient<T>& coefficient, std::int64_t outer,
                                                             std::int64_t time, std::int64_t column) {
  return {coefficient.value, coefficient.view ? coefficient.view.row(outer, time) + column : nullptr};
}

template <class T>
[[gnu::always_inline]] inline T* cursor_at(const SequenceView<T>& view, std::int64_t outer, std::int64_t time,
                                           std::int64_t column) {
  return view ? view.row(outer, time) + column : nullptr;
}

template <class P>
[[gnu::always_inline]] inline typename P::Mask load_optional(const std::uint8_t* from, std::int64_t index) {
  return from != nullptr ? P::load_mask(from + index) : typename P::Mask{};
}

// How many elements lie before the first vector boundary at or after `address`.
template <class T>
inline std::int64_t elements_to_boundary(const T* address) {
  const auto beyond = reinterpret_cast<std::uintptr_t>(address) % kVectorBytes;
  return beyond == 0 ? 0 : static_cast<std::int64_t>((kVectorBytes - beyond) / sizeof(T));
}

// At most kMaxColumns columns of one outer index. An estimator's Rows has
//   initial(column)     the carry from behind the last step,
//   row(time)           called for each row, last to first; a Row of plain pointers, copied so that the compiler may
//                       keep them in registers, with
//     solve<P, kStream>(column, next)   solves and writes P::kWidth columns of the row, returns their carry,
//     prefetch_earlier(column)          fetches the row before, for arrays larger than the caches,
//     outputs_to_boundary()             elements_to_boundary of the outputs where they agree, else -1.
template <class T, class Rows>
inline void solve_rows(Rows& rows, std::int64_t num_steps, std::int64_t num_columns, bool stream) {
  alignas(64) T carry[kMaxColumns];
  for (std::int64_t column = 0; column < num_columns; ++column) carry[column] = rows.initial(column);
  for (std::int64_t time = num_steps - 1; time >= 0; --time) {
    const auto row = rows.row(time);
    const auto solve = [row, &carry](auto width, auto streamed, std::int64_t column) __attribute__((always_inline)) {
      using P = Pack<T, decltype(width)::value>;
      P::store(carry + column, row.template solve<P, decltype(streamed)::value>(column, P::load(carry + column)));
    };
    const auto solve_plainly = [solve](auto width, std::int64_t column) __attribute__((always_inline)) {
      solve(width, std::false_type{}, column);
    };
    // Vectors that straddle cache lines cost twice, and streamed stores must not: arrays of one allocator mostly
    // share their misalignment, so that a row's loads are aligned with its stores.
    const std::int64_t boundary = row.outputs_to_boundary();
    std::int64_t column = std::clamp<std::int64_t>(boundary, 0, num_columns);
    for_lanes<T>(0, column, solve_plainly);
    if (stream && boundary >= 0) {
      for (; column + kLanes<T> <= num_columns; column += kLanes<T>) {
        row.prefetch_earlier(column);
        solve(Width<kLanes<T>>{}, std::true_type{}, column);
      }
    }
    for_lanes<T>(column, num_columns, solve_plainly);
  }
}

// Joins W neighbouring steps so that lane i holds the recurrence of steps i to W - 1.
template <class P, int shift, class Real>
[[gnu::always_inline]] inline Affine<Real> suffix_scan(Affine<Real> step) {
  if constexpr (shift < P::kWidth) {
    const Affine<Real> later{P::template shift_down<shift>(step.offset, P::fill(0)),
                             P::template shift_down<shift>(step.decay, P::fill(1))};
    return suffix_scan<P, 2 * shift>(compose(step, later));
  } else {
    return step;
  }
}

// One outer index whose steps are neighbours in memory. An estimator's Series has
//   initial()          the carry from behind the last step,
//   last()             the last step, the only one whose successor may lie outside the arrays,
//   step<P>(time)      P::kWidth steps from `time` on, none of them the last,
//   emit<P>(time, result)    writes their results. (Past the caches gains nothing here: it was a third slower.)
template <class T, class Series>
inline void solve_series(Series series, std::int64_t num_steps) {
  constexpr int W = kLanes<T>;
  using Vector = Pack<T, W>;
  using Scalar = Pack<T, 1>;
  if (num_steps == 0) return;
  std::int64_t time = num_steps - 1;
  T next = carry_back(series.last(), series.initial());
  series.template emit<Scalar>(time, next);
  while (time >= W) {
    time -= W;
    const auto joined = suffix_scan<Vector, 1>(series.template step<Vector>(time));
    const auto result = carry_back(joined, Vector::fill(next));
    series.template emit<Vector>(time, result);
    next = result[0];
  }
  while (time > 0) {
    --time;
    next = carry_back(series.template step<Scalar>(time), next);
    series.template emit<Scalar>(time, next);
  }
}

// One slice of the cut, in whichever memory order the arguments have.
template <class T, class Rows, class Series, class Arguments>
inline void solve_slice(const Arguments& arguments, std::int64_t slice, bool stream) {
  const SequenceExtents& extents = arguments.extents;
  const Cut slices = cut(extents);
  const std::int64_t first_outer = slice / slices.column_slices * slices.outers_per_slice;
  const std::int64_t last_outer = std::min(first_outer + slices.outers_per_slice, extents.outer);
  const std::int64_t first_column = slice % slices.column_slices * slices.columns_per_slice;
  const std::int64_t last_column = std::min(first_column + slices.columns_per_slice, extents.inner);
  for (std::int64_t outer = first_outer; outer < last_outer; ++outer) {
    if (extents.inner == 1 && Series::takes(arguments)) {
      solve_series<T>(Series(arguments, outer), extents.time);
      continue;
    }
    for (std::int64_t column = first_column; column < last_column; column += kMaxColumns) {
      const std::int64_t num_columns = std::min(kMaxColumns, last_column - column);
      Rows rows(arguments, outer, column, num_columns);
      solve_rows<T>(rows, extents.time, num_columns, stream);
    }
  }
  if (stream) finish_streaming();
}

}  // namespace
}  // namespace metafast::returns
