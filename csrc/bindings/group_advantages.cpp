// Group advantages: checks arguments, numbers the groups, calls the kernel.
#include "returns/group_advantages.hpp"

#include <algorithm>
#include <string>
#include <unordered_map>
#include <vector>

#include "bindings/dlpack.hpp"
#include "bindings/sequence_arrays.hpp"

namespace metafast {
namespace {

using returns::Group;
using returns::GroupKind;

GroupKind group_kind(const std::string& kind) {
  if (kind == "grpo") return GroupKind::grpo;
  if (kind == "rloo") return GroupKind::rloo;
  throw py::value_error("kind must be \"grpo\" or \"rloo\", not \"" + kind + "\"");
}

// An array of one axis, without gaps, as `Type`.
template <class Type>
const Type* contiguous(const Array& array, std::vector<py::object>& keep) {
  if (array.strides[0] == array.itemsize && array.itemsize == sizeof(Type))
    return reinterpret_cast<const Type*>(array.data);
  const auto numpy = py::module_::import("numpy");
  const auto copy = numpy.attr("ascontiguousarray")(numpy_view(array), py::dtype::of<Type>()).template cast<py::array>();
  keep.push_back(copy);
  return static_cast<const Type*>(copy.data());
}

// Numbers the ids from 0; the ids themselves where they lie close together.
std::int64_t number_groups(const std::int64_t* ids, std::int64_t count, std::vector<std::int64_t>& index) {
  index.resize(static_cast<std::size_t>(count));
  const auto [least, largest] = std::minmax_element(ids, ids + count);
  const std::uint64_t range = static_cast<std::uint64_t>(*largest) - static_cast<std::uint64_t>(*least);
  if (range < static_cast<std::uint64_t>(count)) {
    std::transform(ids, ids + count, index.begin(), [low = *least](std::int64_t id) { return id - low; });
    return static_cast<std::int64_t>(range) + 1;
  }
  std::unordered_map<std::int64_t, std::int64_t> numbers;
  std::transform(ids, ids + count, index.begin(), [&](std::int64_t id) {
    return numbers.emplace(id, static_cast<std::int64_t>(numbers.size())).first->second;
  });
  return static_cast<std::int64_t>(numbers.size());
}

template <class T>
void compute(const Array& rewards, const Array& ids, GroupKind kind, const Array& advantages,
             std::vector<py::object>& keep) {
  const std::int64_t count = rewards.shape[0];
  if (count == 0) return;
  const T* samples = contiguous<T>(rewards, keep);
  const std::int64_t* group_ids = contiguous<std::int64_t>(ids, keep);
  py::gil_scoped_release released;
  std::vector<std::int64_t> index;
  std::vector<Group> groups(static_cast<std::size_t>(number_groups(group_ids, count, index)));
  returns::group_advantages(samples, index.data(), count, groups.data(), static_cast<std::int64_t>(groups.size()), kind,
                            reinterpret_cast<T*>(advantages.data));
}

void check_one_axis(const Array& array, const char* name) {
  if (array.ndim != 1)
    throw py::value_error(std::string(name) + " has shape " + shape_text(array.shape.data(), array.ndim) +
                          "; expected one axis, the samples");
}

py::object evaluate(py::handle rewards_in, py::handle ids_in, const std::string& kind_name) {
  const GroupKind kind = group_kind(kind_name);
  std::vector<py::object> keep;
  const Library library = dlpack::is_torch(rewards_in) ? Library::torch_for_constants : Library::numpy;
  const Array rewards = plain_view(rewards_in, "rewards", library, keep);
  if (rewards.kind != 'f' || (rewards.itemsize != sizeof(float) && rewards.itemsize != sizeof(double)))
    throw py::type_error("rewards has dtype " + dtype_text(rewards) + "; expected float32 or float64");
  check_one_axis(rewards, "rewards");
  const Array ids = plain_view(ids_in, "group_ids", library, keep);
  if (ids.kind != 'i' && ids.kind != 'u')
    throw py::type_error("group_ids has dtype " + dtype_text(ids) + "; expected integers");
  check_one_axis(ids, "group_ids");
  if (ids.shape[0] != rewards.shape[0])
    throw py::value_error("group_ids has shape " + shape_text(ids.shape.data(), 1) + ", expected " +
                          shape_text(rewards.shape.data(), 1) + ", the shape of rewards");
  const SequenceLayout layout(rewards, "rewards", 0, keep);
  Array advantages;
  const py::object result = layout.empty(rewards, library, advantages);
  if (rewards.itemsize == sizeof(float))
    compute<float>(rewards, ids, kind, advantages, keep);
  else
    compute<double>(rewards, ids, kind, advantages, keep);
  return result;
}

py::object group_advantages(py::handle rewards, py::handle group_ids, const std::string& kind) {
  try {
    return evaluate(rewards, group_ids, kind);
  } catch (const NeedsConversion&) {
    return py::reinterpret_borrow<py::object>(Py_NotImplemented);
  }
}

}  // namespace

void register_group_advantages(py::module_& module) {
  module.def("group_advantages", &group_advantages, py::arg("rewards"), py::arg("group_ids"), py::arg("kind"));
}

}  // namespace metafast
