#include "bindings/attention_arrays.hpp"

#include <vector>

namespace metafast {

namespace {

// The axes of an array without heads, among [batch, heads, rows, columns].
constexpr std::array<int, 4> kAxes = {0, 1, 2, 3}, kAxesWithoutHeads = {0, 2, 3, -1};

}  // namespace

py::array attention_array(py::handle value, const char* name, const py::array& like, const char* like_name,
                          std::array<py::ssize_t, 4> extents, int ndim) {
  py::array array = plain_array(value, name);
  if (like && array.dtype().num() != like.dtype().num())
    throw py::type_error(std::string(name) + " has dtype " + dtype_text(array) + ", but " + like_name + " has " +
                         dtype_text(like) + "; the floats of one call share a dtype");
  const auto& axes = ndim == 4 ? kAxes : kAxesWithoutHeads;
  bool fits = array.ndim() == ndim;
  for (int axis = 0; fits && axis < ndim; ++axis)
    fits = extents[axes[axis]] == kAny || array.shape(axis) == extents[axes[axis]];
  if (!fits) {
    std::string expected = "(";
    for (int axis = 0; axis < ndim; ++axis)
      expected += (axis ? ", " : "") + (extents[axes[axis]] == kAny ? "any" : std::to_string(extents[axes[axis]]));
    throw py::value_error(std::string(name) + " has shape " +
                          shape_text(array.shape(), static_cast<int>(array.ndim())) + ", expected " + expected +
                          ") for [batch, " + (ndim == 4 ? "heads, " : "") + "rows, columns]");
  }
  bool walkable = array.shape(ndim - 1) <= 1 || array.strides(ndim - 1) == array.itemsize();
  for (int axis = 0; axis < ndim - 1; ++axis) walkable = walkable && array.strides(axis) % array.itemsize() == 0;
  if (!walkable) return array.attr("copy")("C").cast<py::array>();
  return array;
}

py::array new_attention_array(const py::array& like, std::array<py::ssize_t, 4> extents) {
  if (like.ndim() == 4) return py::array(like.dtype(), std::vector<py::ssize_t>(extents.begin(), extents.end()));
  return py::array(like.dtype(), std::vector<py::ssize_t>{extents[0], extents[2], extents[3]});
}

attention::KeySelection key_selection(py::handle key_mask, py::handle key_lengths, py::ssize_t batch, py::ssize_t keys,
                                      py::array& mask, py::array& lengths) {
  attention::KeySelection selection;
  if (given(key_mask)) {
    mask = flag_array(key_mask, "key_mask");
    if (mask.ndim() != 2 || mask.shape(0) != batch || mask.shape(1) != keys)
      throw py::value_error("key_mask has shape " + shape_text(mask.shape(), static_cast<int>(mask.ndim())) +
                            ", expected (" + std::to_string(batch) + ", " + std::to_string(keys) +
                            ") for [batch, keys]");
    if (keys > 1 && mask.strides(1) != 1) mask = mask.attr("copy")("C").cast<py::array>();
    selection.mask = static_cast<const std::uint8_t*>(mask.data());
    selection.mask_stride = mask.strides(0);
  }
  if (given(key_lengths)) {
    lengths = plain_array(key_lengths, "key_lengths");
    const char kind = lengths.dtype().kind();
    if (kind != 'i' && kind != 'u')
      throw py::type_error("key_lengths has dtype " + dtype_text(lengths) + "; expected integers");
    if (lengths.ndim() != 1 || lengths.shape(0) != batch)
      throw py::value_error("key_lengths has shape " + shape_text(lengths.shape(), static_cast<int>(lengths.ndim())) +
                            ", expected (" + std::to_string(batch) + ",) for [batch]");
    // A copy of our own: nobody can change a length between its check and its use.
    lengths = lengths.attr("astype")("int64").cast<py::array>();
    selection.lengths = static_cast<const std::int64_t*>(lengths.data());
    for (py::ssize_t entry = 0; entry < batch; ++entry)
      if (selection.lengths[entry] < 0 || selection.lengths[entry] > keys)
        throw py::value_error("key_lengths[" + std::to_string(entry) + "] is " +
                              std::to_string(selection.lengths[entry]) + ", expected 0 to " + std::to_string(keys) +
                              ", the number of keys");
  }
  return selection;
}

}  // namespace metafast
