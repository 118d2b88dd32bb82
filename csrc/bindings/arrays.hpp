// NumPy arrays as checked views: every error about an argument is raised here, in the argument's own name, before any
// memory is touched.
#pragma once

#include <pybind11/numpy.h>

#include <cstdint>
#include <string>

#include "bindings/register.hpp"

namespace metafast {

constexpr int kMaxDimensions = 8;

// A null handle; the default constructor of py::array makes a NumPy array.
inline py::array no_array() { return py::reinterpret_steal<py::array>(py::handle()); }

std::string shape_text(const py::ssize_t* shape, int ndim);
std::string dtype_text(const py::array& array);

// What makes an array unfit, each as an error that names the argument.
[[noreturn]] void throw_other_library(py::handle value, const char* name, const char* expected);
void check_not_masked(py::handle array, const char* name);
void check_num_dimensions(py::ssize_t ndim, const char* name);
void check_elements(const py::array& array, const char* name);

// A NumPy array with aligned elements in this machine's byte order, neither masked nor of another library: else a
// TypeError that names the argument.
py::array plain_array(py::handle value, const char* name);

// The same for a flag of bool, integers or floats, as an array of one byte per element (converted where it is not).
py::array flag_array(py::handle value, const char* name);

inline bool given(py::handle value) { return value && !value.is_none(); }

// Calls function(T()) with the floating type of an array, or raises a TypeError.
template <class Function>
auto with_float_type(const py::array& array, const char* name, Function&& function) {
  switch (array.dtype().num()) {
    case py::detail::npy_api::NPY_FLOAT_:
      return function(float());
    case py::detail::npy_api::NPY_DOUBLE_:
      return function(double());
    default:
      throw py::type_error(std::string(name) + " has dtype " + dtype_text(array) + "; expected float32 or float64");
  }
}

}  // namespace metafast
