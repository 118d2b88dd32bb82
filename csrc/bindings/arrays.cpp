#include "bindings/arrays.hpp"

namespace metafast {
namespace {

std::string type_name(py::handle value) {
  const auto type = py::type::handle_of(value);
  const auto module = py::str(type.attr("__module__")).cast<std::string>();
  const auto name = py::str(type.attr("__qualname__")).cast<std::string>();
  return module == "builtins" ? name : module + "." + name;
}

}  // namespace

std::string shape_text(const py::ssize_t* shape, int ndim) {
  std::string text = "(";
  for (int axis = 0; axis < ndim; ++axis) text += (axis ? ", " : "") + std::to_string(shape[axis]);
  return text + (ndim == 1 ? ",)" : ")");
}

std::string dtype_text(const py::array& array) { return py::str(array.dtype()).cast<std::string>(); }

void throw_other_library(py::handle value, const char* name, const char* expected) {
  throw py::type_error(std::string(name) + " must be a " + expected + " like the other arrays of the call, not " +
                       type_name(value));
}

void check_not_masked(py::handle array, const char* name) {
  if (py::isinstance(array, py::module_::import("numpy.ma").attr("MaskedArray")))
    throw py::type_error(std::string(name) + " is a masked array; pass its data, and what is masked as a mask of its own");
}

void check_num_dimensions(py::ssize_t ndim, const char* name) {
  if (ndim > kMaxDimensions)
    throw py::value_error(std::string(name) + " has " + std::to_string(ndim) + " dimensions; at most " +
                          std::to_string(kMaxDimensions) + " are taken");
}

void check_elements(const py::array& array, const char* name) {
  const char order = py::detail::array_descriptor_proxy(py::detail::array_proxy(array.ptr())->descr)->byteorder;
  if (order != '=' && order != '|')
    throw py::type_error(std::string(name) + " has dtype " + dtype_text(array) +
                         ", whose byte order is not this machine's");
  if (!(array.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_))
    throw py::type_error(std::string(name) + " has elements that are not aligned in memory; pass a copy of it");
}

py::array plain_array(py::handle value, const char* name) {
  if (!py::isinstance<py::array>(value)) throw_other_library(value, name, "numpy.ndarray");
  auto array = py::reinterpret_borrow<py::array>(value);
  if (Py_TYPE(value.ptr()) != reinterpret_cast<PyTypeObject*>(py::detail::npy_api::get().PyArray_Type_))
    check_not_masked(value, name);
  check_num_dimensions(array.ndim(), name);
  check_elements(array, name);
  return array;
}

py::array flag_array(py::handle value, const char* name) {
  auto array = plain_array(value, name);
  const char kind = array.dtype().kind();
  if ((kind == 'b' || kind == 'i' || kind == 'u') && array.itemsize() == 1) return array;
  if (kind != 'i' && kind != 'u' && kind != 'f')
    throw py::type_error(std::string(name) + " has dtype " + dtype_text(array) + "; expected bool, or 0 and 1 as integers or floats");
  return array.attr("__ne__")(0).cast<py::array>();
}

}  // namespace metafast
