// The return estimators as functions of the module, in CPython's own calling convention.
#include <algorithm>
#include <string>
#include <vector>

#include "bindings/estimator_call.hpp"

namespace metafast {
namespace {

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
  const Library library = !dlpack::is_torch(leading) ? Library::numpy
                          : estimator.constant       ? Library::torch_for_constants
                                                     : Library::torch;
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
  } catch (const NeedsConversion&) {
    Py_RETURN_NOTIMPLEMENTED;
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
