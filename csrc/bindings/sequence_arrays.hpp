// The arrays of a sequence problem, NumPy's or torch's, as checked views: every error about an argument is raised here,
// in the argument's own name, before any memory is touched.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "bindings/arrays.hpp"
#include "common/view.hpp"

namespace metafast {

using Axes = std::array<py::ssize_t, kMaxDimensions>;

// An array of the CPU's memory, of either library.
struct Array {
  py::handle object;  // null: not given
  char* data = nullptr;
  int ndim = 0;
  char kind = 0;  // NumPy's: b, i, u, f or another
  py::ssize_t itemsize = 0;
  bool writable = false;
  std::uintptr_t low = 0, high = 0;  // the bytes it reaches
  Axes shape;                        // as long as ndim says
  Axes strides;                      // in bytes

  explicit operator bool() const { return static_cast<bool>(object); }
  bool has_dtype_of(const Array& other) const { return kind == other.kind && itemsize == other.itemsize; }
};

// Which library's arrays a call takes: that of its first array. Of torch's those that autograd follows are taken as
// they are only where the results are constants.
enum class Library { numpy, torch, torch_for_constants };

// Thrown for a torch tensor that cannot be taken as it is: the caller must see to it.
struct NeedsConversion {};

// Throws that for a tensor which is more than its memory says.
void check_ordinary(py::handle value, Library library);

// An array with aligned elements in this machine's byte order, neither masked nor of another library: else a TypeError
// that names the argument. Objects made on the way are put into `keep`.
Array plain_view(py::handle value, const char* name, Library library, std::vector<py::object>& keep);

std::string dtype_text(const Array& array);

// The same memory as NumPy sees it.
py::array numpy_view(const Array& array);

// The place of a sequence problem's axes, taken from its leading argument ("rewards"): which axis is time, and in which
// order the memory is walked. The other arguments are viewed in the same order, through a copy where they are not.
class SequenceLayout {
 public:
  SequenceLayout(const Array& leading, const char* name, int time_axis, std::vector<py::object>& keep);

  const SequenceExtents& extents() const { return extents_; }
  std::int64_t size() const { return extents_.outer * extents_.time * extents_.inner; }

  // Raises ValueError unless `array` has the shape of the leading argument (without its time axis for `check_row`).
  void check_shape(const Array& array, const char* name) const;
  void check_row_shape(const Array& array, const char* name) const;

  // Views; an array that does not fit the memory order is replaced by a copy of it that does.
  template <class T>
  SequenceView<const T> view(const Array& array) const {
    return typed<const T>(view_bytes(array, array.strides), sizeof(T));
  }
  template <class T>
  SequenceView<const T> row_view(const Array& array) const {
    return typed<const T>(row_bytes(array), sizeof(T));
  }
  // `array` broadcasts to the shape of the leading argument, by NumPy's rules, or it is a ValueError.
  template <class T>
  SequenceView<const T> broadcast_view(const Array& array, const char* name) const {
    return typed<const T>(view_bytes(array, broadcast_strides(array, name)), sizeof(T));
  }
  // A view to write to, or a null view where the array does not fit the memory order.
  template <class T>
  SequenceView<T> writable_view(const Array& array) const {
    Walk walk;
    if (!walk_of(array.strides, array.itemsize, walk)) return {};
    return {reinterpret_cast<T*>(array.data), walk.outer / walk.itemsize, walk.time / walk.itemsize};
  }

  // A new array of the leading argument's shape, laid out in the memory order of this problem.
  py::array empty(const py::dtype& dtype) const;
  py::object empty(const Array& like, Library library, Array& made) const;

 private:
  struct Walk {
    py::ssize_t outer, time, inner, itemsize;  // strides in bytes
  };
  struct Bytes {
    const char* data;
    Walk walk;
  };

  Axes row_strides(const Array& array) const;
  Axes broadcast_strides(const Array& array, const char* name) const;
  Axes memory_order(py::ssize_t itemsize) const;
  bool group(const Axes& strides, int begin, int end, py::ssize_t& stride) const;
  bool groups_of(const Axes& strides, py::ssize_t itemsize, Walk& walk) const;
  bool walk_of(const Axes& strides, py::ssize_t itemsize, Walk& walk) const;
  Bytes view_bytes(const Array& array, const Axes& strides) const;
  Bytes row_bytes(const Array& array) const;

  template <class T>
  static SequenceView<T> typed(const Bytes& bytes, std::size_t itemsize) {
    const auto size = static_cast<py::ssize_t>(itemsize);
    return {reinterpret_cast<T*>(bytes.data), bytes.walk.outer / size, bytes.walk.time / size};
  }

  Axes shape_{};
  int ndim_;
  int time_axis_;
  bool swapped_ = false;  // the roles of the axes before time and of those after it are exchanged
  const char* name_;
  SequenceExtents extents_;
  std::vector<py::object>& keep_;
};

// Raises ValueError where `output` shares memory with `other`, which may be absent.
void check_no_overlap(const Array& output, const char* name, const Array& other, const char* other_name);

}  // namespace metafast
