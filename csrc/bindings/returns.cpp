// Return estimators: checks arguments, allocates results, runs the kernels' slices.
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "bindings/arrays.hpp"
#include "bindings/interrupt.hpp"
#include "returns/estimators.hpp"

namespace metafast {
namespace {

using returns::cut;

// Below this many elements a call takes a few microseconds: less than handing the GIL to and fro can cost.
constexpr std::int64_t kElementsWorthReleasing = 1 << 13;
// Below this many, waking a second thread costs more than it saves: fewer of a series, whose scan costs thrice a row.
constexpr std::int64_t kRowElementsWorthThreads = 200'000;
constexpr std::int64_t kSeriesElementsWorthThreads = 70'000;

std::int64_t last_level_cache_bytes() {
  static const std::int64_t bytes = [] {
    std::int64_t found = 0;
#if defined(_SC_LEVEL3_CACHE_SIZE)
    found = sysconf(_SC_LEVEL3_CACHE_SIZE);
#endif
    return found > 0 ? found : std::int64_t{32} << 20;
  }();
  return bytes;
}

// Runs kernel(arguments, slice, stream) over all slices. `bytes_per_element`: what one element reads and writes.
template <class Arguments>
void run(void (*kernel)(const Arguments&, std::int64_t, bool), const Arguments& arguments,
         std::int64_t bytes_per_element) {
  const SequenceExtents& extents = arguments.extents;
  const std::int64_t elements = extents.outer * extents.time * extents.inner;
  if (elements == 0) return;
  const bool stream = elements * bytes_per_element > last_level_cache_bytes();
  const std::int64_t num_slices = cut(extents).num_slices;
  const auto solve = [&](std::int64_t slice) { kernel(arguments, slice, stream); };
  if (elements < kElementsWorthReleasing) {
    for (std::int64_t slice = 0; slice < num_slices; ++slice) solve(slice);
    return;
  }
  const std::int64_t worth_threads = extents.inner == 1 ? kSeriesElementsWorthThreads : kRowElementsWorthThreads;
  for_each_slice_interruptibly(num_slices, solve, elements < worth_threads ? 1 : 0);
}

// A Python or NumPy number, or an array without axes of any library.
bool as_number(py::handle value, double& number) {
  if (PyBool_Check(value.ptr()) || !PyNumber_Check(value.ptr())) return false;
  if (py::hasattr(value, "ndim") && value.attr("ndim").cast<int>() != 0) return false;
  number = PyFloat_AsDouble(value.ptr());
  if (number != -1.0 || !PyErr_Occurred()) return true;
  PyErr_Clear();
  return false;
}

template <class T>
Coefficient<T> coefficient(py::handle value, const char* name, const py::array& rewards, const SequenceLayout& layout,
                           py::array& keep) {
  Coefficient<T> result;
  double number = 0.0;
  if (PyFloat_CheckExact(value.ptr())) {
    result.value = static_cast<T>(PyFloat_AS_DOUBLE(value.ptr()));
  } else if (py::isinstance<py::array>(value) && py::reinterpret_borrow<py::array>(value).ndim() > 0) {
    keep = float_array(value, name, rewards);
    result.view = layout.broadcast_view<T>(keep, name);
  } else if (as_number(value, number)) {
    result.value = static_cast<T>(number);
  } else {
    throw py::type_error(std::string(name) + " must be a number or a numpy.ndarray that broadcasts to rewards, not " +
                         py::repr(value).cast<std::string>());
  }
  return result;
}

// The flags `terminated` and `truncated`, and `mask`: shape of rewards, one byte per element.
SequenceView<const std::uint8_t> flags(py::handle value, const char* name, const SequenceLayout& layout,
                                       py::array& keep) {
  keep = flag_array(value, name);
  layout.check_shape(keep, name);
  return layout.view<std::uint8_t>(keep);
}

template <class T>
SequenceView<const T> floats(py::handle value, const char* name, const py::array& rewards, const SequenceLayout& layout,
                             py::array& keep) {
  keep = float_array(value, name, rewards);
  layout.check_shape(keep, name);
  return layout.view<T>(keep);
}

// The step of a truncation whose successor the bootstrapped form does not know without final_values, or -1. It knows
// the successor of the last step, which under a mask is the last whose mask is 1.
template <class T>
std::int64_t find_unknown_successor(const returns::Gae<T>& gae) {
  std::vector<std::uint8_t> followed(static_cast<std::size_t>(gae.extents.inner));
  for (std::int64_t outer = 0; outer < gae.extents.outer; ++outer) {
    std::fill(followed.begin(), followed.end(), std::uint8_t{0});
    for (std::int64_t time = gae.extents.time - 1; time >= 0; --time) {
      const std::uint8_t* truncated = gae.truncated.row(outer, time);
      const std::uint8_t* terminated = gae.terminated.row(outer, time);
      const std::uint8_t* mask = gae.mask ? gae.mask.row(outer, time) : nullptr;
      bool unknown = false;
      for (std::int64_t column = 0; column < gae.extents.inner; ++column) {
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
void require_final_values(const returns::Gae<T>& gae) {
  std::int64_t step;
  {
    py::gil_scoped_release released;
    step = find_unknown_successor(gae);
  }
  if (step >= 0)
    throw py::value_error("final_values is missing: truncated is set at step " + std::to_string(step) +
                          ", before the last, and next_values holds only the values after the last step; pass "
                          "final_values, or next_values in the full shape of rewards");
}

// Where the caller's array does not lie in the problem's memory order, the result is made beside it and copied in.
template <class T>
SequenceView<T> result_view(py::array& array, const SequenceLayout& layout, py::array& beside) {
  SequenceView<T> view = layout.writable_view<T>(array);
  if (view || layout.size() == 0) return view;
  beside = layout.empty(array.dtype());
  return layout.writable_view<T>(beside);
}

void copy_back(py::array& array, const py::array& beside) {
  if (beside && beside.size() > 0) array[py::ellipsis()] = beside;
}

py::tuple gae(py::handle rewards_in, py::handle values_in, py::handle next_values_in, py::handle terminated_in,
              py::handle truncated_in, py::handle gamma_in, py::handle lam_in, py::handle final_values_in,
              py::handle mask_in, int time_axis, py::handle out) {
  const py::array rewards_array = plain_array(rewards_in, "rewards");
  return with_float_type(rewards_array, "rewards", [&](auto zero) {
    using T = decltype(zero);
    const SequenceLayout layout(rewards_array, "rewards", time_axis);
    py::array rewards = rewards_array, values = no_array(), next_values = no_array(), terminated = no_array(),
              truncated = no_array(), gamma = no_array(), lam = no_array(), final_values = no_array(),
              mask = no_array();
    returns::Gae<T> arguments;
    arguments.extents = layout.extents();
    arguments.rewards = layout.view<T>(rewards);
    arguments.values = floats<T>(values_in, "values", rewards_array, layout, values);
    next_values = row_array(next_values_in, "next_values", rewards_array);
    arguments.bootstrapped = next_values.ndim() != rewards_array.ndim();
    if (arguments.bootstrapped) {
      layout.check_row_shape(next_values, "next_values");
      arguments.next_values = layout.row_view<T>(next_values);
    } else {
      layout.check_shape(next_values, "next_values");
      arguments.next_values = layout.view<T>(next_values);
    }
    arguments.terminated = flags(terminated_in, "terminated", layout, terminated);
    if (given(truncated_in)) arguments.truncated = flags(truncated_in, "truncated", layout, truncated);
    arguments.gamma = coefficient<T>(gamma_in, "gamma", rewards_array, layout, gamma);
    arguments.lam = coefficient<T>(lam_in, "lam", rewards_array, layout, lam);
    if (given(final_values_in))
      arguments.final_values = floats<T>(final_values_in, "final_values", rewards_array, layout, final_values);
    if (given(mask_in)) arguments.mask = flags(mask_in, "mask", layout, mask);
    if (arguments.bootstrapped && arguments.truncated && !arguments.final_values) require_final_values(arguments);

    py::array advantages = no_array(), returns = no_array();
    py::array advantages_beside = no_array(), returns_beside = no_array();
    if (given(out)) {
      if (!py::isinstance<py::tuple>(out) && !py::isinstance<py::list>(out))
        throw py::type_error("out must be a pair of arrays (advantages, returns), not " +
                             py::str(py::type::handle_of(out).attr("__name__")).cast<std::string>());
      const auto pair = py::reinterpret_borrow<py::sequence>(out);
      if (pair.size() != 2)
        throw py::value_error("out must be a pair of arrays (advantages, returns), not " + std::to_string(pair.size()) +
                              " of them");
      advantages = output_array(pair[0], "out[0]", rewards_array, layout);
      returns = output_array(pair[1], "out[1]", rewards_array, layout);
      check_no_overlap(advantages, "out[0]", returns, "out[1]");
      const auto check_against = [&](const py::array& input, const char* name) {
        check_no_overlap(advantages, "out[0]", input, name);
        check_no_overlap(returns, "out[1]", input, name);
      };
      check_against(rewards, "rewards");
      check_against(values, "values");
      check_against(next_values, "next_values");
      check_against(terminated, "terminated");
      check_against(truncated, "truncated");
      check_against(gamma, "gamma");
      check_against(lam, "lam");
      check_against(final_values, "final_values");
      check_against(mask, "mask");
    } else {
      advantages = layout.empty(rewards_array.dtype());
      returns = layout.empty(rewards_array.dtype());
    }
    arguments.advantages = result_view<T>(advantages, layout, advantages_beside);
    arguments.returns = result_view<T>(returns, layout, returns_beside);

    const std::int64_t bytes = 4 * sizeof(T) + 2 + (arguments.bootstrapped ? 0 : sizeof(T));
    if constexpr (sizeof(T) == sizeof(float))
      run(returns_kernels().gae_float, arguments, bytes);
    else
      run(returns_kernels().gae_double, arguments, bytes);
    copy_back(advantages, advantages_beside);
    copy_back(returns, returns_beside);
    return py::make_tuple(advantages, returns);
  });
}

py::array discounted_returns(py::handle rewards_in, py::handle terminated_in, py::handle truncated_in,
                             py::handle gamma_in, py::handle bootstrap_in, py::handle final_values_in, int time_axis) {
  const py::array rewards_array = plain_array(rewards_in, "rewards");
  return with_float_type(rewards_array, "rewards", [&](auto zero) {
    using T = decltype(zero);
    const SequenceLayout layout(rewards_array, "rewards", time_axis);
    py::array rewards = rewards_array, terminated = no_array(), truncated = no_array(), gamma = no_array(),
              bootstrap = no_array(), final_values = no_array();
    returns::DiscountedReturns<T> arguments;
    arguments.extents = layout.extents();
    arguments.rewards = layout.view<T>(rewards);
    arguments.terminated = flags(terminated_in, "terminated", layout, terminated);
    if (given(truncated_in)) arguments.truncated = flags(truncated_in, "truncated", layout, truncated);
    arguments.gamma = coefficient<T>(gamma_in, "gamma", rewards_array, layout, gamma);
    if (given(bootstrap_in)) {
      bootstrap = row_array(bootstrap_in, "bootstrap", rewards_array);
      layout.check_row_shape(bootstrap, "bootstrap");
      arguments.bootstrap = layout.row_view<T>(bootstrap);
    }
    if (given(final_values_in))
      arguments.final_values = floats<T>(final_values_in, "final_values", rewards_array, layout, final_values);
    py::array returns = layout.empty(rewards_array.dtype());
    arguments.returns = layout.writable_view<T>(returns);
    const std::int64_t bytes = 2 * sizeof(T) + 2;
    if constexpr (sizeof(T) == sizeof(float))
      run(returns_kernels().discounted_returns_float, arguments, bytes);
    else
      run(returns_kernels().discounted_returns_double, arguments, bytes);
    return returns;
  });
}

py::array affine_scan(py::handle offsets_in, py::handle decays_in, int time_axis, bool forwards) {
  const py::array offsets_array = plain_array(offsets_in, "offsets");
  return with_float_type(offsets_array, "offsets", [&](auto zero) {
    using T = decltype(zero);
    const SequenceLayout layout(offsets_array, "offsets", time_axis);
    py::array offsets = offsets_array, decays = no_array();
    returns::AffineScan<T> arguments;
    arguments.extents = layout.extents();
    arguments.offsets = layout.view<T>(offsets);
    arguments.decays = floats<T>(decays_in, "decays", offsets_array, layout, decays);
    py::array result = layout.empty(offsets_array.dtype());
    arguments.result = layout.writable_view<T>(result);
    if (forwards) {
      const auto reverse = [&](auto& view) {
        view.data += (arguments.extents.time - 1) * view.time_stride;
        view.time_stride = -view.time_stride;
      };
      reverse(arguments.offsets);
      reverse(arguments.decays);
      reverse(arguments.result);
    }
    if constexpr (sizeof(T) == sizeof(float))
      run(returns_kernels().affine_scan_float, arguments, 3 * sizeof(T));
    else
      run(returns_kernels().affine_scan_double, arguments, 3 * sizeof(T));
    return result;
  });
}

}  // namespace

void register_returns(py::module_& module) {
  using py::arg;
  module.def("gae", &gae, arg("rewards"), arg("values"), arg("next_values"), arg("terminated"), arg("truncated"),
             arg("gamma"), arg("lam"), arg("final_values"), arg("mask"), arg("time_axis"), arg("out") = py::none());
  module.def("discounted_returns", &discounted_returns, arg("rewards"), arg("terminated"), arg("truncated"),
             arg("gamma"), arg("bootstrap"), arg("final_values"), arg("time_axis"));
  module.def("affine_scan", &affine_scan, arg("offsets"), arg("decays"), arg("time_axis"), arg("forwards"));
}

}  // namespace metafast
