// Traversal where neighbours in memory are times: a vector holds W steps of one column, or W / C steps of C columns
// that lie side by side, and an in-register suffix scan joins them (Hillis and Steele 1986). Nothing is transposed.
// For kernel files only.
#pragma once

#include "returns/rows.hpp"

namespace metafast::returns {
namespace {

// Joins the steps of a vector, so that each lane holds the recurrence from its step to the last of the vector, and
// applies that to what comes after it.
template <class P, int shift, class Real>
[[gnu::always_inline]] inline Real solve_lanes(const Affine<Real>& step, Real carry) {
  if constexpr (2 * shift < P::kWidth) {
    const Affine<Real> later{P::template shift_down<shift>(step.offset, P::fill(0)),
                             P::template shift_down<shift>(step.decay, P::fill(1))};
    return solve_lanes<P, 2 * shift>(compose<P>(step, later), carry);
  } else {
    // The upper half needs no further joining, and the lower half goes on from its results: with fewer instructions.
    const Real upper = carry_back<P>(step, carry);
    return carry_back<P>(step, P::template shift_down<shift>(upper, carry));
  }
}

// The steps of one outer index as one run of memory in which step t of column c is element t * kColumns + c.
template <class Formula, int kColumns, class T, class Walk = returns::Walk<T, Formula>>
struct Series {
  static constexpr int W = kLanes<T>;
  using P = Pack<T, W>;
  using Real = typename P::Real;

  // Behind a block: what the recurrence carries, and the companion of the step there. And the block itself.
  struct State {
    Real carry, companion;
    Real solved, own;
  };

  // Solves the steps [begin, end). They follow on the end of the array; or, where `lead` steps are given, on steps of
  // which every column is cut somewhere: those are gone through first, and nothing is written of them.
  static void solve(const Problem<T>& problem, std::int64_t outer, std::int64_t begin, std::int64_t end,
                    std::int64_t lead, bool stream) {
    // Locals, which the compiler may keep in registers: it cannot know that the results overlap nothing.
    const Walk walk(problem, outer, 0, 0);
    begin *= kColumns, end *= kColumns, lead *= kColumns;
    T carry[kColumns] = {}, companion[kColumns] = {};
    for (int column = 0; column < kColumns && lead == 0; ++column) {
      carry[column] = Formula::initial(problem, outer, column);
      if constexpr (Formula::kCompanion) companion[column] = Formula::initial_companion(problem, outer, column);
    }
    if (end - begin < W) {
      for (std::int64_t index = end - 1; index >= begin; --index)
        solve_step<Formula, Pack<T, 1>, false>(walk, index, carry[index % kColumns], companion[index % kColumns]);
      return;
    }
    State state{repeat(carry), repeat(companion), Real{}, Real{}};
    for (std::int64_t at = end + lead; at > end; at -= W) solve_block<Writing::nothing>(walk, at - W, state);
    const FinalValuesAhead ahead(problem, outer, end, stream);
    std::int64_t at = end - W;
    ahead.prefetch(walk, at);
    solve_block<Writing::plainly>(walk, at, state);
    // Streamed stores must be aligned: the block after the first may overlap it. (Worth it for long series only.)
    const std::int64_t boundary = walk.elements_to_boundary();
    if (stream && end - begin >= kLong && boundary >= 0 && boundary % kColumns == 0) {
      const std::int64_t beyond = (at - boundary) % W;
      if (beyond != 0) {
        rewind(state, W - beyond);
        at += W - beyond;
      }
      for (; at >= begin + W; at -= W) {
        ahead.prefetch(walk, at - W);
        solve_block<Writing::past_the_caches>(walk, at - W, state);
      }
    } else {
      for (; at >= begin + W; at -= W) {
        ahead.prefetch(walk, at - W);
        solve_block<Writing::plainly>(walk, at - W, state);
      }
    }
    // What is left overlaps the steps after it, which are written again.
    if (at > begin) {
      rewind(state, W - (at - begin));
      solve_block<Writing::plainly>(walk, begin, state);
    }
  }

 private:
  enum class Writing { nothing, plainly, past_the_caches };

  static constexpr std::int64_t kLong = 32 * W;

  // Where the final values lie that will be read in nine blocks' time: in this series if it is long, or in one of the
  // next. They are few and far between, so that no processor fetches them of its own accord.
  struct FinalValuesAhead {
    bool enabled = false;
    std::int64_t earlier = 0, values_offset = 0, flags_offset = 0;

    FinalValuesAhead(const Problem<T>& problem, std::int64_t outer, std::int64_t count, bool stream) {
      constexpr std::int64_t distance = 9 * W;
      if constexpr (!Formula::kReadsFinalValues) return;
      enabled = stream && problem.inputs[kFinalValues];
      if (count >= kLong) {
        earlier = distance;
      } else {
        const std::int64_t outers = (distance + count - 1) / count;
        enabled = enabled && outer + outers < problem.extents.outer;
        values_offset = outers * problem.inputs[kFinalValues].outer_stride;
        flags_offset = outers * problem.flags[kTruncated].outer_stride;
      }
    }

    [[gnu::always_inline]] void prefetch(const Walk& walk, std::int64_t index) const {
      if (!enabled) return;
      const std::int64_t soon = index > earlier ? index - earlier : 0;
      walk.prefetch_final_values(index, soon + values_offset, soon + flags_offset);
    }
  };

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

  // Elements [index, index + W).
  template <Writing writing>
  [[gnu::always_inline]] static void solve_block(const Walk& walk, std::int64_t index, State& state) {
    Real next_companion{};
    if constexpr (Formula::kCompanion) {
      state.own = Formula::template companion<P>(walk, index);
      if constexpr (Formula::kMasked) {
        const auto taken = walk.template flag<P>(kMask, index);
        const Affine<Real> held{taken ? state.own : Real{}, taken ? Real{} : P::fill(1)};
        state.own = solve_lanes<P, kColumns>(held, state.companion);
      }
      next_companion = P::template shift_down<kColumns>(state.own, state.companion);
      state.companion = repeat_first(state.own);
    }
    const auto step = Formula::template step<P>(walk, index, next_companion);
    state.solved = solve_lanes<P, kColumns>(step.affine, state.carry);
    if constexpr (writing != Writing::nothing)
      Formula::template emit<P, writing == Writing::past_the_caches>(
          walk, index, step, P::template shift_down<kColumns>(state.solved, state.carry), state.solved);
    state.carry = repeat_first(state.solved);
  }

  // Sets the carries to those of the block's element `first`, for a block that ends before it.
  static void rewind(State& state, std::int64_t first) {
    alignas(64) T lanes[W];
    P::store(lanes, state.solved);
    state.carry = repeat(lanes + first);
    if constexpr (Formula::kCompanion) {
      P::store(lanes, state.own);
      state.companion = repeat(lanes + first);
    }
  }
};

// How many steps from `time` on, a multiple of `multiple`, hold a cut of every column; 0 where that is not known for the
// next `most` steps.
template <class T>
inline std::int64_t steps_to_cuts(const Problem<T>& problem, std::int64_t outer, std::int64_t time, std::int64_t most,
                                  std::int64_t multiple) {
  const auto& [terminated, truncated, mask] = problem.flags;
  if (!terminated && !truncated) return 0;
  const std::uint32_t all = (1u << problem.extents.inner) - 1;
  std::uint32_t found = 0;
  for (std::int64_t step = 0; step < most && time + step < problem.extents.time; ++step) {
    for (std::int64_t column = 0; column < problem.extents.inner; ++column) {
      const auto set = [&](const auto& view) { return view && view.row(outer, time + step)[column] != 0; };
      if ((set(terminated) || set(truncated)) && (!mask || set(mask))) found |= 1u << column;
    }
    if (found == all) {
      const std::int64_t steps = (step + multiple) / multiple * multiple;
      return time + steps <= problem.extents.time ? steps : 0;
    }
  }
  return 0;
}

// A slice of the time of one outer index. Where a slice ends in the midst of episodes that begin in it, its carries
// are found by going through the next few steps, up to where they end; where an episode is too long for that, the
// slice that holds its end goes on through this one.
template <class Formula, int kColumns, class T>
inline void solve_time_slice(const Problem<T>& problem, const Cut& slices, std::int64_t outer, std::int64_t time_slice,
                             bool stream) {
  const std::int64_t steps = slices.steps_per_slice, time = problem.extents.time;
  const auto lead_of = [&](std::int64_t end) {
    return steps_to_cuts(problem, outer, end, steps, kLanes<T> > kColumns ? kLanes<T> / kColumns : 1);
  };
  const bool last = time_slice + 1 == slices.time_slices;
  const std::int64_t end = last ? time : (time_slice + 1) * steps;
  const std::int64_t lead = last ? 0 : lead_of(end);
  if (!last && lead == 0) return;
  std::int64_t begin = time_slice * steps;
  while (begin > 0 && lead_of(begin) == 0) begin -= steps;
  Series<Formula, kColumns, T>::solve(problem, outer, begin, end, lead, stream);
}

// Solves a slice of one outer index where it is a series of few columns; returns whether it was.
template <class Formula, int kColumns, class T>
inline bool solve_series(const Problem<T>& problem, const Cut& slices, std::int64_t outer, std::int64_t time_slice,
                         bool stream) {
  if constexpr (kColumns < kLanes<T>) {
    if (problem.extents.inner != kColumns)
      return solve_series<Formula, 2 * kColumns>(problem, slices, outer, time_slice, stream);
    if constexpr (Formula::kEitherWay) {
      if (!gapless<Formula>(problem, kColumns)) {
        if (time_slice == 0)
          Series<Formula, kColumns, T, ReversedWalk<T, Formula, kColumns>>::solve(problem, outer, 0,
                                                                                  problem.extents.time, 0, stream);
        return true;
      }
    }
    if (slices.time_slices == 1)
      Series<Formula, kColumns, T>::solve(problem, outer, 0, problem.extents.time, 0, stream);
    else
      solve_time_slice<Formula, kColumns>(problem, slices, outer, time_slice, stream);
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
  const std::int64_t time_slice = slice % slices.time_slices;
  slice /= slices.time_slices;
  const std::int64_t first_outer = slice / slices.column_slices * slices.outers_per_slice;
  const std::int64_t last_outer = std::min(first_outer + slices.outers_per_slice, extents.outer);
  const std::int64_t first_column = slice % slices.column_slices * slices.columns_per_slice;
  const std::int64_t last_column = std::min(first_column + slices.columns_per_slice, extents.inner);
  const bool series = gapless<Formula>(problem, extents.inner) ||
                      (Formula::kEitherWay && gapless<Formula>(problem, -extents.inner));
  for (std::int64_t outer = first_outer; outer < last_outer; ++outer) {
    if (series && solve_series<Formula, 1>(problem, slices, outer, time_slice, stream)) continue;
    if (time_slice > 0) continue;  // the first does the whole
    if (!stream && last_column - first_column < kWide) {
      solve_tiles<Formula, kLanes<T>>(problem, outer, first_column, last_column - first_column);
      continue;
    }
    for (std::int64_t column = first_column; column < last_column; column += kMaxColumns)
      solve_rows<Formula>(problem, outer, column, std::min(kMaxColumns, last_column - column), stream);
  }
  if (stream) finish_streaming();
}

}  // namespace
}  // namespace metafast::returns
