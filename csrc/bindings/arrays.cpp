#include "bindings/arrays.hpp"

#include <algorithm>
#include <cstring>

namespace metafast {
namespace {

std::string type_name(py::handle value) {
  const auto type = py::type::handle_of(value);
  const auto module = py::str(type.attr("__module__")).cast<std::string>();
  const auto name = py::str(type.attr("__qualname__")).cast<std::string>();
  return module == "builtins" ? name : module + "." + name;
}

// Whether the byte ranges of two arrays meet.
bool ranges_meet(const py::array& a, const py::array& b) {
  const auto range = [](const py::array& array) {
    auto low = reinterpret_cast<std::uintptr_t>(array.data());
    auto high = low + static_cast<std::uintptr_t>(array.itemsize());
    for (int axis = 0; axis < array.ndim(); ++axis) {
      const py::ssize_t reach = array.strides(axis) * (array.shape(axis) - 1);
      (reach < 0 ? low : high) += static_cast<std::uintptr_t>(reach);
    }
    return std::make_pair(low, high);
  };
  if (a.size() == 0 || b.size() == 0) return false;
  const auto first = range(a), second = range(b);
  return first.first < second.second && second.first < first.second;
}

}  // namespace

std::string shape_text(const py::ssize_t* shape, int ndim) {
  std::string text = "(";
  for (int axis = 0; axis < ndim; ++axis) text += (axis ? ", " : "") + std::to_string(shape[axis]);
  return text + (ndim == 1 ? ",)" : ")");
}

std::string dtype_text(const py::array& array) { return py::str(array.dtype()).cast<std::string>(); }

py::array plain_array(py::handle value, const char* name) {
  if (!py::isinstance<py::array>(value))
    throw py::type_error(std::string(name) + " must be a numpy.ndarray like the other arrays of the call, not " +
                         type_name(value));
  auto array = py::reinterpret_borrow<py::array>(value);
  if (Py_TYPE(value.ptr()) != reinterpret_cast<PyTypeObject*>(py::detail::npy_api::get().PyArray_Type_) &&
      py::isinstance(array, py::module_::import("numpy.ma").attr("MaskedArray")))
    throw py::type_error(std::string(name) + " is a masked array; pass its data, and what is masked as a mask of its own");
  if (array.ndim() > kMaxDimensions)
    throw py::value_error(std::string(name) + " has " + std::to_string(array.ndim()) + " dimensions; at most " +
                          std::to_string(kMaxDimensions) + " are taken");
  const char order = array.dtype().byteorder();
  if (order != '=' && order != '|')
    throw py::type_error(std::string(name) + " has dtype " + dtype_text(array) +
                         ", whose byte order is not this machine's");
  if (!(array.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_))
    throw py::type_error(std::string(name) + " has elements that are not aligned in memory; pass a copy of it");
  return array;
}

py::array float_array(py::handle value, const char* name, const py::array& rewards) {
  auto array = plain_array(value, name);
  if (array.dtype().num() != rewards.dtype().num())
    throw py::type_error(std::string(name) + " has dtype " + dtype_text(array) + ", but rewards has " +
                         dtype_text(rewards) + "; the floats of one call share a dtype");
  return array;
}

py::array row_array(py::handle value, const char* name, const py::array& rewards) {
  // Indexing a one-dimensional array gives a NumPy number, which is as good as a row without axes.
  if (!py::isinstance<py::array>(value)) {
    const auto numpy = py::module_::import("numpy");
    if (py::isinstance(value, numpy.attr("generic"))) return float_array(numpy.attr("asarray")(value), name, rewards);
  }
  return float_array(value, name, rewards);
}

py::array flag_array(py::handle value, const char* name) {
  auto array = plain_array(value, name);
  const char kind = array.dtype().kind();
  if ((kind == 'b' || kind == 'i' || kind == 'u') && array.itemsize() == 1) return array;
  if (kind != 'i' && kind != 'u' && kind != 'f')
    throw py::type_error(std::string(name) + " has dtype " + dtype_text(array) + "; expected bool, or 0 and 1 as integers or floats");
  return array.attr("__ne__")(0).cast<py::array>();
}

SequenceLayout::SequenceLayout(const py::array& rewards, const char* name, int time_axis)
    : ndim_(static_cast<int>(rewards.ndim())), time_axis_(time_axis), name_(name) {
  if (time_axis != 0 && time_axis != 1)
    throw py::value_error("time_axis must be 0 or 1, not " + std::to_string(time_axis));
  if (ndim_ <= time_axis)
    throw py::value_error(std::string(name) + " has shape " + shape_text(rewards.shape(), ndim_) +
                          ", which has no axis " + std::to_string(time_axis) + " for time");
  std::copy_n(rewards.shape(), ndim_, shape_.begin());
  std::int64_t inner = 1;
  for (int axis = time_axis + 1; axis < ndim_; ++axis) inner *= shape_[axis];
  const std::int64_t outer = time_axis == 1 ? shape_[0] : 1;
  extents_ = {outer, shape_[time_axis], inner};
  // Time-major memory seen batch-major, and the reverse, are walked as they lie.
  Walk walk;
  const auto itemsize = rewards.itemsize();
  const Strides strides = full_strides(rewards);
  const auto repeats = [&](int axis) { return strides[axis] == 0 && shape_[axis] > 1; };
  bool broadcast = false;
  for (int axis = 0; axis < ndim_; ++axis) broadcast = broadcast || repeats(axis);
  // What was broadcast says nothing of how the other arrays lie.
  if (!walk_of(strides, itemsize, walk) && (outer == 1 || inner == 1) && !broadcast) {
    swapped_ = true;
    extents_ = {inner, extents_.time, outer};
    if (!walk_of(strides, itemsize, walk)) {
      swapped_ = false;
      extents_ = {outer, extents_.time, inner};
    }
  }
}

void SequenceLayout::check_shape(const py::array& array, const char* name) const {
  const int ndim = static_cast<int>(array.ndim());
  if (ndim == ndim_ && std::equal(array.shape(), array.shape() + ndim, shape_.begin())) return;
  throw py::value_error(std::string(name) + " has shape " + shape_text(array.shape(), ndim) + ", expected " +
                        shape_text(shape_.data(), ndim_) + ", the shape of " + name_);
}

void SequenceLayout::check_row_shape(const py::array& array, const char* name) const {
  Strides row = shape_;
  std::copy(shape_.begin() + time_axis_ + 1, shape_.end(), row.begin() + time_axis_);
  const int ndim = static_cast<int>(array.ndim());
  if (ndim == ndim_ - 1 && std::equal(array.shape(), array.shape() + ndim, row.begin())) return;
  throw py::value_error(std::string(name) + " has shape " + shape_text(array.shape(), ndim) + ", expected " +
                        shape_text(row.data(), ndim_ - 1) + ", the shape of " + name_ + " without its time axis " +
                        std::to_string(time_axis_));
}

SequenceLayout::Strides SequenceLayout::full_strides(const py::array& array) const {
  Strides strides{};
  std::copy_n(array.strides(), ndim_, strides.begin());
  return strides;
}

SequenceLayout::Strides SequenceLayout::row_strides(const py::array& array) const {
  Strides strides{};
  std::copy_n(array.strides(), time_axis_, strides.begin());
  std::copy_n(array.strides() + time_axis_, ndim_ - 1 - time_axis_, strides.begin() + time_axis_ + 1);
  return strides;
}

SequenceLayout::Strides SequenceLayout::broadcast_strides(const py::array& array, const char* name) const {
  const int ndim = static_cast<int>(array.ndim());
  const int missing = ndim_ - ndim;
  bool fits = missing >= 0;
  Strides strides{};
  for (int axis = 0; fits && axis < ndim; ++axis) {
    if (array.shape(axis) == 1) continue;
    fits = array.shape(axis) == shape_[axis + missing];
    strides[axis + missing] = array.strides(axis);
  }
  if (!fits)
    throw py::value_error(std::string(name) + " has shape " + shape_text(array.shape(), ndim) +
                          ", which does not broadcast to " + shape_text(shape_.data(), ndim_) + ", the shape of " + name_);
  return strides;
}

// Strides in bytes of an array that lies in memory as [outer, time, inner].
SequenceLayout::Strides SequenceLayout::memory_order(py::ssize_t itemsize) const {
  Strides strides{};
  py::ssize_t stride = itemsize;
  const auto lay = [&](int begin, int end) {
    for (int axis = end; axis-- > begin;) {
      strides[axis] = stride;
      stride *= shape_[axis];
    }
  };
  swapped_ ? lay(0, time_axis_) : lay(time_axis_ + 1, ndim_);
  lay(time_axis_, time_axis_ + 1);
  swapped_ ? lay(time_axis_ + 1, ndim_) : lay(0, time_axis_);
  return strides;
}

// The one stride that walks axes [begin, end) as if they were one, where there is such a stride.
bool SequenceLayout::group(const Strides& strides, int begin, int end, py::ssize_t& stride) const {
  stride = 0;
  py::ssize_t next = 0;
  bool first = true;
  for (int axis = end - 1; axis >= begin; --axis) {
    if (shape_[axis] == 1) continue;
    if (first) {
      stride = strides[axis];
      first = false;
    } else if (strides[axis] != next) {
      return false;
    }
    next = strides[axis] * shape_[axis];
  }
  return true;
}

// The strides of the problem's outer, time and inner axis, where the array's axes can be walked as those three.
bool SequenceLayout::groups_of(const Strides& strides, py::ssize_t itemsize, Walk& walk) const {
  walk = {0, strides[time_axis_], 0, itemsize};
  py::ssize_t before = 0, after = 0;
  if (!group(strides, 0, time_axis_, before) || !group(strides, time_axis_ + 1, ndim_, after)) return false;
  walk.outer = swapped_ ? after : before;
  walk.inner = swapped_ ? before : after;
  return walk.outer % itemsize == 0 && walk.time % itemsize == 0;
}

bool SequenceLayout::walk_of(const Strides& strides, py::ssize_t itemsize, Walk& walk) const {
  if (!groups_of(strides, itemsize, walk)) return false;
  // Neighbours must be neighbours in memory: columns, or times where there is one column.
  if (extents_.inner > 1) return walk.inner == itemsize;
  return extents_.time <= 1 || walk.time == itemsize;
}

SequenceLayout::Bytes SequenceLayout::view_bytes(py::array& array, const Strides& strides) const {
  Bytes bytes{static_cast<const char*>(array.data()), {}};
  if (size() == 0 || walk_of(strides, array.itemsize(), bytes.walk)) return bytes;
  py::array copy = empty(array.dtype());
  copy[py::ellipsis()] = py::array(array.dtype(), py::array::ShapeContainer(shape_.begin(), shape_.begin() + ndim_),
                                   py::array::StridesContainer(strides.begin(), strides.begin() + ndim_), bytes.data, array);
  array = copy;
  walk_of(memory_order(array.itemsize()), array.itemsize(), bytes.walk);
  bytes.data = static_cast<const char*>(array.data());
  return bytes;
}

SequenceLayout::Bytes SequenceLayout::row_bytes(py::array& array) const {
  Walk walk;
  if (!groups_of(row_strides(array), array.itemsize(), walk) || (extents_.inner > 1 && walk.inner != array.itemsize())) {
    array = py::module_::import("numpy").attr("ascontiguousarray")(array).cast<py::array>();
    groups_of(row_strides(array), array.itemsize(), walk);
  }
  return {static_cast<const char*>(array.data()), walk};
}

py::array SequenceLayout::empty(const py::dtype& dtype) const {
  const Strides strides = memory_order(dtype.itemsize());
  return py::array(dtype, py::array::ShapeContainer(shape_.begin(), shape_.begin() + ndim_),
                   py::array::StridesContainer(strides.begin(), strides.begin() + ndim_));
}

py::array output_array(py::handle value, const char* name, const py::array& rewards, const SequenceLayout& layout) {
  auto array = float_array(value, name, rewards);
  layout.check_shape(array, name);
  if (!array.writeable()) throw py::value_error(std::string(name) + " is not writable");
  return array;
}

void check_no_overlap(const py::array& output, const char* name, const py::array& other, const char* other_name) {
  if (!other || !ranges_meet(output, other)) return;
  if (py::module_::import("numpy").attr("shares_memory")(output, other).cast<bool>())
    throw py::value_error(std::string(name) + " shares memory with " + other_name + "; results need memory of their own");
}

}  // namespace metafast
