// What the additive-attention bindings share: the checked arrays of a call, and how its work is cut.
#pragma once

#include <algorithm>
#include <new>
#include <vector>

#include "attention/additive.hpp"
#include "bindings/attention_arrays.hpp"
#include "bindings/interrupt.hpp"
#include "bindings/scratch.hpp"

namespace metafast {
namespace additive {

using namespace attention;

// Below this many products of a query, a key and a column, waking a second thread costs more than it saves.
constexpr std::int64_t kProductsWorthThreads = 1 << 18;
// Slices of so many products take about a tenth of a millisecond.
constexpr std::int64_t kProductsPerSlice = 1 << 20;

// In doubles, which only get inexact where whole numbers would overflow.
inline double products_per_query(const Extents& extents) {
  return std::max(1.0, static_cast<double>(extents.keys) * (extents.width + extents.value_width / 4));
}

// How many of `products` make one: at least 1.
inline std::int64_t as_many_as(double whole, double part, std::int64_t most) {
  return std::max<std::int64_t>(1, static_cast<std::int64_t>(std::min(whole / part, static_cast<double>(most))));
}

// The threads of a call. Asked for once: its scratch is for so many, though somebody set another number meanwhile.
inline int num_threads(const Extents& extents) {
  const double products = static_cast<double>(extents.problems()) * extents.queries * products_per_query(extents);
  return products < kProductsWorthThreads ? 1 : get_num_threads();
}

// Raises MemoryError where the sizes of a call's memory would overflow, as those of broadcast arrays may.
inline void check_sizes(const Extents& extents) {
  std::int64_t bytes = 1 << 12;
  const auto times = [&](std::int64_t factor) {
    if (__builtin_mul_overflow(bytes, factor, &bytes)) throw std::bad_alloc();
  };
  times(std::max<std::int64_t>(1, extents.batch));
  times(std::max<std::int64_t>(1, extents.heads));
  times(extents.queries / 16 + extents.keys / 16 + 16);
  times(extents.width / 16 + extents.value_width / 16 + 16);
}

// The query (or, of prepared keys, the key), which has axes for the batch, its rows and columns, and maybe heads.
inline py::array first_array(py::handle value, const char* name) {
  const py::array array = plain_array(value, name);
  if (array.ndim() != 3 && array.ndim() != 4)
    throw py::value_error(std::string(name) + " has shape " +
                          shape_text(array.shape(), static_cast<int>(array.ndim())) +
                          ", expected [batch, rows, columns] or [batch, heads, rows, columns]");
  return attention_array(array, name, no_array(), "", {kAny, kAny, kAny, kAny}, static_cast<int>(array.ndim()));
}

// Score weights [width], or [heads, width] beside arrays with heads, and gradients of that shape.
inline py::array weight_array(py::handle value, const char* name, const py::array& like, py::ssize_t heads,
                              py::ssize_t width) {
  py::array array = plain_array(value, name);
  if (array.dtype().num() != like.dtype().num())
    throw py::type_error(std::string(name) + " has dtype " + dtype_text(array) +
                         ", but the other floats of the call have " + dtype_text(like));
  const bool with_heads = like.ndim() == 4;
  const bool fits = array.ndim() == (with_heads ? 2 : 1) && array.shape(array.ndim() - 1) == width &&
                    (!with_heads || array.shape(0) == heads);
  if (!fits)
    throw py::value_error(std::string(name) + " has shape " +
                          shape_text(array.shape(), static_cast<int>(array.ndim())) + ", expected " +
                          (with_heads ? "(" + std::to_string(heads) + ", " : "(") + std::to_string(width) +
                          (with_heads ? ") for [heads, columns]" : ",) for [columns]"));
  if (width > 1 && array.strides(array.ndim() - 1) != array.itemsize())
    return array.attr("copy")("C").cast<py::array>();
  return array;
}

template <class T>
View<const T> weight_view(const py::array& array) {
  const bool with_heads = array.ndim() == 2;
  return {static_cast<const T*>(array.data()), 0,
          with_heads ? array.strides(0) / static_cast<py::ssize_t>(sizeof(T)) : 0, 0};
}

// The arrays of one call, checked, and the tables of the score weights.
template <class T>
struct Call {
  py::array query;
  int ndim;
  py::array key = no_array(), value = no_array(), score_weight = no_array();
  py::array mask = no_array(), lengths = no_array();
  AlignedMemory tables;

  Call(py::handle query_in, py::handle key_in, py::handle value_in, py::handle score_weight_in, py::handle key_mask,
       py::handle key_lengths, Additive<T>& arguments)
      : query(first_array(query_in, "query")), ndim(static_cast<int>(query.ndim())) {
    const py::ssize_t heads = ndim == 4 ? query.shape(1) : 1, width = query.shape(ndim - 1);
    key = attention_array(key_in, "key", query, "query", {query.shape(0), heads, kAny, width}, ndim);
    const py::ssize_t keys = key.shape(ndim - 2);
    value = attention_array(value_in, "value", query, "query", {query.shape(0), heads, keys, kAny}, ndim);
    score_weight = weight_array(score_weight_in, "score_weight", query, heads, width);
    Extents& extents = arguments.extents;
    extents = {query.shape(0), heads, query.shape(ndim - 2), keys, width, value.shape(ndim - 1)};
    if (extents.keys >= std::int64_t{1} << 31)
      throw py::value_error("key has " + std::to_string(extents.keys) + " keys; fewer than 2**31 are taken");
    check_sizes(extents);
    arguments.query = attention_view<T>(query);
    arguments.key = attention_view<T>(key);
    arguments.value = attention_view<T>(value);
    arguments.score_weight = weight_view<T>(score_weight);
    arguments.selection = key_selection(key_mask, key_lengths, query.shape(0), keys, mask, lengths);
    fill_tables(arguments);
  }

 private:
  void fill_tables(Additive<T>& arguments) {
    const std::int64_t heads = arguments.extents.heads, width = padded<T>(arguments.extents.width);
    tables = AlignedMemory(heads * ((3 * width + 1) * sizeof(T) + 1));
    T* score_weights = reinterpret_cast<T*>(tables.get());
    T* weights = score_weights + heads * width;
    T* floors = weights + heads * width;
    T* factors = floors + heads * width;
    bool* foldable = reinterpret_cast<bool*>(factors + heads);
    additive_table().of<T>().weigh(arguments, score_weights, weights, floors, factors, foldable);
    arguments.table = {score_weights, weights, floors, factors, foldable};
  }
};

}  // namespace additive
}  // namespace metafast
