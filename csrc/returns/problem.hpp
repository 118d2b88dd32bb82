// What the return estimators are given. Views are checked by the caller.
#pragma once

#include <cstdint>

#include "common/view.hpp"

namespace metafast::returns {

enum Input {
  kRewards,
  kValues,
  kNextValues,  // of the true successors; or, where `bootstrapped`, one row: those after the last step
  kFinalValues,
  kLogRhos,
  kNextQExpected,
  kNextQ,
  kOffsets,
  kDecays,
  kNumInputs
};
enum Flag { kTerminated, kTruncated, kMask, kNumFlags };
enum Factor { kGamma, kLam, kNumFactors };
constexpr int kMaxResults = 2;

// The arguments of every estimator, under the names they have everywhere. What an estimator does not take, or was not
// given, is null.
template <class T>
struct Problem {
  using Element = T;

  SequenceExtents extents;
  SequenceView<const T> inputs[kNumInputs];
  SequenceView<const std::uint8_t> flags[kNumFlags];
  Coefficient<T> factors[kNumFactors];
  T clip_rho, clip_c, clip_pg_rho;
  bool bootstrapped = false;
  SequenceView<T> results[kMaxResults];

  bool has(Input which) const { return static_cast<bool>(inputs[which]); }
  T read(Input which, std::int64_t outer, std::int64_t time, std::int64_t column) const {
    return inputs[which].row(outer, time)[column];
  }
};

}  // namespace metafast::returns
