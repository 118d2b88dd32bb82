// Traversal where neighbours in memory are columns: every row in descending time, one recurrence in each lane. For
// kernel files only.
#pragma once

#include <algorithm>

#include "returns/recurrence.hpp"
#include "returns/walk.hpp"

namespace metafast::returns {
namespace {

// Solves P::kWidth columns of one row.
template <class Formula, class P, bool kStream, class Walk, class Real>
[[gnu::always_inline]] inline void solve_step(const Walk& walk, std::int64_t index, Real& carry, Real& companion) {
  const Real next_companion = companion;
  if constexpr (Formula::kCompanion) {
    companion = Formula::template companion<P>(walk, index);
    if constexpr (Formula::kMasked)
      companion = walk.template flag<P>(kMask, index) ? companion : next_companion;
  }
  const auto step = Formula::template step<P>(walk, index, next_companion);
  const Real solved = carry_back<P>(step.affine, carry);
  Formula::template emit<P, kStream>(walk, index, step, carry, solved);
  carry = solved;
}

template <class Formula, class T>
struct Carries {
  alignas(64) T carry[kMaxColumns];
  alignas(64) T companion[Formula::kCompanion ? kMaxColumns : 1];

  Carries(const Problem<T>& problem, std::int64_t outer, std::int64_t first_column, std::int64_t num_columns) {
    for (std::int64_t column = 0; column < num_columns; ++column) {
      carry[column] = Formula::initial(problem, outer, first_column + column);
      if constexpr (Formula::kCompanion)
        companion[column] = Formula::initial_companion(problem, outer, first_column + column);
    }
  }
};

constexpr std::int64_t kWide = 512;

// For wide arrays: whole rows, so that memory is streamed; the carries stay in the first-level cache. Written past the
// caches where `stream`.
template <class Formula, class T>
inline void solve_rows(const Problem<T>& problem, std::int64_t outer, std::int64_t first_column,
                       std::int64_t num_columns, bool stream) {
  Carries<Formula, T> carries(problem, outer, first_column, num_columns);
  Walk<T, Formula> walk(problem, outer, problem.extents.time - 1, first_column);
  for (std::int64_t time = problem.extents.time - 1;; --time) {
    const Walk<T, Formula> row = walk;
    const auto solve = [&row, &carries](auto width, auto streamed, std::int64_t column)
        __attribute__((always_inline)) {
      using P = Pack<T, decltype(width)::value>;
      const std::int64_t companion_column = Formula::kCompanion ? column : 0;
      auto carry = P::load(carries.carry + column);
      auto companion = Formula::kCompanion ? P::load(carries.companion + companion_column) : typename P::Real{};
      solve_step<Formula, P, decltype(streamed)::value>(row, column, carry, companion);
      P::store(carries.carry + column, carry);
      if constexpr (Formula::kCompanion) P::store(carries.companion + companion_column, companion);
    };
    const auto solve_plainly = [&](auto width, std::int64_t column) __attribute__((always_inline)) {
      solve(width, std::false_type{}, column);
    };
    // Streamed stores must be aligned; arrays of one allocator mostly share their misalignment, so that a row's loads
    // are aligned with its stores.
    const std::int64_t boundary = row.elements_to_boundary();
    std::int64_t column = std::clamp<std::int64_t>(boundary, 0, num_columns);
    for_lanes<T>(0, column, solve_plainly);
    if (stream && boundary >= 0) {
      for (; column + kLanes<T> <= num_columns; column += kLanes<T>) {
        if (time > 0) row.prefetch_earlier(column);
        solve(Width<kLanes<T>>{}, std::true_type{}, column);
      }
    }
    for_lanes<T>(column, num_columns, solve_plainly);
    if (time == 0) return;
    walk.step_back();
  }
}

// For narrow arrays: few columns at a time from the last step to the first, carries in registers.
template <class Formula, int kWidth, int kVectors, class T>
inline void solve_tile(const Problem<T>& problem, std::int64_t outer, std::int64_t first_column) {
  using P = Pack<T, kWidth>;
  typename P::Real carry[kVectors], companion[kVectors];
  const auto gather = [&](auto of_column, int vector) {
    alignas(64) T lanes[kWidth];
    for (int lane = 0; lane < kWidth; ++lane)
      lanes[lane] = of_column(problem, outer, first_column + vector * kWidth + lane);
    return P::load(lanes);
  };
  for (int vector = 0; vector < kVectors; ++vector) {
    carry[vector] = gather([](auto... where) { return Formula::initial(where...); }, vector);
    if constexpr (Formula::kCompanion)
      companion[vector] = gather([](auto... where) { return Formula::initial_companion(where...); }, vector);
    else
      companion[vector] = typename P::Real{};
  }
  Walk<T, Formula> walk(problem, outer, problem.extents.time - 1, first_column);
  for (std::int64_t time = problem.extents.time - 1;; --time) {
#pragma GCC unroll 4
    for (int vector = 0; vector < kVectors; ++vector)
      solve_step<Formula, P, false>(walk, vector * kWidth, carry[vector], companion[vector]);
    if (time == 0) return;
    walk.step_back();
  }
}

// The columns that do not fill a vector are done by one that overlaps those before it: columns do not depend on each
// other, and what is written twice is written alike.
template <class Formula, int kWidth, class T>
inline void solve_tiles(const Problem<T>& problem, std::int64_t outer, std::int64_t first_column,
                        std::int64_t num_columns) {
  if constexpr (kWidth > 1) {
    if (num_columns < kWidth)
      return solve_tiles<Formula, kWidth == 4 || kWidth == 2 ? 1 : kWidth / 2>(problem, outer, first_column, num_columns);
  }
  constexpr int kVectors = kWidth == kLanes<T> ? 4 : 1;
  std::int64_t column = 0;
  if constexpr (kVectors > 1) {
    for (; column + kVectors * kWidth <= num_columns; column += kVectors * kWidth)
      solve_tile<Formula, kWidth, kVectors>(problem, outer, first_column + column);
  }
  for (; column < num_columns; column += kWidth)
    solve_tile<Formula, kWidth, 1>(problem, outer, first_column + std::min(column, num_columns - kWidth));
}

}  // namespace
}  // namespace metafast::returns
