// Truncated steps whose successors the bootstrapped form of an estimator does not know.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "bindings/register.hpp"
#include "returns/estimators.hpp"

namespace metafast {

// The step of a truncation whose successor the bootstrapped form does not know without final_values, or -1. It knows
// the successor of the last step, which under a mask is the last whose mask is 1.
template <class T>
std::int64_t find_unknown_successor(const returns::Problem<T>& problem) {
  const auto& masks = problem.flags[returns::kMask];
  std::vector<std::uint8_t> followed(static_cast<std::size_t>(problem.extents.inner));
  for (std::int64_t outer = 0; outer < problem.extents.outer; ++outer) {
    std::fill(followed.begin(), followed.end(), std::uint8_t{0});
    for (std::int64_t time = problem.extents.time - 1; time >= 0; --time) {
      const std::uint8_t* truncated = problem.flags[returns::kTruncated].row(outer, time);
      const std::uint8_t* terminated = problem.flags[returns::kTerminated].row(outer, time);
      const std::uint8_t* mask = masks ? masks.row(outer, time) : nullptr;
      bool unknown = false;
      for (std::int64_t column = 0; column < problem.extents.inner; ++column) {
        const bool taken = mask == nullptr || mask[column] != 0;
        std::uint8_t& has_follower = followed[static_cast<std::size_t>(column)];
        unknown |= taken && has_follower && truncated[column] && !terminated[column];
        has_follower |= taken;
      }
      if (unknown) return time;
    }
  }
  return -1;
}

template <class T>
void require_final_values(const returns::Problem<T>& problem) {
  if (problem.extents.outer * problem.extents.inner == 0) return;
  std::int64_t step;
  {
    py::gil_scoped_release released;
    step = find_unknown_successor(problem);
  }
  if (step >= 0)
    throw py::value_error("final_values is missing: truncated is set at step " + std::to_string(step) +
                          ", before the last, and next_values holds only the values after the last step; pass "
                          "final_values, or next_values in the full shape of rewards");
}

}  // namespace metafast
