// NumPy arrays as checked views: every error about an argument is raised here, in the argument's own name, before any
// memory is touched.
#pragma once

#include <pybind11/numpy.h>

#include <array>
#include <cstdint>
#include <string>

#include "bindings/register.hpp"
#include "common/view.hpp"

namespace metafast {

constexpr int kMaxDimensions = 8;

// A null handle; the default constructor of py::array makes a NumPy array.
inline py::array no_array() { return py::reinterpret_steal<py::array>(py::handle()); }

std::string shape_text(const py::ssize_t* shape, int ndim);
std::string dtype_text(const py::array& array);

// A NumPy array with aligned elements in this machine's byte order, neither masked nor of another library: else a
// TypeError that names the argument.
py::array plain_array(py::handle value, const char* name);

// The same, with the dtype that `rewards` has: else a TypeError that names both.
py::array float_array(py::handle value, const char* name, const py::array& rewards);

// The same for values of one row (rewards without the time axis), where a NumPy number is taken too.
py::array row_array(py::handle value, const char* name, const py::array& rewards);

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

// The place of a sequence problem's axes, taken from its first argument ("rewards"): which axis is time, and in which
// order the memory is walked. The other arguments are viewed in the same order, through a copy where they are not.
class SequenceLayout {
 public:
  SequenceLayout(const py::array& rewards, const char* name, int time_axis);

  const SequenceExtents& extents() const { return extents_; }
  std::int64_t size() const { return extents_.outer * extents_.time * extents_.inner; }

  // Raises ValueError unless `array` has the shape of the first argument (without its time axis for `check_row`).
  void check_shape(const py::array& array, const char* name) const;
  void check_row_shape(const py::array& array, const char* name) const;

  // Views; an array that does not fit the memory order is replaced by a copy of it that does.
  template <class T>
  SequenceView<const T> view(py::array& array) const {
    return typed<const T>(view_bytes(array, full_strides(array)), sizeof(T));
  }
  template <class T>
  SequenceView<const T> row_view(py::array& array) const {
    return typed<const T>(row_bytes(array), sizeof(T));
  }
  // `array` broadcasts to the shape of the first argument, by NumPy's rules, or it is a ValueError.
  template <class T>
  SequenceView<const T> broadcast_view(py::array& array, const char* name) const {
    return typed<const T>(view_bytes(array, broadcast_strides(array, name)), sizeof(T));
  }
  // A view to write to, or a null view where the array does not fit the memory order.
  template <class T>
  SequenceView<T> writable_view(py::array& array) const {
    Walk walk;
    if (!walk_of(full_strides(array), array.itemsize(), walk)) return {};
    return {static_cast<T*>(array.mutable_data()), walk.outer / walk.itemsize, walk.time / walk.itemsize};
  }

  // A new array of the first argument's shape, laid out in the memory order of this problem.
  py::array empty(const py::dtype& dtype) const;

 private:
  using Strides = std::array<py::ssize_t, kMaxDimensions>;  // in bytes, one for each axis of the first argument
  struct Walk {
    py::ssize_t outer, time, inner, itemsize;  // strides in bytes
  };
  struct Bytes {
    const char* data;
    Walk walk;
  };

  Strides full_strides(const py::array& array) const;
  Strides row_strides(const py::array& array) const;
  Strides broadcast_strides(const py::array& array, const char* name) const;
  Strides memory_order(py::ssize_t itemsize) const;
  bool group(const Strides& strides, int begin, int end, py::ssize_t& stride) const;
  bool groups_of(const Strides& strides, py::ssize_t itemsize, Walk& walk) const;
  bool walk_of(const Strides& strides, py::ssize_t itemsize, Walk& walk) const;
  Bytes view_bytes(py::array& array, const Strides& strides) const;
  Bytes row_bytes(py::array& array) const;

  template <class T>
  static SequenceView<T> typed(const Bytes& bytes, std::size_t itemsize) {
    const auto size = static_cast<py::ssize_t>(itemsize);
    return {reinterpret_cast<T*>(bytes.data), bytes.walk.outer / size, bytes.walk.time / size};
  }

  Strides shape_{};
  int ndim_;
  int time_axis_;
  bool swapped_ = false;  // the roles of the axes before time and of those after it are exchanged
  const char* name_;
  SequenceExtents extents_;
};

// An array to write to: plain, writable, of the right dtype and shape.
py::array output_array(py::handle value, const char* name, const py::array& rewards, const SequenceLayout& layout);

// Raises ValueError where `output` shares memory with `other`, which may be null.
void check_no_overlap(const py::array& output, const char* name, const py::array& other, const char* other_name);

}  // namespace metafast
