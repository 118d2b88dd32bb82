// Traversal where neighbours in memory are times: a vector holds W steps of one column, or W / C steps of C columns
// that lie side by side, and an in-register suffix scan joins them (Hillis and Steele 1986). Nothing is transposed.
// For kernel files only.
#pragma once

#include "returns/rows.hpp"

namespace metafast::returns {
namespace {

// Joins the steps of a vector, so that each lane holds the recurrence from its step to the last of the vector.
template <class P, int shift, class Real>
[[gnu::always_inline]] inline Affine<Real> suffix_scan(Affine<Real> step) {
  if constexpr (shift < P::kWidth) {
    const Affine<Real> later{P::template shift_down<shift>(step.offset, P::fill(0)),
                             P::template shift_down<shift>(step.decay, P::fill(1))};
    return suffix_scan<P, 2 * shift>(compose<P>(step, later));
  } else {
    return step;
  }
}

// The steps of one outer index as one run of memory in which step t of column c is element t * kColumns + c.
template <class Formula, int kColumns, class T>
class Series {
  static constexpr int W = kLanes<T>;
  using P = Pack<T, W>;
  using Real = typename P::Real;

 public:
  Series(const Problem<T>& problem, std::int64_t outer)
      : walk_(problem, outer, 0, 0), count_(problem.extents.time * kColumns) {
    T carry[kColumns], companion[kColumns] = {};
    for (int column = 0; column < kColumns; ++column) {
      carry[column] = Formula::initial(problem, outer, column);
      if constexpr (Formula::kCompanion) companion[column] = Formula::initial_companion(problem, outer, column);
    }
    carry_ = repeat(carry);
    companion_ = repeat(companion);
  }

  void solve(bool stream) {
    if (count_ < W) return solve_short();
    std::int64_t at = count_ - W;
    solve_block<false>(at);
    // Streamed stores must be aligned: the block after the first may overlap it. (Worth it for long series only.)
    const std::int64_t boundary = walk_.elements_to_boundary();
    if (stream && count_ >= 32 * W && boundary >= 0 && boundary % kColumns == 0) {
      const std::int64_t aligned = at - ((at - boundary) % W);
      if (aligned != at) rewind(at, aligned);
      for (at = aligned; at >= W; at -= W) solve_block<true>(at - W);
    } else {
      for (; at >= W; at -= W) solve_block<false>(at - W);
    }
    // What is left overlaps the steps after it, which are written again.
    if (at > 0) {
      rewind(at, W);
      solve_block<false>(0);
    }
  }

 private:
  static Real repeat(const T* of_columns) {
    alignas(64) T lanes[W];
    for (int lane = 0; lane < W; ++lane) lanes[lane] = of_columns[lane % kColumns];
    return P::load(lanes);
  }

  template <int... lane>
  [[gnu::always_inline]] static Real repeat_first(Real lanes, std::integer_sequence<int, lane...>) {
    return __builtin_shufflevector(lanes, lanes, (lane % kColumns)...);
  }
  [[gnu::always_inline]] static Real repeat_first(Real lanes) {
    return repeat_first(lanes, std::make_integer_sequence<int, W>{});
  }

  // Elements [index, index + W), given the carries from behind them.
  template <bool kStream>
  [[gnu::always_inline]] void solve_block(std::int64_t index) {
    Real next_companion{};
    if constexpr (Formula::kCompanion) {
      own_ = Formula::template companion<P>(walk_, index);
      if constexpr (Formula::kMasked) {
        const auto taken = walk_.template flag<P>(kMask, index);
        const Affine<Real> held{taken ? own_ : Real{}, taken ? Real{} : P::fill(1)};
        own_ = carry_back<P>(suffix_scan<P, kColumns>(held), companion_);
      }
      next_companion = P::template shift_down<kColumns>(own_, companion_);
      companion_ = repeat_first(own_);
    }
    const auto step = Formula::template step<P>(walk_, index, next_companion);
    solved_ = carry_back<P>(suffix_scan<P, kColumns>(step.affine), carry_);
    Formula::template emit<P, kStream>(walk_, index, step, P::template shift_down<kColumns>(solved_, carry_), solved_);
    carry_ = repeat_first(solved_);
  }

  // Sets the carries to those before element `to`, which the block solved last, from `at` on, holds.
  void rewind(std::int64_t at, std::int64_t to) {
    if (to == at) return;
    alignas(64) T lanes[W];
    P::store(lanes, solved_);
    carry_ = repeat(lanes + (to - at));
    if constexpr (Formula::kCompanion) {
      P::store(lanes, own_);
      companion_ = repeat(lanes + (to - at));
    }
  }

  // Fewer steps than a vector holds.
  void solve_short() {
    alignas(64) T carry[W], companion[W];
    P::store(carry, carry_);
    P::store(companion, companion_);
    for (std::int64_t index = count_ - 1; index >= 0; --index)
      solve_step<Formula, Pack<T, 1>, false>(walk_, index, carry[index % kColumns], companion[index % kColumns]);
  }

  Walk<T, Formula> walk_;
  std::int64_t count_;
  Real carry_, companion_, solved_, own_;
};

// Solves one outer index where it is a series of few columns; returns whether it was.
template <class Formula, int kColumns, class T>
inline bool solve_series(const Problem<T>& problem, std::int64_t outer, bool stream) {
  if constexpr (kColumns < kLanes<T>) {
    if (problem.extents.inner != kColumns)
      return solve_series<Formula, 2 * kColumns>(problem, outer, stream);
    Series<Formula, kColumns, T>(problem, outer).solve(stream);
    return true;
  } else {
    return false;
  }
}

// One slice of the cut, in whichever memory order the arguments have.
template <class Formula, class T>
inline void solve_slice(const Problem<T>& problem, std::int64_t slice, bool stream) {
  const SequenceExtents& extents = problem.extents;
  const Cut slices = cut(extents);
  const std::int64_t first_outer = slice / slices.column_slices * slices.outers_per_slice;
  const std::int64_t last_outer = std::min(first_outer + slices.outers_per_slice, extents.outer);
  const std::int64_t first_column = slice % slices.column_slices * slices.columns_per_slice;
  const std::int64_t last_column = std::min(first_column + slices.columns_per_slice, extents.inner);
  const bool series = gapless<Formula>(problem);
  for (std::int64_t outer = first_outer; outer < last_outer; ++outer) {
    if (series && solve_series<Formula, 1>(problem, outer, stream)) continue;
    if (!stream) {
      solve_tiles<Formula, kLanes<T>>(problem, outer, first_column, last_column - first_column);
      continue;
    }
    for (std::int64_t column = first_column; column < last_column; column += kMaxColumns)
      solve_rows<Formula>(problem, outer, column, std::min(kMaxColumns, last_column - column));
  }
  if (stream) finish_streaming();
}

}  // namespace
}  // namespace metafast::returns
