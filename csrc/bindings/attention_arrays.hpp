// The arguments of an attention call as checked views: arrays [batch, heads, rows, columns], or without the heads.
#pragma once

#include "attention/views.hpp"
#include "bindings/arrays.hpp"

namespace metafast {

constexpr py::ssize_t kAny = -1;

// An array of the dtype of `like` (null: this is the first), with the given extents, where kAny takes what comes, and
// `ndim` axes (3: without heads); a copy where neighbouring columns are no neighbours in memory. Else a TypeError or
// ValueError in the argument's name.
py::array attention_array(py::handle value, const char* name, const py::array& like, const char* like_name,
                          std::array<py::ssize_t, 4> extents, int ndim = 4);

// A new array of these extents, and of `like`'s dtype and number of axes.
py::array new_attention_array(const py::array& like, std::array<py::ssize_t, 4> extents);

namespace attention_detail {
template <class T, class Pointer>
attention::View<T> view(const py::array& array, Pointer* data) {
  const auto stride = [&](py::ssize_t axis) { return array.strides(axis) / static_cast<py::ssize_t>(sizeof(T)); };
  const py::ssize_t ndim = array.ndim();
  return {static_cast<T*>(data), stride(0), ndim == 4 ? stride(1) : 0, stride(ndim - 2)};
}
}  // namespace attention_detail

template <class T>
attention::View<const T> attention_view(const py::array& array) {
  return attention_detail::view<const T>(array, array.data());
}

template <class T>
attention::View<T> attention_result(py::array& array) {
  return attention_detail::view<T>(array, array.mutable_data());
}

// The keys that take part; `mask` and `lengths` keep the arrays that the selection points into.
attention::KeySelection key_selection(py::handle key_mask, py::handle key_lengths, py::ssize_t batch, py::ssize_t keys,
                                      py::array& mask, py::array& lengths);

}  // namespace metafast
