#include "bindings/arrays.hpp"

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

// dst[...] = src over `shape`, element by element in bytes.
void copy_strided(char* to, const std::vector<py::ssize_t>& to_strides, const char* from,
                  const std::vector<py::ssize_t>& from_strides, const std::vector<py::ssize_t>& shape, std::size_t axis,
                  std::size_t itemsize) {
  if (axis == shape.size()) {
    std::memcpy(to, from, itemsize);
    return;
  }
  for (py::ssize_t i = 0; i < shape[axis]; ++i)
    copy_strided(to + i * to_strides[axis], to_strides, from + i * from_strides[axis], from_strides, shape, axis + 1,
                 itemsize);
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
    throw py::type_error(std::string(name) + " is a masked array; pass its data and say what is masked by `mask`");
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

py::array flag_array(py::handle value, const char* name) {
  auto array = plain_array(value, name);
  const char kind = array.dtype().kind();
  if (kind == 'b') return array;
  if (kind != 'i' && kind != 'u' && kind != 'f')
    throw py::type_error(std::string(name) + " has dtype " + dtype_text(array) + "; expected bool, or 0 and 1 as integers or floats");
  return array.attr("__ne__")(0).cast<py::array>();
}

SequenceLayout::SequenceLayout(const py::array& rewards, const char* name, int time_axis)
    : shape_(rewards.shape(), rewards.shape() + rewards.ndim()), time_axis_(time_axis), name_(name) {
  if (time_axis != 0 && time_axis != 1)
    throw py::value_error("time_axis must be 0 or 1, not " + std::to_string(time_axis));
  if (rewards.ndim() <= time_axis)
    throw py::value_error(std::string(name) + " has shape " + shape_text(rewards.shape(), static_cast<int>(rewards.ndim())) +
                          ", which has no axis " + std::to_string(time_axis) + " for time");
  std::int64_t inner = 1;
  for (std::size_t axis = static_cast<std::size_t>(time_axis) + 1; axis < shape_.size(); ++axis) inner *= shape_[axis];
  const std::int64_t outer = time_axis == 1 ? shape_[0] : 1;
  extents_ = {outer, shape_[static_cast<std::size_t>(time_axis)], inner};
  // Time-major memory seen batch-major, and the reverse, are walked as they lie.
  Walk walk;
  const auto itemsize = rewards.itemsize();
  if (!walk_of(full_strides(rewards), itemsize, walk) && (outer == 1 || inner == 1)) {
    swapped_ = true;
    extents_ = {inner, extents_.time, outer};
    if (!walk_of(full_strides(rewards), itemsize, walk)) {
      swapped_ = false;
      extents_ = {outer, extents_.time, inner};
    }
  }
}

void SequenceLayout::check_shape(const py::array& array, const char* name) const {
  const auto ndim = static_cast<std::size_t>(array.ndim());
  if (ndim == shape_.size() && std::equal(shape_.begin(), shape_.end(), array.shape())) return;
  throw py::value_error(std::string(name) + " has shape " + shape_text(array.shape(), static_cast<int>(ndim)) +
                        ", expected " + shape_text(shape_.data(), static_cast<int>(shape_.size())) + ", the shape of " +
                        name_);
}

bool SequenceLayout::has_row_shape(const py::array& array) const {
  if (static_cast<std::size_t>(array.ndim()) + 1 != shape_.size()) return false;
  for (int axis = 0; axis < array.ndim(); ++axis)
    if (array.shape(axis) != shape_[static_cast<std::size_t>(axis + (axis >= time_axis_))]) return false;
  return true;
}

void SequenceLayout::check_row_shape(const py::array& array, const char* name) const {
  if (has_row_shape(array)) return;
  auto row = shape_;
  row.erase(row.begin() + time_axis_);
  throw py::value_error(std::string(name) + " has shape " + shape_text(array.shape(), static_cast<int>(array.ndim())) +
                        ", expected " + shape_text(row.data(), static_cast<int>(row.size())) + ", the shape of " + name_ +
                        " without its time axis " + std::to_string(time_axis_));
}

SequenceLayout::Strides SequenceLayout::full_strides(const py::array& array) const {
  return Strides(array.strides(), array.strides() + array.ndim());
}

SequenceLayout::Strides SequenceLayout::row_strides(const py::array& array) const {
  Strides strides = full_strides(array);
  strides.insert(strides.begin() + time_axis_, 0);
  return strides;
}

SequenceLayout::Strides SequenceLayout::broadcast_strides(const py::array& array, const char* name) const {
  const auto missing = static_cast<py::ssize_t>(shape_.size()) - array.ndim();
  bool fits = missing >= 0;
  Strides strides(shape_.size(), 0);
  for (py::ssize_t axis = 0; fits && axis < array.ndim(); ++axis) {
    if (array.shape(axis) == 1) continue;
    fits = array.shape(axis) == shape_[static_cast<std::size_t>(axis + missing)];
    strides[static_cast<std::size_t>(axis + missing)] = array.strides(axis);
  }
  if (!fits)
    throw py::value_error(std::string(name) + " has shape " + shape_text(array.shape(), static_cast<int>(array.ndim())) +
                          ", which does not broadcast to " +
                          shape_text(shape_.data(), static_cast<int>(shape_.size())) + ", the shape of " + name_);
  return strides;
}

// Strides in bytes of an array that lies in memory as [outer, time, inner].
SequenceLayout::Strides SequenceLayout::memory_order(py::ssize_t itemsize) const {
  const auto time = static_cast<std::size_t>(time_axis_);
  Strides strides(shape_.size());
  py::ssize_t stride = itemsize;
  const auto lay = [&](std::size_t begin, std::size_t end) {
    for (std::size_t axis = end; axis-- > begin;) {
      strides[axis] = stride;
      stride *= shape_[axis];
    }
  };
  swapped_ ? lay(0, time) : lay(time + 1, shape_.size());
  lay(time, time + 1);
  swapped_ ? lay(time + 1, shape_.size()) : lay(0, time);
  return strides;
}

// The one stride that walks axes [begin, end) as if they were one, where there is such a stride.
bool SequenceLayout::group(const Strides& strides, int begin, int end, py::ssize_t& stride) const {
  stride = 0;
  py::ssize_t next = 0;
  bool first = true;
  for (int axis = end - 1; axis >= begin; --axis) {
    const auto index = static_cast<std::size_t>(axis);
    if (shape_[index] == 1) continue;
    if (first) {
      stride = strides[index];
      first = false;
    } else if (strides[index] != next) {
      return false;
    }
    next = strides[index] * shape_[index];
  }
  return true;
}

bool SequenceLayout::walk_of(const Strides& strides, py::ssize_t itemsize, Walk& walk) const {
  const int ndim = static_cast<int>(shape_.size());
  walk.itemsize = itemsize;
  walk.time = strides[static_cast<std::size_t>(time_axis_)];
  py::ssize_t before = 0, after = 0;
  walk.outer = walk.inner = 0;
  if (!group(strides, 0, time_axis_, before) || !group(strides, time_axis_ + 1, ndim, after)) return false;
  walk.outer = swapped_ ? after : before;
  walk.inner = swapped_ ? before : after;
  if (walk.outer % itemsize || walk.time % itemsize) return false;
  // Neighbours must be neighbours in memory: columns, or times where there is one column.
  if (extents_.inner > 1) return walk.inner == itemsize;
  return extents_.time <= 1 || walk.time == itemsize;
}

SequenceLayout::Bytes SequenceLayout::view_bytes(py::array& array, const Strides& strides) const {
  Bytes bytes{static_cast<const char*>(array.data()), {}};
  if (size() == 0 || walk_of(strides, array.itemsize(), bytes.walk)) return bytes;
  py::array copy = empty(array.dtype());
  const Strides to = memory_order(array.itemsize());
  copy_strided(static_cast<char*>(copy.mutable_data()), to, bytes.data, strides, shape_, 0,
               static_cast<std::size_t>(array.itemsize()));
  array = copy;
  walk_of(to, array.itemsize(), bytes.walk);
  bytes.data = static_cast<const char*>(array.data());
  return bytes;
}

SequenceLayout::Bytes SequenceLayout::row_bytes(py::array& array) const {
  Walk walk;
  walk_of(row_strides(array), array.itemsize(), walk);
  if (extents_.inner > 1 && walk.inner != array.itemsize()) {
    array = py::module_::import("numpy").attr("ascontiguousarray")(array).cast<py::array>();
    walk_of(row_strides(array), array.itemsize(), walk);
  }
  return {static_cast<const char*>(array.data()), walk};
}

py::array SequenceLayout::empty(const py::dtype& dtype) const {
  return py::array(dtype, shape_, memory_order(dtype.itemsize()));
}

py::array output_array(py::handle value, const char* name, const py::array& rewards, const SequenceLayout& layout,
                       const std::vector<std::pair<const char*, py::array>>& inputs) {
  auto array = float_array(value, name, rewards);
  layout.check_shape(array, name);
  if (!array.writeable()) throw py::value_error(std::string(name) + " is not writable");
  for (const auto& [other_name, other] : inputs) {
    if (other && ranges_meet(array, other) &&
        py::module_::import("numpy").attr("shares_memory")(array, other).cast<bool>())
      throw py::value_error(std::string(name) + " shares memory with " + other_name + "; results need memory of their own");
  }
  return array;
}

}  // namespace metafast
