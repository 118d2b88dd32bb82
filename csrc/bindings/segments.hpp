// Episodes packed end to end: one sequence with ends inside, terminal ones; or, where values follow them, truncated ones.
#pragma once

#include <cstring>
#include <string>
#include <vector>

#include "bindings/sequence_arrays.hpp"
#include "returns/estimators.hpp"

namespace metafast {

template <class T>
class Segments {
 public:
  Array lengths, last_values;  // the latter may be absent

  explicit operator bool() const { return static_cast<bool>(lengths); }

  // Checks the arguments and marks the ends in the problem, which then views memory of this object.
  void join(returns::Problem<T>& problem, const Array& rewards) {
    check(rewards);
    const std::int64_t steps = problem.extents.time;
    ends_.assign(static_cast<std::size_t>(steps), 0);
    if (last_values) final_values_.assign(static_cast<std::size_t>(steps), T(0));
    const auto whole = py::module_::import("numpy")
                           .attr("ascontiguousarray")(numpy_view(lengths), py::dtype::of<std::int64_t>())
                           .template cast<py::array_t<std::int64_t>>();
    std::int64_t end = 0;
    for (py::ssize_t segment = 0; segment < whole.size(); ++segment) {
      const std::int64_t length = whole.data()[segment];
      if (length < 0)
        throw py::value_error("lengths[" + std::to_string(segment) + "] is " + std::to_string(length) +
                              "; lengths cannot be negative");
      if (length > steps - end) throw_wrong_sum(steps);
      end += length;
      if (length == 0) continue;
      const auto last = static_cast<std::size_t>(end - 1);
      ends_[last] = 1;
      if (last_values)
        std::memcpy(&final_values_[last], last_values.data + segment * last_values.strides[0], sizeof(T));
    }
    if (end != steps) throw_wrong_sum(steps);
    problem.flags[last_values ? returns::kTruncated : returns::kTerminated] = {ends_.data(), steps, 1};
    if (last_values) problem.inputs[returns::kFinalValues] = {final_values_.data(), steps, 1};
    // Behind the last end there is nothing to bootstrap from, but the kernel wants a row to start with.
    problem.inputs[returns::kNextValues] = {&nothing_, 0, 0};
    problem.bootstrapped = static_cast<bool>(problem.inputs[returns::kValues]);
  }

 private:
  void check(const Array& rewards) const {
    if (rewards.ndim != 1)
      throw py::value_error("rewards has shape " + shape_text(rewards.shape.data(), rewards.ndim) +
                            "; expected one axis, the steps of all episodes end to end");
    if (lengths.kind != 'i' && lengths.kind != 'u')
      throw py::type_error("lengths has dtype " + dtype_text(lengths) + "; expected integers");
    if (lengths.ndim != 1)
      throw py::value_error("lengths has shape " + shape_text(lengths.shape.data(), lengths.ndim) +
                            "; expected one axis, the episodes");
    if (last_values && (last_values.ndim != 1 || last_values.shape[0] != lengths.shape[0]))
      throw py::value_error("last_values has shape " + shape_text(last_values.shape.data(), last_values.ndim) +
                            ", expected " + shape_text(lengths.shape.data(), 1) + ", the shape of lengths");
  }

  [[noreturn]] static void throw_wrong_sum(std::int64_t steps) {
    throw py::value_error("lengths do not sum to " + std::to_string(steps) + ", the length of rewards");
  }

  std::vector<std::uint8_t> ends_;
  std::vector<T> final_values_;
  T nothing_ = T(0);
};

}  // namespace metafast
