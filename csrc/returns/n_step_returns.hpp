// n-step returns (Sutton and Barto 2018, equation 7.1). For kernel files only.
//
// G_t is n steps of the recurrence, from t on, applied to the value of the state they lead to: not its solution but a
// window over it. Windows of 1, 2, 4, ... steps are joined out of two halves each, and those that n's binary digits
// name are applied one after the other, the last in time first: log2(n) passes over a chunk that stays in the cache. A
// few steps are sooner applied one by one, in one pass. An end of an episode, and the end of the array, cut the window,
// so that nothing else marks them.
#pragma once

#include <algorithm>

#include "returns/recurrence.hpp"
#include "returns/walk.hpp"

namespace metafast::returns {
namespace {

struct NStepFormula {
  using Inputs = InputList<kRewards, kNextValues>;
  static constexpr int kResults = 1;
};

template <class T>
class NStepChunk {
 public:
  NStepChunk(const NStepReturns<T>& arguments, std::int64_t chunk, T* scratch)
      : problem_(arguments.problem), n_(arguments.n), cut_(n_step_cut(problem_.extents, arguments.n)) {
    const SequenceExtents& extents = problem_.extents;
    const std::int64_t time_chunk = chunk % cut_.time_chunks;
    const std::int64_t tile = chunk / cut_.time_chunks % cut_.column_tiles;
    first_outer_ = chunk / cut_.time_chunks / cut_.column_tiles * cut_.outers_per_chunk;
    num_outers_ = std::min(cut_.outers_per_chunk, extents.outer - first_outer_);
    first_column_ = tile * cut_.columns;
    columns_ = std::min(cut_.columns, extents.inner - first_column_);
    first_time_ = time_chunk * cut_.steps;
    steps_ = std::min(cut_.steps, extents.time - first_time_);
    loaded_steps_ = std::min(steps_ + n_ - 1, extents.time - first_time_);
    size_ = num_outers_ * loaded_steps_ * columns_;
    offsets_ = scratch;
    decays_ = offsets_ + cut_.scratch_elements;
    values_ = decays_ + cut_.scratch_elements;
  }

  void solve() {
    load();
    // Behind the last step there is nothing, and no window reaches there uncut.
    const std::int64_t reach = n_ * columns_;
    for (T* array : {offsets_, decays_, values_}) std::fill_n(array + size_, reach, T(0));
    if (n_ <= kFewSteps) return finish(n_, 1);
    std::int64_t width = 1;
    for (; 2 * width <= n_; width *= 2) {
      if (n_ & width) apply(width);
      join(width);
    }
    finish(1, width);
  }

 private:
  static constexpr std::int64_t kFewSteps = 8;

  // The steps as affine maps; and, for each, the value of the state behind it.
  void load() {
    T* offsets = offsets_;
    T* decays = decays_;
    T* values = values_;
    for_each_run(loaded_steps_, [&](const Walk<T, NStepFormula>& walk, std::int64_t length, std::int64_t last_row) {
      for_lanes<T>(0, length, [&](auto width, std::int64_t index) __attribute__((always_inline)) {
        using P = Pack<T, decltype(width)::value>;
        const auto value = walk.template input<P>(kNextValues, index);
        const auto step = discounted_return_step(
            walk.template input<P>(kRewards, index), value, walk.template flag<P>(kTerminated, index),
            walk.template flag<P>(kTruncated, index), walk.template factor<P>(kGamma, index));
        P::store(offsets + index, step.offset);
        P::store(decays + index, step.decay);
        P::store(values + index, value);
      });
      for (std::int64_t index = last_row; index < length; ++index) {
        using P = Pack<T, 1>;
        const auto step = discounted_return_step(
            walk.template input<P>(kRewards, index), walk.template input<P>(kNextValues, index),
            walk.template flag<P>(kTerminated, index), true, walk.template factor<P>(kGamma, index));
        offsets[index] = step.offset;
        decays[index] = step.decay;
      }
      offsets += length, decays += length, values += length;
    });
  }

  // Windows of `width` steps become windows of twice as many.
  void join(std::int64_t width) {
    const std::int64_t shift = width * columns_;
    for_lanes<T>(0, size_, [&](auto lanes, std::int64_t index) __attribute__((always_inline)) {
      using P = Pack<T, decltype(lanes)::value>;
      const auto joined = compose<P>(window<P>(index), window<P>(index + shift));
      P::store(offsets_ + index, joined.offset);
      P::store(decays_ + index, joined.decay);
    });
  }

  // Where the value lies that a window of `width` steps is applied to, behind what was applied before: at first
  // values[t] belongs to the state behind step t, then to the state of step t.
  std::int64_t behind(std::int64_t width) const { return (applied_ ? width : width - 1) * columns_; }

  // Applies the windows of `width` steps, and the values are those of the states that much earlier.
  void apply(std::int64_t width) {
    const std::int64_t shift = behind(width);
    for_lanes<T>(0, size_, [&](auto lanes, std::int64_t index) __attribute__((always_inline)) {
      using P = Pack<T, decltype(lanes)::value>;
      P::store(values_ + index, carry_back<P>(window<P>(index), P::load(values_ + index + shift)));
    });
    applied_ = true;
  }

  template <class P>
  [[gnu::always_inline]] Affine<typename P::Real> window(std::int64_t index) const {
    return {P::load(offsets_ + index), P::load(decays_ + index)};
  }

  // Applies `count` windows of `width` steps that follow each other, and writes the results.
  void finish(std::int64_t count, std::int64_t width) {
    const std::int64_t shift = behind(count * width), next = width * columns_;
    std::int64_t begin = 0;
    for_each_run(steps_, [&](const Walk<T, NStepFormula>& walk, std::int64_t length, std::int64_t) {
      for_lanes<T>(0, length, [&](auto lanes, std::int64_t index) __attribute__((always_inline)) {
        using P = Pack<T, decltype(lanes)::value>;
        auto value = P::load(values_ + begin + index + shift);
        for (std::int64_t k = count - 1; k >= 0; --k) value = carry_back<P>(window<P>(begin + index + k * next), value);
        walk.template write<P, false>(0, index, value);
      });
      begin += length;
    }, (loaded_steps_ - steps_) * columns_, begin);
  }

  // Calls body(walk, length, last_row) for each run of neighbours in memory: `length` elements at the walk's place, of
  // which those from `last_row` on belong to the last step of the array. Behind the runs of each outer index, `place` is
  // moved on by `skipped`.
  template <class Body>
  void for_each_run(std::int64_t steps, const Body& body) {
    std::int64_t unused = 0;
    for_each_run(steps, body, 0, unused);
  }
  template <class Body>
  void for_each_run(std::int64_t steps, const Body& body, std::int64_t skipped, std::int64_t& place) {
    const std::int64_t last = problem_.extents.time - 1;
    const bool whole = columns_ == problem_.extents.inner && gapless<NStepFormula>(problem_, columns_);
    for (std::int64_t outer = first_outer_; outer < first_outer_ + num_outers_; ++outer) {
      Walk<T, NStepFormula> walk(problem_, outer, first_time_, first_column_);
      if (whole) {
        body(walk, steps * columns_, (last - first_time_) * columns_);
      } else {
        for (std::int64_t step = 0; step < steps; ++step)
          body(Walk<T, NStepFormula>(problem_, outer, first_time_ + step, first_column_), columns_,
               first_time_ + step == last ? 0 : columns_);
      }
      place += skipped;
    }
  }

  const Problem<T>& problem_;
  const std::int64_t n_;
  const NStepCut cut_;
  std::int64_t first_outer_, num_outers_, first_column_, columns_, first_time_, steps_, loaded_steps_, size_;
  bool applied_ = false;
  T *offsets_, *decays_, *values_;
};

}  // namespace
}  // namespace metafast::returns
