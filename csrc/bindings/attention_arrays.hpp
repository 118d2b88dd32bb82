// The arguments of an attention call as checked views; the public functions have given every array four axes.
#pragma once

#include "attention/views.hpp"
#include "bindings/arrays.hpp"

namespace metafast {

constexpr py::ssize_t kAny = -1;

// An array [batch, heads, rows, columns] of the dtype of `like` (null: this is the first) and the given extents, where
// kAny takes what comes; a copy where neighbouring columns are no neighbours in memory. Else a TypeError or ValueError
// in the argument's name.
py::array attention_array(py::handle value, const char* name, const py::array& like, const char* like_name,
                          std::array<py::ssize_t, 4> extents);

template <class T>
attention::View<const T> attention_view(const py::array& array) {
  const auto stride = [&](int axis) { return array.strides(axis) / static_cast<py::ssize_t>(sizeof(T)); };
  return {static_cast<const T*>(array.data()), stride(0), stride(1), stride(2)};
}

template <class T>
attention::View<T> attention_result(py::array& array) {
  const auto stride = [&](int axis) { return array.strides(axis) / static_cast<py::ssize_t>(sizeof(T)); };
  return {static_cast<T*>(array.mutable_data()), stride(0), stride(1), stride(2)};
}

// The keys that take part; `mask` and `lengths` keep the arrays that the selection points into.
attention::KeySelection key_selection(py::handle key_mask, py::handle key_lengths, py::ssize_t batch, py::ssize_t keys,
                                      py::array& mask, py::array& lengths);

}  // namespace metafast
