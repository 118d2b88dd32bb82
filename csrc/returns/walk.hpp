// Where a driver stands in the arrays of a problem. For kernel files only.
#pragma once

#include <cstdint>

#include "common/lanes.hpp"
#include "common/vector_math.hpp"
#include "returns/estimators.hpp"
#include "returns/formula.hpp"

namespace metafast::returns {
namespace {

// The pointers of one row, whose elements are columns; or of a series, whose elements are times (with few columns,
// times and columns).
template <class T, class Formula>
struct Walk {
  const T* inputs[kNumInputs];
  const std::uint8_t* flags[kNumFlags];
  const T* factors[kNumFactors];
  T* results[kMaxResults];
  const Problem<T>& problem;

  Walk(const Problem<T>& problem, std::int64_t outer, std::int64_t time, std::int64_t column) : problem(problem) {
    place(outer, time, column, typename Formula::Inputs{});
    for (int i = 0; i < kNumFlags; ++i) flags[i] = at(problem.flags[i], outer, time, column);
    for (int i = 0; i < kNumFactors; ++i) factors[i] = at(problem.factors[i].view, outer, time, column);
    for (int i = 0; i < Formula::kResults; ++i) results[i] = at(problem.results[i], outer, time, column);
  }

  [[gnu::always_inline]] void step_back() {
    step_back(typename Formula::Inputs{});
    for (int i = 0; i < kNumFlags; ++i) flags[i] -= problem.flags[i].time_stride;
    for (int i = 0; i < kNumFactors; ++i) factors[i] -= problem.factors[i].view.time_stride;
    for (int i = 0; i < Formula::kResults; ++i) results[i] -= problem.results[i].time_stride;
  }

  template <class P>
  [[gnu::always_inline]] typename P::Real input(Input which, std::int64_t index) const {
    return P::load(inputs[which] + index);
  }
  template <class P>
  [[gnu::always_inline]] typename P::Mask flag(Flag which, std::int64_t index) const {
    return flags[which] != nullptr ? P::load_mask(flags[which] + index) : typename P::Mask{};
  }
  template <class P>
  [[gnu::always_inline]] typename P::Real factor(Factor which, std::int64_t index) const {
    return factors[which] != nullptr ? P::load(factors[which] + index) : P::fill(problem.factors[which].value);
  }

  // The value after a step, where it is not `next_value`: that of the state in which a truncated episode was left.
  // Truncation is rare, so that hardly any of final_values is read: where no lane needs it, what is loaded instead is
  // at hand, because a branch that is seldom taken, but not seldom enough, costs more.
  template <class P>
  [[gnu::always_inline]] typename P::Real successor(std::int64_t index, typename P::Real next_value) const {
    if (inputs[kFinalValues] == nullptr) return next_value;
    const T* from = any<P::kWidth>(flags[kTruncated] + index) ? inputs[kFinalValues] : inputs[kRewards];
    return P::load_mask(flags[kTruncated] + index) ? P::load(from + index) : next_value;
  }

  // e^x of every lane.
  template <class P>
  [[gnu::always_inline]] static typename P::Real exponential(typename P::Real x) {
    alignas(64) typename P::Element lanes[P::kWidth];
    P::store(lanes, x);
    for (int lane = 0; lane < P::kWidth; ++lane) lanes[lane] = vector_exp(lanes[lane]);
    return P::load(lanes);
  }

  template <class P, bool kStream>
  [[gnu::always_inline]] void write(int result, std::int64_t index, typename P::Real lanes) const {
    if constexpr (kStream)
      P::stream(results[result] + index, lanes);
    else
      P::store(results[result] + index, lanes);
  }

  // Fetches the row before, for arrays larger than the caches.
  [[gnu::always_inline]] void prefetch_earlier(std::int64_t index) const {
    prefetch_earlier(index, typename Formula::Inputs{});
    __builtin_prefetch(flags[kTerminated] + index - problem.flags[kTerminated].time_stride);
  }

  // Of a vector that will be solved soon.
  [[gnu::always_inline]] void prefetch_final_values(std::int64_t at_hand, std::int64_t index,
                                                    std::int64_t flag_index) const {
    if (inputs[kFinalValues] == nullptr) return;
    const bool read = any<kLanes<T>>(flags[kTruncated] + flag_index);
    __builtin_prefetch(read ? inputs[kFinalValues] + index : inputs[kRewards] + at_hand);
  }

  // How many elements lie before the first vector boundary of the results, or -1 where they do not agree.
  std::int64_t elements_to_boundary() const {
    const auto boundary = [](const T* address) {
      const auto beyond = reinterpret_cast<std::uintptr_t>(address) % kVectorBytes;
      return beyond == 0 ? 0 : static_cast<std::int64_t>((kVectorBytes - beyond) / sizeof(T));
    };
    for (int i = 1; i < Formula::kResults; ++i)
      if (boundary(results[i]) != boundary(results[0])) return -1;
    return boundary(results[0]);
  }

 private:
  template <class Element>
  static Element* at(const SequenceView<Element>& view, std::int64_t outer, std::int64_t time, std::int64_t column) {
    return view ? view.row(outer, time) + column : nullptr;
  }

  template <Input... which>
  void place(std::int64_t outer, std::int64_t time, std::int64_t column, InputList<which...>) {
    ((inputs[which] = at(problem.inputs[which], outer, time, column)), ...);
  }
  // The absent arrays are null and have stride 0.
  template <Input... which>
  [[gnu::always_inline]] void step_back(InputList<which...>) {
    ((inputs[which] -= problem.inputs[which].time_stride), ...);
  }
  template <Input... which>
  [[gnu::always_inline]] void prefetch_earlier(std::int64_t index, InputList<which...>) const {
    (prefetch_input(which, index), ...);
  }
  [[gnu::always_inline]] void prefetch_input(Input which, std::int64_t index) const {
    if (which == kFinalValues) return prefetch_final_values(index - problem.inputs[kRewards].time_stride,
                                                            index - problem.inputs[kFinalValues].time_stride,
                                                            index - problem.flags[kTruncated].time_stride);
    __builtin_prefetch(inputs[which] + index - problem.inputs[which].time_stride);
  }
};

// Whether the rows of every array follow each other without gaps, so that it is one run of memory, of which each row
// is `stride` after the one before in time.
template <class T, Input... inputs>
inline bool gapless_inputs(const Problem<T>& problem, std::int64_t stride, InputList<inputs...>) {
  const auto fits = [&](Input input) {
    const auto& view = problem.inputs[input];
    return !view || view.time_stride == stride || (input == kNextValues && problem.bootstrapped);
  };
  return (fits(inputs) && ...);
}

template <class Formula, class T>
inline bool gapless(const Problem<T>& problem, std::int64_t stride) {
  bool result = gapless_inputs(problem, stride, typename Formula::Inputs{});
  const auto check = [&](const auto& view) { result = result && (!view || view.time_stride == stride); };
  for (const auto& flag : problem.flags) check(flag);
  for (const auto& factor : problem.factors) check(factor.view);
  for (int i = 0; i < Formula::kResults; ++i) check(problem.results[i]);
  return result;
}

// The same of a problem that was turned round in time, with columns in ascending order as ever: elements are numbered
// along its time, and lie backwards in memory, row by row.
template <class T, class Formula, int kColumns>
struct ReversedWalk : Walk<T, Formula> {
  using Walk<T, Formula>::Walk;

  template <class P>
  [[gnu::always_inline]] typename P::Real input(Input which, std::int64_t index) const {
    return reversed<P>(P::load(this->inputs[which] + place<P>(index)));
  }
  template <class P, bool kStream>
  [[gnu::always_inline]] void write(int result, std::int64_t index, typename P::Real lanes) const {
    P::store(this->results[result] + place<P>(index), reversed<P>(lanes));
  }
  std::int64_t elements_to_boundary() const { return -1; }

 private:
  template <class P>
  static constexpr int kRows = P::kWidth > kColumns ? P::kWidth / kColumns : 1;

  template <class P>
  [[gnu::always_inline]] static std::int64_t place(std::int64_t index) {
    return index % kColumns - (index / kColumns + kRows<P> - 1) * kColumns;
  }
  template <class P, int... lane>
  [[gnu::always_inline]] static typename P::Real reversed(typename P::Real lanes, std::integer_sequence<int, lane...>) {
    return __builtin_shufflevector(lanes, lanes, ((kRows<P> - 1 - lane / kColumns) * kColumns + lane % kColumns)...);
  }
  template <class P>
  [[gnu::always_inline]] static typename P::Real reversed(typename P::Real lanes) {
    if constexpr (P::kWidth == 1)
      return lanes;
    else
      return reversed<P>(lanes, std::make_integer_sequence<int, P::kWidth>{});
  }
};

}  // namespace
}  // namespace metafast::returns
