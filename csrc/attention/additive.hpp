// Additive (Bahdanau) attention: the arguments of its kernels, the memory they need, and their table.
//
//   score[q, k] = w . tanh(query[q] + key[k]),  weights = softmax over the keys that take part,
//   context[q] = sum_k weights[q, k] value[k]                 (Bahdanau, Cho and Bengio 2015, appendix A.1.2)
//
// Nothing of the size queries x keys x width is ever held. A slice handles a block of the queries of one problem; its
// scratch is given to it. Views are checked by the caller.
#pragma once

#include "attention/views.hpp"
#include "common/isa.hpp"

namespace metafast::attention {

// What is known of the score weights of all heads before the first key is looked at.
template <class T>
struct WeightTable {
  const T* score_weights = nullptr;  // [heads, padded width], as given
  const T* weights = nullptr;        // [heads, padded width], scaled so that the largest magnitude is in [1, 2)
  const T* floors = nullptr;         // [heads, padded width], kScale / weight where `foldable`
  const T* factors = nullptr;        // [heads], from a sum of weight / denominator to a score
  const bool* foldable = nullptr;    // [heads]
};

// In which form a problem's scores are summed; see exponential_form.hpp.
enum class Form : std::int32_t { folded, separate, narrow, direct };

// The keys of one problem that take part, gathered, in the form that scoring reads; memory by place_keys.
template <class T>
struct PreparedKeys {
  T* rows = nullptr;               // [count rounded up, padded width]: exponentials of the keys, or themselves (direct)
  T* centres = nullptr;            // [padded width]
  T* limits = nullptr;             // [padded width]: how far from minus the centre a query still makes a difference
  std::int32_t* active = nullptr;  // [count]: their places among all keys
  std::int64_t* count = nullptr;
  Form* form = nullptr;
};

template <class T>
struct Additive {
  Extents extents;
  View<const T> query, key, value;
  View<const T> score_weight;  // one row: batch_stride and row_stride are 0
  KeySelection selection;
  WeightTable<T> table;
};

template <class T>
struct AdditiveForward : Additive<T> {
  View<T> context;
  View<T> weights;  // [batch, heads, queries, keys], optional
};

template <class T>
struct AdditiveBackward : Additive<T> {
  View<const T> weights;  // as the forward pass gave them
  View<const T> context_gradient;
  View<const T> weights_gradient;  // optional
  View<T> query_gradient, key_gradient, value_gradient;
};

// The gradient of the backward pass: cotangents of its results (optional), gradients of its arguments.
template <class T>
struct AdditiveDoubleBackward : AdditiveBackward<T> {
  View<const T> query_cotangent, key_cotangent, value_cotangent, score_weight_cotangent;
  View<T> context_gradient_gradient;
  View<T> weights_gradient_gradient;  // optional
};

// Queries that share the keys while these are in the first cache, and the values in the matrix product.
constexpr std::int64_t kQueryTile = 12;

// Rows are padded to whole vectors of the widest level, so that they lie alike at every level.
template <class T>
constexpr std::int64_t kPadding = 64 / sizeof(T);

template <class T>
[[gnu::always_inline]] constexpr std::int64_t padded(std::int64_t count) {
  return (count + kPadding<T> - 1) / kPadding<T> * kPadding<T>;
}

template <class T>
struct AdditiveKernels {
  // Fills the tables [heads, ...] of the score weights.
  void (*weigh)(const Additive<T>&, T* score_weights, T* weights, T* floors, T* factors, bool* foldable);
  // Prepares the keys of one problem in memory of prepared_bytes; in the form wanted, where the keys' range and the
  // weights allow it. The forward pass does not take the narrow one, the backward passes not the folded one.
  void (*prepare)(const Additive<T>&, std::int64_t problem, Form wanted, const PreparedKeys<T>&);
  // Context and weights of the queries [begin, end) of one problem.
  void (*forward)(const AdditiveForward<T>&, std::int64_t problem, std::int64_t begin, std::int64_t end,
                  const PreparedKeys<T>&, void* scratch);
  // The query gradient of [begin, end); what these queries give to the gradients of keys and values goes to `sums`,
  // which `finish` takes, and to that of the score weights to `weight_sums` [padded width].
  void (*backward)(const AdditiveBackward<T>&, std::int64_t problem, std::int64_t begin, std::int64_t end,
                   const PreparedKeys<T>&, T* sums, T* weight_sums, void* scratch);
  void (*double_backward)(const AdditiveDoubleBackward<T>&, std::int64_t problem, std::int64_t begin, std::int64_t end,
                          const PreparedKeys<T>&, T* sums, T* weight_sums, void* scratch);
  // Adds up the sums of the blocks of one problem, `stride` apart, in their order, and writes the gradients of its keys
  // and values. `times_weights`: the backward pass leaves this factor to the end, the double one does not.
  void (*finish)(const AdditiveBackward<T>&, std::int64_t problem, const PreparedKeys<T>&, const T* sums,
                 std::int64_t stride, std::int64_t blocks, bool times_weights);
  // The scratch of each, in bytes.
  std::int64_t (*forward_scratch)(const Extents&);
  std::int64_t (*backward_scratch)(const Extents&);
  std::int64_t (*double_backward_scratch)(const Extents&);
};

struct AdditiveTable {
  AdditiveKernels<float> of_float;
  AdditiveKernels<double> of_double;

  template <class T>
  const AdditiveKernels<T>& of() const {
    if constexpr (sizeof(T) == sizeof(float))
      return of_float;
    else
      return of_double;
  }
};

// Sizes of memory, in bytes; each is a multiple of the cache line, which the memory must be aligned to.
constexpr std::int64_t kCacheLine = 64;

template <class T>
static inline std::int64_t prepared_bytes(const Extents& extents) {
  const std::int64_t width = padded<T>(extents.width), rows = padded<T>(extents.keys);
  return static_cast<std::int64_t>(sizeof(T)) * ((rows + 2) * width) + padded<std::int32_t>(extents.keys) * 4 +
         kCacheLine;
}

// The elements of `sums` of one block: rows of keys and of values.
template <class T>
static inline std::int64_t sums_size(const Extents& extents) {
  return padded<T>(extents.keys) * (padded<T>(extents.width) + padded<T>(extents.value_width));
}

template <class T>
static inline PreparedKeys<T> place_keys(const Extents& extents, void* memory) {
  const std::int64_t width = padded<T>(extents.width), rows = padded<T>(extents.keys);
  PreparedKeys<T> keys;
  keys.rows = static_cast<T*>(memory);
  keys.centres = keys.rows + rows * width;
  keys.limits = keys.centres + width;
  keys.active = reinterpret_cast<std::int32_t*>(keys.limits + width);
  keys.count = reinterpret_cast<std::int64_t*>(keys.active + padded<std::int32_t>(extents.keys));
  keys.form = reinterpret_cast<Form*>(keys.count + 1);
  return keys;
}

}  // namespace metafast::attention

namespace metafast {
METAFAST_DISPATCH(attention::AdditiveTable, additive_table)
}
