// Where a driver stands in the arrays of a problem. For kernel files only.
#pragma once

#include <cstdint>

#include "common/lanes.hpp"
#include "common/vector_math.hpp"
#include "returns/estimators.hpp"

namespace metafast::returns {
namespace {

template <Input... inputs>
struct InputList {};

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
  // Truncation is rare, so that hardly any of final_values is read.
  template <class P>
  [[gnu::always_inline]] typename P::Real successor(std::int64_t index, typename P::Real next_value) const {
    if (inputs[kFinalValues] == nullptr || !any<P::kWidth>(flags[kTruncated] + index)) return next_value;
    return P::load_mask(flags[kTruncated] + index) ? P::load(inputs[kFinalValues] + index) : next_value;
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
    const T* earlier = inputs[which] + index - problem.inputs[which].time_stride;
    if (which != kFinalValues)
      __builtin_prefetch(earlier);
    else if (inputs[kFinalValues] != nullptr &&
             any<kLanes<T>>(flags[kTruncated] + index - problem.flags[kTruncated].time_stride))
      __builtin_prefetch(earlier);
  }
};

// Whether the rows of every array follow each other without gaps, so that it is one run of memory in ascending time.
template <class T, Input... inputs>
inline bool gapless_inputs(const Problem<T>& problem, InputList<inputs...>) {
  const auto fits = [&](Input input) {
    const auto& view = problem.inputs[input];
    return !view || view.time_stride == problem.extents.inner || (input == kNextValues && problem.bootstrapped);
  };
  return (fits(inputs) && ...);
}

template <class Formula, class T>
inline bool gapless(const Problem<T>& problem) {
  bool result = gapless_inputs(problem, typename Formula::Inputs{});
  const auto check = [&](const auto& view) { result = result && (!view || view.time_stride == problem.extents.inner); };
  for (const auto& flag : problem.flags) check(flag);
  for (const auto& factor : problem.factors) check(factor.view);
  for (int i = 0; i < Formula::kResults; ++i) check(problem.results[i]);
  return result;
}

// e^x of every lane.
template <class P>
[[gnu::always_inline]] inline typename P::Real exponential(typename P::Real x) {
  alignas(64) typename P::Element lanes[P::kWidth];
  P::store(lanes, x);
  for (int lane = 0; lane < P::kWidth; ++lane) lanes[lane] = vector_exp(lanes[lane]);
  return P::load(lanes);
}

}  // namespace
}  // namespace metafast::returns
