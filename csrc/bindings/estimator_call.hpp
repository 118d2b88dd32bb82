// One call of a return estimator: checks its arguments by the table of their roles, allocates results, runs the
// kernel's slices. For returns.cpp only.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <string>
#include <vector>

#include "bindings/dlpack.hpp"
#include "bindings/estimator_table.hpp"
#include "bindings/interrupt.hpp"
#include "bindings/scratch.hpp"
#include "bindings/segments.hpp"
#include "bindings/sequence_arrays.hpp"
#include "bindings/unknown_successor.hpp"

namespace metafast {
namespace {

using returns::Problem;

// Below this many elements a call takes a few microseconds: less than handing the GIL to and fro can cost.
constexpr std::int64_t kElementsWorthReleasing = 1 << 13;
// Below this many, waking a second thread costs more than it saves.
constexpr std::int64_t kElementsWorthThreads = 100'000;

// What a call may hope to find in the cache again. Of a large last level, which many cores or machines share, no more
// than this is one's own; and virtual machines report the whole.
std::int64_t cache_bytes() {
  static const std::int64_t bytes = [] {
    constexpr std::int64_t most = std::int64_t{32} << 20;
    std::int64_t found = 0;
#if defined(_SC_LEVEL3_CACHE_SIZE)
    found = sysconf(_SC_LEVEL3_CACHE_SIZE);
#endif
    return found > 0 ? std::min(found, most) : most;
  }();
  return bytes;
}

// Runs solve(slice) over all slices of a problem of so many elements.
template <class Function>
void run_slices_of(std::int64_t elements, std::int64_t num_slices, const Function& solve) {
  if (elements == 0) return;
  if (elements < kElementsWorthReleasing) {
    for (std::int64_t slice = 0; slice < num_slices; ++slice) solve(slice);
    return;
  }
  for_each_slice_interruptibly(num_slices, solve, elements < kElementsWorthThreads ? 1 : 0);
}

// A Python or NumPy number, or an array without axes of any library.
bool as_number(py::handle value, double& number) {
  if (PyFloat_CheckExact(value.ptr())) {
    number = PyFloat_AS_DOUBLE(value.ptr());
    return true;
  }
  if (PyBool_Check(value.ptr()) || !PyNumber_Check(value.ptr())) return false;
  if (py::hasattr(value, "ndim") && value.attr("ndim").cast<int>() != 0) return false;
  number = PyFloat_AsDouble(value.ptr());
  if (number != -1.0 || !PyErr_Occurred()) return true;
  PyErr_Clear();
  return false;
}

std::string text_of(py::handle value) { return py::repr(value).cast<std::string>(); }

// One call of an estimator: its arguments in the order of the table, and what was made of them.
template <class T>
class Call {
 public:
  Call(const Estimator& estimator, PyObject* const* arguments, const Array& leading, const char* leading_name,
       Library library, int time_axis, std::vector<py::object>& keep)
      : estimator_(estimator),
        arguments_(arguments),
        leading_(leading),
        leading_name_(leading_name),
        library_(library),
        keep_(keep),
        layout_(leading, leading_name, time_axis, keep) {
    problem_.extents = layout_.extents();
  }

  py::object run() {
    for (int i = 0; i < kMaxParameters && estimator_.parameters[i].name != nullptr; ++i) take(i);
    if (!problem_.flags[returns::kTruncated]) problem_.inputs[returns::kFinalValues] = {};  // nothing to read there
    if (segments_) join_segments();
    if (problem_.bootstrapped && problem_.flags[returns::kTruncated] && !problem_.inputs[returns::kFinalValues])
      require_final_values(problem_);
    take_results();
    if (forwards_) reverse_time();
    solve();
    for (int i = 0; i < num_results_; ++i)
      if (beside_[i]) numpy_view(results_[i])[py::ellipsis()] = beside_[i];
    if (given(out_)) return py::reinterpret_borrow<py::object>(out_);
    if (num_results_ == 1) return made_[0];
    return py::make_tuple(made_[0], made_[1]);
  }

 private:
  Array floats(int parameter) {
    const char* name = estimator_.parameters[parameter].name;
    Array array = plain_view(arguments_[parameter], name, library_, keep_);
    if (!array.has_dtype_of(leading_))
      throw py::type_error(std::string(name) + " has dtype " + dtype_text(array) + ", but " + leading_name_ + " has " +
                           dtype_text(leading_) + "; the floats of one call share a dtype");
    return array;
  }

  SequenceView<const std::uint8_t> flag(int parameter) {
    const char* name = estimator_.parameters[parameter].name;
    Array array = plain_view(arguments_[parameter], name, library_, keep_);
    if (array.kind != 'b' && array.kind != 'i' && array.kind != 'u' && array.kind != 'f')
      throw py::type_error(std::string(name) + " has dtype " + dtype_text(array) +
                           "; expected bool, or 0 and 1 as integers or floats");
    layout_.check_shape(array, name);
    arrays_[parameter] = array;
    if (array.itemsize == 1) return layout_.view<std::uint8_t>(array);
    keep_.push_back(numpy_view(array).attr("__ne__")(0));
    return layout_.view<std::uint8_t>(plain_view(keep_.back(), name, Library::numpy, keep_));
  }

  Coefficient<T> factor(int parameter) {
    const char* name = estimator_.parameters[parameter].name;
    const py::handle value = arguments_[parameter];
    Coefficient<T> result;
    double number = 0.0;
    if (!PyFloat_CheckExact(value.ptr())) check_ordinary(value, library_);
    if (as_number(value, number)) {
      result.value = static_cast<T>(number);
      return result;
    }
    const bool is_array = library_ != Library::numpy ? dlpack::is_torch(value) : py::isinstance<py::array>(value);
    if (!is_array)
      throw py::type_error(std::string(name) + " must be a number or an array that broadcasts to " + leading_name_ +
                           ", of the same library, not " + text_of(value));
    arrays_[parameter] = floats(parameter);
    result.view = layout_.broadcast_view<T>(arrays_[parameter], name);
    return result;
  }

  void clip(const Parameter& parameter, py::handle value) {
    double number = 0.0;
    if (!as_number(value, number))
      throw py::type_error(std::string(parameter.name) + " must be a number, not " + text_of(value));
    if (!(number > 0))
      throw py::value_error(std::string(parameter.name) + " must be positive, not " + text_of(value));
    (parameter.slot == kClipRho ? problem_.clip_rho
     : parameter.slot == kClipC ? problem_.clip_c
                                : problem_.clip_pg_rho) = static_cast<T>(number);
  }

  void steps(const Parameter& parameter, py::handle value) {
    if (PyBool_Check(value.ptr()) || !PyIndex_Check(value.ptr()) ||
        (py::hasattr(value, "ndim") && value.attr("ndim").cast<int>() != 0))
      throw py::type_error(std::string(parameter.name) + " must be a whole number of steps, not " + text_of(value));
    const auto whole = py::reinterpret_steal<py::object>(PyNumber_Index(value.ptr()));
    if (!whole) throw py::error_already_set();
    int overflow = 0;
    n_ = PyLong_AsLongLongAndOverflow(whole.ptr(), &overflow);
    if (overflow > 0) n_ = INT64_MAX;
    if (n_ < 1 || overflow < 0)
      throw py::value_error(std::string(parameter.name) + " must be at least 1, not " + text_of(value));
  }

  void take(int index) {
    const Parameter& parameter = estimator_.parameters[index];
    const py::handle value = arguments_[index];
    if (parameter.optional && !given(value)) return;
    Array& array = arrays_[index];
    switch (parameter.role) {
      case Role::input:
      case Role::prediction:
        array = floats(index);
        layout_.check_shape(array, parameter.name);
        if (parameter.role == Role::input) problem_.inputs[parameter.slot] = layout_.view<T>(array);
        break;
      case Role::successors:
      case Role::row:
        array = floats(index);
        problem_.bootstrapped = parameter.role == Role::row || array.ndim != leading_.ndim;
        if (problem_.bootstrapped) {
          layout_.check_row_shape(array, parameter.name);
          problem_.inputs[parameter.slot] = layout_.row_view<T>(array);
        } else {
          layout_.check_shape(array, parameter.name);
          problem_.inputs[parameter.slot] = layout_.view<T>(array);
        }
        if (parameter.role == Role::row) problem_.bootstrapped = false;
        break;
      case Role::flag:
        problem_.flags[parameter.slot] = flag(index);
        break;
      case Role::factor:
        given_lam_ = given_lam_ || parameter.slot == returns::kLam;
        problem_.factors[parameter.slot] = factor(index);
        break;
      case Role::lengths:
        segments_.lengths = plain_view(value, parameter.name, library_, keep_);
        break;
      case Role::last_row:
        segments_.last_values = floats(index);
        break;
      case Role::clip:
        clip(parameter, value);
        break;
      case Role::steps:
        steps(parameter, value);
        break;
      case Role::forwards:
        forwards_ = value.cast<bool>();
        break;
      case Role::out:
        out_ = value;
        break;
      case Role::time_axis:
        break;
    }
  }

  void join_segments() {
    const bool with_values = static_cast<bool>(problem_.inputs[returns::kValues]);
    if (with_values != given_lam_)
      throw py::value_error(with_values ? "values is given without lam; GAE needs both"
                                        : "lam is given without values; GAE needs both");
    num_results_ = with_values ? 2 : 1;
    segments_.join(problem_, leading_);
  }

  void take_results() {
    if (!given(out_)) {
      for (int i = 0; i < num_results_; ++i) made_[i] = layout_.empty(leading_, library_, results_[i]);
    } else if (num_results_ == 1) {
      take_output(0, out_, "out");
    } else {
      const std::string expected = std::string("out must be a pair of arrays ") + estimator_.results + ", not ";
      if (!PyTuple_Check(out_.ptr()) && !PyList_Check(out_.ptr()))
        throw py::type_error(expected + py::str(py::type::handle_of(out_).attr("__name__")).cast<std::string>());
      const auto pair = py::reinterpret_borrow<py::sequence>(out_);
      if (pair.size() != 2) throw py::value_error(expected + std::to_string(pair.size()) + " of them");
      take_output(0, PySequence_Fast_GET_ITEM(out_.ptr(), 0), "out[0]");
      take_output(1, PySequence_Fast_GET_ITEM(out_.ptr(), 1), "out[1]");
      check_no_overlap(results_[0], "out[0]", results_[1], "out[1]");
    }
    for (int i = 0; i < num_results_; ++i) {
      problem_.results[i] = layout_.writable_view<T>(results_[i]);
      if (problem_.results[i] || layout_.size() == 0) continue;
      // The caller's array does not lie in the problem's memory order: the result is made beside it and copied in.
      beside_[i] = layout_.empty(numpy_view(leading_).dtype());
      Array array = plain_view(beside_[i], "out", Library::numpy, keep_);
      problem_.results[i] = layout_.writable_view<T>(array);
    }
  }

  void take_output(int index, py::handle value, const char* name) {
    Array array = plain_view(value, name, library_, keep_);
    if (!array.has_dtype_of(leading_))
      throw py::type_error(std::string(name) + " has dtype " + dtype_text(array) + ", but " + leading_name_ + " has " +
                           dtype_text(leading_) + "; the floats of one call share a dtype");
    layout_.check_shape(array, name);
    if (!array.writable) throw py::value_error(std::string(name) + " is not writable");
    for (int i = 0; i < kMaxParameters && estimator_.parameters[i].name != nullptr; ++i)
      check_no_overlap(array, name, arrays_[i], estimator_.parameters[i].name);
    results_[index] = array;
  }

  void reverse_time() {
    const auto reverse = [&](auto& view) {
      view.data += (problem_.extents.time - 1) * view.time_stride;
      view.time_stride = -view.time_stride;
    };
    reverse(problem_.inputs[returns::kOffsets]);
    reverse(problem_.inputs[returns::kDecays]);
    reverse(problem_.results[0]);
  }

  void solve() {
    const bool windowed = estimator_.kernel == nullptr;
    if (windowed && n_ < problem_.extents.time) return solve_windows();
    if (windowed) problem_.factors[returns::kLam] = {T(1), {}};  // no window ends before its episode
    const auto kernel = windowed                           ? &returns::Kernels::lambda_returns
                        : segments_ && num_results_ == 1 ? &returns::Kernels::discounted_returns
                                                         : estimator_.kernel;
    const auto solve = (returns_kernels().*kernel).solve(T());
    std::int64_t bytes_per_element = 0;
    for (const Array& array : arrays_) bytes_per_element += array.ndim == leading_.ndim ? array.itemsize : 0;
    for (int i = 0; i < num_results_; ++i) bytes_per_element += static_cast<std::int64_t>(sizeof(T));
    const bool stream = layout_.size() * bytes_per_element > cache_bytes();
    run_slices_of(layout_.size(), returns::cut(problem_.extents).num_slices,
                  [&](std::int64_t slice) { solve(problem_, slice, stream); });
  }

  void solve_windows() {
    if (layout_.size() == 0) return;
    const returns::NStepReturns<T> arguments{problem_, n_};
    const returns::NStepCut cut = returns::n_step_cut(problem_.extents, n_);
    const std::int64_t scratch_bytes =
        returns::kNStepScratchArrays * cut.scratch_elements * static_cast<std::int64_t>(sizeof(T));
    ScratchBlocks scratch(scratch_bytes, cut.num_chunks > 1 ? get_num_threads() : 1);
    const auto kernel = [] {
      if constexpr (sizeof(T) == sizeof(float))
        return returns_kernels().n_step_returns_float;
      else
        return returns_kernels().n_step_returns_double;
    }();
    run_slices_of(layout_.size(), cut.num_chunks, [&](std::int64_t chunk) {
      const ScratchBlocks::Block block(scratch);
      kernel(arguments, chunk, reinterpret_cast<T*>(block.get()));
    });
  }

  const Estimator& estimator_;
  PyObject* const* arguments_;
  const Array& leading_;
  const char* leading_name_;
  const Library library_;
  std::vector<py::object>& keep_;
  const SequenceLayout layout_;
  Problem<T> problem_;
  Array arrays_[kMaxParameters];
  Array results_[returns::kMaxResults];
  py::object made_[returns::kMaxResults];
  py::object beside_[returns::kMaxResults] = {no_array(), no_array()};
  py::handle out_;
  int num_results_ = estimator_.num_results;
  Segments<T> segments_;
  bool given_lam_ = false;
  std::int64_t n_ = 0;
  bool forwards_ = false;
};

}  // namespace
}  // namespace metafast
