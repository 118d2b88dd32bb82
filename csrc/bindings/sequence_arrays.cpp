#include "bindings/sequence_arrays.hpp"

#include <algorithm>

#include "bindings/dlpack.hpp"

namespace metafast {
namespace {

// Finds the bytes between the first and the last that an array reaches.
void find_reach(Array& array) {
  array.low = array.high = reinterpret_cast<std::uintptr_t>(array.data);
  for (int axis = 0; axis < array.ndim; ++axis) {
    if (array.shape[axis] == 0) {
      array.high = array.low;
      return;
    }
    const py::ssize_t reach = array.strides[axis] * (array.shape[axis] - 1);
    (reach < 0 ? array.low : array.high) += static_cast<std::uintptr_t>(reach);
  }
  array.high += static_cast<std::uintptr_t>(array.itemsize);
}

Array numpy_array(py::handle value, const char* name) {
  const auto* proxy = py::detail::array_proxy(value.ptr());
  if (Py_TYPE(value.ptr()) != reinterpret_cast<PyTypeObject*>(py::detail::npy_api::get().PyArray_Type_))
    check_not_masked(value, name);
  check_num_dimensions(proxy->nd, name);
  const auto* descriptor = py::detail::array_descriptor_proxy(proxy->descr);
  Array array;
  array.object = value;
  array.data = proxy->data;
  array.ndim = proxy->nd;
  array.kind = descriptor->kind;
  array.itemsize = py::reinterpret_borrow<py::dtype>(proxy->descr).itemsize();
  array.writable = (proxy->flags & py::detail::npy_api::NPY_ARRAY_WRITEABLE_) != 0;
  std::copy_n(proxy->dimensions, proxy->nd, array.shape.begin());
  std::copy_n(proxy->strides, proxy->nd, array.strides.begin());
  check_elements(py::reinterpret_borrow<py::array>(value), name);
  find_reach(array);
  return array;
}

Array torch_array(py::handle value, const char* name, Library library) {
  dlpack::Tensor tensor;
  if (!dlpack::view(value, tensor)) throw NeedsConversion();
  if (tensor.dtype.code == dlpack::kFloat) {
    if (tensor.dtype.bits < 32) throw NeedsConversion();
    check_ordinary(value, library);
  } else if (tensor.dtype.code != dlpack::kBool && tensor.dtype.code > dlpack::kFloat) {
    throw NeedsConversion();
  }
  check_num_dimensions(tensor.ndim, name);
  Array array;
  array.object = value;
  array.data = static_cast<char*>(tensor.data) + tensor.byte_offset;
  array.ndim = tensor.ndim;
  array.kind = tensor.dtype.code == dlpack::kFloat      ? 'f'
               : tensor.dtype.code == dlpack::kInt      ? 'i'
               : tensor.dtype.code == dlpack::kUnsigned ? 'u'
               : tensor.dtype.code == dlpack::kBool     ? 'b'
                                                        : 'V';
  array.itemsize = tensor.dtype.bits / 8;
  array.writable = true;
  py::ssize_t stride = array.itemsize;
  for (int axis = tensor.ndim; axis-- > 0;) {
    array.shape[axis] = static_cast<py::ssize_t>(tensor.shape[axis]);
    array.strides[axis] = tensor.strides ? static_cast<py::ssize_t>(tensor.strides[axis]) * array.itemsize : stride;
    stride *= array.shape[axis];
  }
  find_reach(array);
  return array;
}

}  // namespace

void check_ordinary(py::handle value, Library library) {
  if (library != Library::numpy && dlpack::is_special(value, library == Library::torch)) throw NeedsConversion();
}

Array plain_view(py::handle value, const char* name, Library library, std::vector<py::object>& keep) {
  if (library != Library::numpy) {
    if (dlpack::is_torch(value)) return torch_array(value, name, library);
    check_ordinary(value, library);
    throw_other_library(value, name, "torch.Tensor");
  }
  if (!py::isinstance<py::array>(value)) {
    // Indexing a one-dimensional array gives a NumPy number, which is as good as an array without axes.
    const auto numpy = py::module_::import("numpy");
    if (!py::isinstance(value, numpy.attr("generic"))) throw_other_library(value, name, "numpy.ndarray");
    keep.push_back(numpy.attr("asarray")(value));
    return numpy_array(keep.back(), name);
  }
  return numpy_array(value, name);
}

std::string dtype_text(const Array& array) { return py::str(array.object.attr("dtype")).cast<std::string>(); }

py::array numpy_view(const Array& array) {
  const auto type = std::string(1, array.kind == 'b' ? 'u' : array.kind) + std::to_string(array.itemsize);
  return py::array(py::dtype(type), py::array::ShapeContainer(array.shape.begin(), array.shape.begin() + array.ndim),
                   py::array::StridesContainer(array.strides.begin(), array.strides.begin() + array.ndim), array.data,
                   py::none());
}

SequenceLayout::SequenceLayout(const Array& leading, const char* name, int time_axis, std::vector<py::object>& keep)
    : ndim_(leading.ndim), time_axis_(time_axis), name_(name), keep_(keep) {
  if (time_axis != 0 && time_axis != 1)
    throw py::value_error("time_axis must be 0 or 1, not " + std::to_string(time_axis));
  if (ndim_ <= time_axis)
    throw py::value_error(std::string(name) + " has shape " + shape_text(shape_.data(), ndim_) +
                          ", which has no axis " + std::to_string(time_axis) + " for time");
  std::copy_n(leading.shape.begin(), ndim_, shape_.begin());
  std::int64_t inner = 1;
  for (int axis = time_axis + 1; axis < ndim_; ++axis) inner *= shape_[axis];
  const std::int64_t outer = time_axis == 1 ? shape_[0] : 1;
  extents_ = {outer, shape_[time_axis], inner};
  // Time-major memory seen batch-major, and the reverse, are walked as they lie.
  Walk walk;
  const auto itemsize = leading.itemsize;
  const Axes& strides = leading.strides;
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

void SequenceLayout::check_shape(const Array& array, const char* name) const {
  if (array.ndim == ndim_ && std::equal(shape_.begin(), shape_.begin() + ndim_, array.shape.begin())) return;
  throw py::value_error(std::string(name) + " has shape " + shape_text(array.shape.data(), array.ndim) + ", expected " +
                        shape_text(shape_.data(), ndim_) + ", the shape of " + name_);
}

void SequenceLayout::check_row_shape(const Array& array, const char* name) const {
  Axes row = shape_;
  std::copy(shape_.begin() + time_axis_ + 1, shape_.end(), row.begin() + time_axis_);
  if (array.ndim == ndim_ - 1 && std::equal(row.begin(), row.begin() + ndim_ - 1, array.shape.begin())) return;
  throw py::value_error(std::string(name) + " has shape " + shape_text(array.shape.data(), array.ndim) + ", expected " +
                        shape_text(row.data(), ndim_ - 1) + ", the shape of " + name_ + " without its time axis " +
                        std::to_string(time_axis_));
}

Axes SequenceLayout::row_strides(const Array& array) const {
  Axes strides{};
  std::copy_n(array.strides.begin(), time_axis_, strides.begin());
  std::copy_n(array.strides.begin() + time_axis_, ndim_ - 1 - time_axis_, strides.begin() + time_axis_ + 1);
  return strides;
}

Axes SequenceLayout::broadcast_strides(const Array& array, const char* name) const {
  const int missing = ndim_ - array.ndim;
  bool fits = missing >= 0;
  Axes strides{};
  for (int axis = 0; fits && axis < array.ndim; ++axis) {
    if (array.shape[axis] == 1) continue;
    fits = array.shape[axis] == shape_[axis + missing];
    strides[axis + missing] = array.strides[axis];
  }
  if (!fits)
    throw py::value_error(std::string(name) + " has shape " + shape_text(array.shape.data(), array.ndim) +
                          ", which does not broadcast to " + shape_text(shape_.data(), ndim_) + ", the shape of " + name_);
  return strides;
}

// Axes in bytes of an array that lies in memory as [outer, time, inner].
Axes SequenceLayout::memory_order(py::ssize_t itemsize) const {
  Axes strides{};
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
bool SequenceLayout::group(const Axes& strides, int begin, int end, py::ssize_t& stride) const {
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
bool SequenceLayout::groups_of(const Axes& strides, py::ssize_t itemsize, Walk& walk) const {
  walk = {0, strides[time_axis_], 0, itemsize};
  py::ssize_t before = 0, after = 0;
  if (!group(strides, 0, time_axis_, before) || !group(strides, time_axis_ + 1, ndim_, after)) return false;
  walk.outer = swapped_ ? after : before;
  walk.inner = swapped_ ? before : after;
  return walk.outer % itemsize == 0 && walk.time % itemsize == 0;
}

bool SequenceLayout::walk_of(const Axes& strides, py::ssize_t itemsize, Walk& walk) const {
  if (!groups_of(strides, itemsize, walk)) return false;
  // Neighbours must be neighbours in memory: columns, or times where there is one column.
  if (extents_.inner > 1) return walk.inner == itemsize;
  return extents_.time <= 1 || walk.time == itemsize;
}

SequenceLayout::Bytes SequenceLayout::view_bytes(const Array& array, const Axes& strides) const {
  Bytes bytes{array.data, {}};
  if (size() == 0 || walk_of(strides, array.itemsize, bytes.walk)) return bytes;
  Array broadcast = array;
  broadcast.ndim = ndim_;
  broadcast.shape = shape_;
  broadcast.strides = strides;
  const py::array seen = numpy_view(broadcast);
  py::array copy = empty(seen.dtype());
  copy[py::ellipsis()] = seen;
  keep_.push_back(copy);
  walk_of(memory_order(array.itemsize), array.itemsize, bytes.walk);
  bytes.data = static_cast<const char*>(copy.data());
  return bytes;
}

SequenceLayout::Bytes SequenceLayout::row_bytes(const Array& array) const {
  Bytes bytes{array.data, {}};
  if (groups_of(row_strides(array), array.itemsize, bytes.walk) &&
      (extents_.inner <= 1 || bytes.walk.inner == array.itemsize))
    return bytes;
  const auto copy = py::module_::import("numpy").attr("ascontiguousarray")(numpy_view(array)).cast<py::array>();
  keep_.push_back(copy);
  Array contiguous = array;
  std::copy_n(copy.strides(), array.ndim, contiguous.strides.begin());
  groups_of(row_strides(contiguous), array.itemsize, bytes.walk);
  bytes.data = static_cast<const char*>(copy.data());
  return bytes;
}

py::array SequenceLayout::empty(const py::dtype& dtype) const {
  const Axes strides = memory_order(dtype.itemsize());
  return py::array(dtype, py::array::ShapeContainer(shape_.begin(), shape_.begin() + ndim_),
                   py::array::StridesContainer(strides.begin(), strides.begin() + ndim_));
}

py::object SequenceLayout::empty(const Array& like, Library library, Array& made) const {
  made = like;
  made.shape = shape_;
  made.strides = memory_order(like.itemsize);
  made.ndim = ndim_;
  py::object result;
  if (library == Library::numpy) {
    const py::array array = empty(py::reinterpret_borrow<py::array>(like.object).dtype());
    made.data = static_cast<char*>(const_cast<void*>(array.data()));
    result = array;
  } else {
    std::int64_t shape[kMaxDimensions], strides[kMaxDimensions];
    for (int axis = 0; axis < ndim_; ++axis) {
      shape[axis] = shape_[axis];
      strides[axis] = made.strides[axis] / like.itemsize;
    }
    const dlpack::DataType dtype{dlpack::kFloat, static_cast<std::uint8_t>(8 * like.itemsize), 1};
    void* data = nullptr;
    result = dlpack::empty(dtype, ndim_, shape, strides, data);
    made.data = static_cast<char*>(data);
  }
  made.object = result;
  return result;
}

void check_no_overlap(const Array& output, const char* name, const Array& other, const char* other_name) {
  if (!other || output.low >= other.high || other.low >= output.high) return;
  if (py::module_::import("numpy").attr("shares_memory")(numpy_view(output), numpy_view(other)).cast<bool>())
    throw py::value_error(std::string(name) + " shares memory with " + other_name + "; results need memory of their own");
}

}  // namespace metafast
