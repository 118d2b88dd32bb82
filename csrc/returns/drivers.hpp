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

// How many elements `address` lies past the last vector boundary.
template <class T>
inline std::int64_t elements_past_boundary(const T* address) {
  return static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(address) % kVectorBytes / sizeof(T));
}

// At most kSliceColumns columns of one outer index. An estimator's Rows has
//   initial(column)              the carry from behind the last step,
//   move_to(time)                called for each row, last to first,
//   solve<P, kStream>(column, next)   solves and writes P::kWidth columns of that row, returns their carry,
//   outputs_to_boundary()        elements_to_boundary of the outputs' row where they agree, else -1.
template <class T, class Rows>
inline void solve_rows(Rows rows, std::int64_t num_steps, std::int64_t num_columns, bool stream) {
  alignas(64) T carry[kSliceColumns];
  for (std::int64_t column = 0; column < num_columns; ++column) carry[column] = rows.initial(column);
  for (std::int64_t time = num_steps - 1; time >= 0; --time) {
    rows.move_to(time);
    const auto solve = [&](auto width, auto streamed, std::int64_t column) {
      using P = Pack<T, decltype(width)::value>;
      P::store(carry + column, rows.template solve<P, decltype(streamed)::value>(column, P::load(carry + column)));
    };
    std::int64_t column = 0;
    const std::int64_t boundary = stream ? rows.outputs_to_boundary() : -1;
    if (boundary >= 0) {
      for (; column < std::min(boundary, num_columns); ++column) solve(Width<1>{}, std::false_type{}, column);
      for (; column + kLanes<T> <= num_columns; column += kLanes<T>) solve(Width<kLanes<T>>{}, std::true_type{}, column);
    }
    for_lanes<T>(column, num_columns, [&](auto width, std::int64_t index) { solve(width, std::false_type{}, index); });
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
//   initial()                    the carry from behind the last step,
//   last()                       the last step, the only one whose successor may lie outside the arrays,
//   step<P>(time)                P::kWidth steps from `time` on, none of them the last,
//   emit<P, kStream>(time, result)    writes their results,
//   outputs_from_boundary(time)  how many elements `time` is past a vector boundary of every output, else -1.
template <class T, class Series>
inline void solve_series(Series series, std::int64_t num_steps, bool stream) {
  constexpr int W = kLanes<T>;
  using Vector = Pack<T, W>;
  using Scalar = Pack<T, 1>;
  if (num_steps == 0) return;
  std::int64_t time = num_steps - 1;
  T next = carry_back(series.last(), series.initial());
  series.template emit<Scalar, false>(time, next);
  const auto one_step = [&] {
    --time;
    next = carry_back(series.template step<Scalar>(time), next);
    series.template emit<Scalar, false>(time, next);
  };
  std::int64_t boundary = stream ? series.outputs_from_boundary(time) : -1;
  const bool streamed = boundary >= 0 && boundary <= time;
  if (streamed)
    for (; boundary > 0; --boundary) one_step();
  while (time >= W) {
    time -= W;
    const auto joined = suffix_scan<Vector, 1>(series.template step<Vector>(time));
    const auto result = carry_back(joined, Vector::fill(next));
    if (streamed)
      series.template emit<Vector, true>(time, result);
    else
      series.template emit<Vector, false>(time, result);
    next = result[0];
  }
  while (time > 0) one_step();
}

// One slice of the cut, in whichever memory order the arguments have.
template <class T, class Rows, class Series, class Arguments>
inline void solve_slice(const Arguments& arguments, std::int64_t slice, bool stream) {
  const SequenceExtents& extents = arguments.extents;
  const Cut slices = cut(extents);
  const std::int64_t first_outer = slice / slices.column_slices * slices.outers_per_slice;
  const std::int64_t last_outer = std::min(first_outer + slices.outers_per_slice, extents.outer);
  const std::int64_t first_column = slice % slices.column_slices * kSliceColumns;
  const std::int64_t last_column =
      slices.column_slices == 1 ? extents.inner : std::min(first_column + kSliceColumns, extents.inner);
  for (std::int64_t outer = first_outer; outer < last_outer; ++outer) {
    if (extents.inner == 1 && Series::takes(arguments)) {
      solve_series<T>(Series(arguments, outer), extents.time, stream);
      continue;
    }
    for (std::int64_t column = first_column; column < last_column; column += kSliceColumns)
      solve_rows<T>(Rows(arguments, outer, column, std::min(kSliceColumns, last_column - column)), extents.time,
                    std::min(kSliceColumns, last_column - column), stream);
  }
  if (stream) finish_streaming();
}

}  // namespace
}  // namespace metafast::returns
