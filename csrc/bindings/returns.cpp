// Return estimators: checks arguments by the table of their roles, allocates results, runs the kernels' slices.
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "bindings/dlpack.hpp"
#include "bindings/estimator_table.hpp"
#include "bindings/interrupt.hpp"
#include "bindings/scratch.hpp"
#include "bindings/sequence_arrays.hpp"

namespace metafast {
namespace {

using returns::Problem;

// Below this many elements a call takes a few microseconds: less than handing the GIL to and fro can cost.
constexpr std::int64_t kElementsWorthReleasing = 1 << 13;
// Below this many, waking a second thread costs more than it saves.
constexpr std::int64_t kElementsWorthThreads = 100'000;

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

// The step of a truncation whose successor the bootstrapped form does not know without final_values, or -1. It knows
// the successor of the last step, which under a mask is the last whose mask is 1.
template <class T>
std::int64_t find_unknown_successor(const Problem<T>& problem) {
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
void require_final_values(const Problem<T>& problem) {
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
    if (as_number(value, number)) {
      result.value = static_cast<T>(number);
      return result;
    }
    const bool is_array = library_ == Library::torch ? dlpack::is_torch(value) : py::isinstance<py::array>(value);
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
        segments_ = plain_view(value, parameter.name, library_, keep_);
        break;
      case Role::last_row:
        last_values_ = floats(index);
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

  // Episodes end to end are one with ends inside: terminal ones, or, where values follow them, truncated ones.
  void join_segments() {
    if (leading_.ndim != 1)
      throw py::value_error("rewards has shape " + shape_text(leading_.shape.data(), leading_.ndim) +
                            "; expected one axis, the steps of all episodes end to end");
    if (segments_.kind != 'i' && segments_.kind != 'u')
      throw py::type_error("lengths has dtype " + dtype_text(segments_) + "; expected integers");
    if (segments_.ndim != 1)
      throw py::value_error("lengths has shape " + shape_text(segments_.shape.data(), segments_.ndim) +
                            "; expected one axis, the episodes");
    if (last_values_ && (last_values_.ndim != 1 || last_values_.shape[0] != segments_.shape[0]))
      throw py::value_error("last_values has shape " + shape_text(last_values_.shape.data(), last_values_.ndim) +
                            ", expected " + shape_text(segments_.shape.data(), 1) + ", the shape of lengths");
    const bool with_values = static_cast<bool>(problem_.inputs[returns::kValues]);
    if (with_values != static_cast<bool>(given_lam_))
      throw py::value_error(with_values ? "values is given without lam; GAE needs both"
                                        : "lam is given without values; GAE needs both");
    num_results_ = with_values ? 2 : 1;
    const auto lengths = py::module_::import("numpy")
                             .attr("ascontiguousarray")(numpy_view(segments_), py::dtype::of<std::int64_t>())
                             .template cast<py::array_t<std::int64_t>>();
    const std::int64_t steps = problem_.extents.time;
    segment_ends_.assign(static_cast<std::size_t>(steps), 0);
    std::vector<T>& final_values = segment_values_;
    if (last_values_) final_values.assign(static_cast<std::size_t>(steps), T(0));
    std::int64_t end = 0;
    for (py::ssize_t segment = 0; segment < lengths.size(); ++segment) {
      const std::int64_t length = lengths.data()[segment];
      if (length < 0)
        throw py::value_error("lengths[" + std::to_string(segment) + "] is " + std::to_string(length) +
                              "; lengths cannot be negative");
      if (length > steps - end) throw_wrong_sum(steps);
      end += length;
      if (length == 0) continue;
      segment_ends_[static_cast<std::size_t>(end - 1)] = 1;
      if (last_values_)
        std::memcpy(&final_values[static_cast<std::size_t>(end - 1)],
                    last_values_.data + segment * last_values_.strides[0], sizeof(T));
    }
    if (end != steps) throw_wrong_sum(steps);
    problem_.flags[last_values_ ? returns::kTruncated : returns::kTerminated] = {segment_ends_.data(), steps, 1};
    if (last_values_) problem_.inputs[returns::kFinalValues] = {final_values.data(), steps, 1};
    // Behind the last end there is nothing to bootstrap from, but the kernel wants a row to start with.
    static const T zero = 0;
    problem_.inputs[returns::kNextValues] = {&zero, 0, 0};
    problem_.bootstrapped = with_values;
  }

  [[noreturn]] void throw_wrong_sum(std::int64_t steps) const {
    throw py::value_error("lengths do not sum to " + std::to_string(steps) + ", the length of rewards");
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
    const bool stream = layout_.size() * bytes_per_element > last_level_cache_bytes();
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
  Array segments_, last_values_;
  std::vector<std::uint8_t> segment_ends_;
  std::vector<T> segment_values_;
  bool given_lam_ = false;
  std::int64_t n_ = 0;
  bool forwards_ = false;
};

// Torch tensors of which this call could not make views: the caller must convert them first.
bool must_be_converted(const Estimator& estimator, PyObject* const* arguments) {
  for (int i = 0; i < kMaxParameters && estimator.parameters[i].name != nullptr; ++i) {
    const py::handle value = arguments[i];
    if (!value || !dlpack::is_torch(value)) continue;
    dlpack::Tensor tensor;
    if (!dlpack::view(value, tensor)) return true;
    if (tensor.dtype.code != dlpack::kBool && (tensor.dtype.code > dlpack::kFloat || tensor.dtype.lanes != 1 ||
                                               (tensor.dtype.code == dlpack::kFloat && tensor.dtype.bits < 32)))
      return true;
  }
  return false;
}

py::object evaluate(const Estimator& estimator, PyObject* const* arguments) {
  int leading_index = -1, time_axis = 0;
  for (int i = 0; i < kMaxParameters && estimator.parameters[i].name != nullptr; ++i) {
    const Parameter& parameter = estimator.parameters[i];
    const bool leads = parameter.role == Role::input &&
                       (parameter.slot == returns::kRewards || parameter.slot == returns::kOffsets);
    if (leads) leading_index = i;
    if (parameter.role == Role::time_axis) time_axis = py::handle(arguments[i]).cast<int>();
  }
  const char* name = estimator.parameters[leading_index].name;
  const py::handle leading = arguments[leading_index];
  const Library library = dlpack::is_torch(leading) ? Library::torch : Library::numpy;
  if (library == Library::torch && must_be_converted(estimator, arguments))
    return py::reinterpret_borrow<py::object>(Py_NotImplemented);
  std::vector<py::object> keep;
  if (library == Library::numpy && !py::isinstance<py::array>(leading))
    throw_other_library(leading, name, "numpy.ndarray");
  const Array array = plain_view(leading, name, library, keep);
  if (array.itemsize == 2 && array.kind != 'i' && array.kind != 'u')  // half precision, of one kind or another
    return py::reinterpret_borrow<py::object>(Py_NotImplemented);
  if (array.kind == 'f' && array.itemsize == sizeof(float))
    return Call<float>(estimator, arguments, array, name, library, time_axis, keep).run();
  if (array.kind == 'f' && array.itemsize == sizeof(double))
    return Call<double>(estimator, arguments, array, name, library, time_axis, keep).run();
  throw py::type_error(std::string(name) + " has dtype " + dtype_text(array) + "; expected float32 or float64");
}

// The arguments of a call in the order of the table; null where not given.
void bind(const Estimator& estimator, PyObject* const* given_arguments, Py_ssize_t num_positional, PyObject* keywords,
          PyObject** arguments) {
  int count = 0;
  while (count < kMaxParameters && estimator.parameters[count].name != nullptr) ++count;
  if (num_positional > count)
    throw py::type_error(std::string(estimator.name) + " takes at most " + std::to_string(count) + " arguments, not " +
                         std::to_string(num_positional));
  std::copy_n(given_arguments, num_positional, arguments);
  const Py_ssize_t num_keywords = keywords != nullptr ? PyTuple_GET_SIZE(keywords) : 0;
  for (Py_ssize_t k = 0; k < num_keywords; ++k) {
    PyObject* keyword = PyTuple_GET_ITEM(keywords, k);
    int index = 0;
    while (index < count && PyUnicode_CompareWithASCIIString(keyword, estimator.parameters[index].name) != 0) ++index;
    if (index == count || arguments[index] != nullptr)
      throw py::type_error(std::string(estimator.name) + " got an unexpected or a repeated argument " +
                           text_of(keyword));
    arguments[index] = given_arguments[num_positional + k];
  }
  for (int i = 0; i < count; ++i)
    if (arguments[i] == nullptr && !estimator.parameters[i].optional)
      throw py::type_error(std::string(estimator.name) + " misses its argument " + estimator.parameters[i].name);
}

// CPython's own calling convention: pybind11's costs as much as a small call of ours takes in all.
template <const Estimator& estimator>
PyObject* call(PyObject*, PyObject* const* given_arguments, Py_ssize_t num_positional, PyObject* keywords) {
  try {
    PyObject* arguments[kMaxParameters] = {};
    bind(estimator, given_arguments, num_positional, keywords, arguments);
    return evaluate(estimator, arguments).release().ptr();
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const py::builtin_exception& error) {
    error.set_error();
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  }
  return nullptr;
}

template <const Estimator& estimator>
void define(py::module_& module) {
  static PyMethodDef definition = {estimator.name,
                                   reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&call<estimator>)),
                                   METH_FASTCALL | METH_KEYWORDS, nullptr};
  PyObject* function = PyCFunction_NewEx(&definition, nullptr, module.attr("__name__").ptr());
  if (function == nullptr) throw py::error_already_set();
  module.add_object(estimator.name, py::reinterpret_steal<py::object>(function));
}

}  // namespace

void register_returns(py::module_& module) {
  define<kGae>(module);
  define<kDiscountedReturns>(module);
  define<kLambdaReturns>(module);
  define<kNStepReturns>(module);
  define<kVtrace>(module);
  define<kRetrace>(module);
  define<kQLambda>(module);
  define<kUpgo>(module);
  define<kSegmentReturns>(module);
  define<kAffineScan>(module);
  module.def("use_torch", &dlpack::use_torch, py::arg("tensor_type"), py::arg("parameter_type"),
             py::arg("exchange_table"));
}

}  // namespace metafast
