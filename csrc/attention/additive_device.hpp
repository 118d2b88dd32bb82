// Additive attention on CUDA devices: the arguments of its kernels, and the functions that queue them on a stream.
//
// The forms are those of exponential_form.hpp, chosen on the device, problem by problem, where the keys' range is
// known; the host never waits to learn it. All memory is the caller's. "Rows" below are contiguous, one problem after another,
// and padded_columns(width) long.
#pragma once

#include "attention/views.hpp"
#include "common/device.hpp"

namespace metafast::attention {

// So that four neighbouring columns can be read at once.
constexpr std::int64_t padded_columns(std::int64_t width) { return width <= 4 ? 4 : (width + 3) / 4 * 4; }

// In which form a problem's tanh are computed; the first three are the forward pass's.
//   quads     reciprocals shared by four columns, the weights folded into the keys
//   pairs     reciprocals shared by two columns, any weights
//   direct    tanh of every element
//   product   1 - 1 / (1/2 + e/2), of the backward pass
enum class DeviceForm : std::int32_t { quads, pairs, direct, product };

// What is kept of a problem's keys, and of the head's score weights.
template <class T>
struct DeviceKeys {
  T* rows = nullptr;         // [problems, keys]: their exponentials, or themselves (direct); zeros where inactive
  T* centres = nullptr;      // [problems, padded]
  T* limits = nullptr;       // [problems, padded]: how far from minus the centre a query still makes a difference
  T* half_ranges = nullptr;  // [problems, padded]
  T* weights = nullptr;      // [heads, padded]: scaled so that the largest magnitude is in [1, 2)
  T* inverses = nullptr;     // [heads, padded]: 1 / weight; 0 where the weight is 0
  std::int32_t* exponents = nullptr;  // [heads]: by which power of two the weights were scaled
  std::int32_t* smallest = nullptr;   // [heads]: exponent of the least magnitude but 0; kUnscaled where there is none
  DeviceForm* forms = nullptr;        // [problems]
};

constexpr std::int32_t kUnscaled = -100000;

template <class T>
struct DeviceAdditive {
  Extents extents;
  View<const T> query, key, value;
  View<const T> score_weight;  // one row: batch_stride and row_stride are 0
  KeySelection selection;      // lengths are clamped to [0, keys]
  DeviceKeys<T> keys;
  T* query_rows = nullptr;  // [problems, queries]: their exponentials, scaled for the form, or themselves
};

template <class T>
struct DeviceAdditiveForward : DeviceAdditive<T> {
  T* context = nullptr;  // [problems, queries, value width]
  T* weights = nullptr;  // [problems, queries, keys]; optional where values are at most kContextColumns wide
};

// The columns of a context that the forward kernel sums up beside the scores; the others take a kernel of their own.
constexpr std::int64_t kContextColumns = 128;

template <class T>
struct DeviceAdditiveBackward : DeviceAdditive<T> {
  View<const T> weights;  // as the forward pass gave them
  View<const T> context_gradient;
  View<const T> weights_gradient;  // optional
  T* scores = nullptr;             // scratch [problems, queries, keys]: gradients of the weights, then of the scores
  std::int64_t splits = 1;         // parts that the queries are cut into, each with sums of its own
  T* key_sums = nullptr;           // scratch [splits, problems, keys, width], where there is more than one
  T* weight_sums = nullptr;        // scratch [splits, problems, padded]
  // Contiguous, as the arguments they belong to.
  T *query_gradient = nullptr, *key_gradient = nullptr, *value_gradient = nullptr, *score_weight_gradient = nullptr;
};

// The gradient of the backward pass; see additive_double_backward.hpp for the formulas and names.
template <class T>
struct DeviceAdditiveDoubleBackward : DeviceAdditiveBackward<T> {
  View<const T> query_cotangent, key_cotangent, value_cotangent, score_weight_cotangent;  // optional
  T* products = nullptr;  // scratch [problems, queries, keys]: p, then b
  T* inner = nullptr;     // [problems, queries, keys]: u, then r, the gradient of weights_gradient
  T* context_gradient_gradient = nullptr;
};

enum class DevicePass : std::int32_t { forward, backward, double_backward };

// Prepares the keys. The double backward pass takes them as they are.
template <class T>
void prepare_keys(const DeviceAdditive<T>&, DevicePass, const Stream&);
// The rest of each pass; prepares the queries.
template <class T>
void attend(const DeviceAdditiveForward<T>&, const Stream&);
template <class T>
void differentiate(const DeviceAdditiveBackward<T>&, const Stream&);
template <class T>
void differentiate_twice(const DeviceAdditiveDoubleBackward<T>&, const Stream&);

}  // namespace metafast::attention
