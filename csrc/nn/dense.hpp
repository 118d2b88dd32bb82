// Dense layers and towers of them, forwards and backwards, on blocks of samples (columns.hpp).
// For kernel files only: everything here has internal linkage, because each level compiles its own copy.
#pragma once

#include <cstdint>

#include "common/matrix.hpp"
#include "nn/activations.hpp"
#include "nn/columns.hpp"
#include "nn/network.hpp"

namespace metafast {
namespace {

// Memory of one thread, handed out from the front.
template <class T>
class Arena {
 public:
  explicit Arena(T* memory) : next_(memory) {}
  T* take(std::int64_t elements) {
    T* const taken = next_;
    next_ += (elements + kColumnGroup - 1) / kColumnGroup * kColumnGroup;
    return taken;
  }

 private:
  T* next_;
};

// What backward needs of forward: each layer's outputs, and the sigmoids in silu.
template <class T>
struct TowerTape {
  T* outputs[kMaxLayers];
  T* sigmoids[kMaxLayers];

  void allocate(const Tower& tower, std::int64_t columns, Arena<T>& arena) {
    for (std::int64_t k = 0; k < tower.num_layers; ++k) {
      outputs[k] = arena.take(tower.layers[k].outputs * columns);
      sigmoids[k] = tower.layers[k].activation == Activation::silu ? arena.take(tower.layers[k].outputs * columns)
                                                                   : nullptr;
    }
  }
};

// What a dense layer's sums become.
template <class T, Activation activation>
struct FinishLayer {
  const T* bias;  // or null
  bool accumulate;
  template <class P>
  [[gnu::always_inline]] void finish(typename P::Real sums, std::int64_t row, T* c) const {
    static_assert(activation == Activation::identity || activation == Activation::tanh);
    if (accumulate) sums += P::load(c);
    if (bias != nullptr) sums += P::fill(bias[row]);
    P::store(c, activation == Activation::tanh ? tanh_of_lanes<P>(sums) : sums);
  }
};

// C (+)= A B as in matrix.hpp, in blocks of steps: of B, which every row of A meets, a block stays in the first-level
// cache. `Finish` is told whether there are sums to add to.
template <class Finish, class T>
void multiply_in_blocks(std::int64_t rows, std::int64_t columns, std::int64_t steps, const T* a, std::int64_t a_row,
                        std::int64_t a_step, const T* b, T* c, Finish finish) {
  constexpr std::int64_t kBlockSteps = 96;
  while (steps > kBlockSteps) {
    multiply<T>(rows, columns, kBlockSteps, a, a_row, a_step, b, columns, c, columns, finish.accumulate);
    finish.accumulate = true;
    steps -= kBlockSteps;
    a += kBlockSteps * a_step;
    b += kBlockSteps * columns;
  }
  multiply_vectors(MatrixProduct<T>{steps, a, a_row, a_step, b, columns, c, columns}, finish, rows, columns);
}

// W x, or with a bias W x + b, for `rows` rows of a weight matrix.
template <class T>
void multiply_weight(const T* weight, const T* bias, std::int64_t rows, std::int64_t inputs, const T* x,
                     std::int64_t columns, T* y) {
  multiply_in_blocks(rows, columns, inputs, weight, inputs, 1, x, y, FinishLayer<T, Activation::identity>{bias, false});
}

template <class T>
void run_layer(const DenseLayer& layer, const T* parameters, const T* x, std::int64_t columns, T* y, T* sigmoids) {
  const T* const weight = parameters + layer.weight;
  const T* const bias = layer.bias < 0 ? nullptr : parameters + layer.bias;
  const auto run = [&](auto finish) {
    multiply_in_blocks(layer.outputs, columns, layer.inputs, weight, layer.inputs, 1, x, y, finish);
  };
  if (layer.activation == Activation::tanh) return run(FinishLayer<T, Activation::tanh>{bias, false});
  run(FinishLayer<T, Activation::identity>{bias, false});
  activate(layer.activation, layer.outputs * columns, y, sigmoids);
}

// Returns the last layer's outputs, or `input` where there is no layer.
template <class T>
const T* run_tower(const Tower& tower, const T* parameters, const T* input, std::int64_t columns,
                   const TowerTape<T>& tape) {
  for (std::int64_t k = 0; k < tower.num_layers; ++k) {
    const DenseLayer& layer = tower.layers[k];
    T* const output = tape.outputs[k];
    run_layer(layer, parameters, input, columns, output, tape.sigmoids[k]);
    input = output;
  }
  return input;
}

// Where backward puts gradients, and its scratch.
template <class T>
struct GradientScratch {
  T* gradient;    // of all parameters, added to
  T* transposed;  // [columns, widest]
  T* product;     // of a layer with few inputs: its weight's gradient, transposed
  const T* transposed_of = nullptr;  // two heads of one trunk share their input
};

// gradient [rows, inputs] += delta [rows, columns] x [inputs, columns]^T.
template <class T>
void add_weight_gradient(const T* delta, std::int64_t rows, const T* x, std::int64_t inputs, std::int64_t columns,
                         T* gradient, GradientScratch<T>& scratch) {
  // Where the inputs do not fill a vector, the product is taken the other way round.
  if (inputs >= kLanes<T> || inputs >= rows) {
    if (scratch.transposed_of != x) transpose_columns(x, inputs, columns, scratch.transposed);
    scratch.transposed_of = x;
    multiply<T>(rows, inputs, columns, delta, columns, 1, scratch.transposed, inputs, gradient, inputs, true);
    return;
  }
  transpose_columns(delta, rows, columns, scratch.transposed);
  scratch.transposed_of = nullptr;
  multiply<T>(inputs, rows, columns, x, columns, 1, scratch.transposed, rows, scratch.product, rows, false);
  for (std::int64_t input = 0; input < inputs; ++input)
    for (std::int64_t row = 0; row < rows; ++row) gradient[row * inputs + input] += scratch.product[input * rows + row];
}

// x_gradient (+)= W^T delta.
template <class T>
void multiply_transposed_weight(const T* weight, std::int64_t rows, std::int64_t inputs, const T* delta,
                                std::int64_t columns, T* x_gradient, bool accumulate) {
  multiply_in_blocks(inputs, columns, rows, weight, 1, inputs, delta, x_gradient, KeepSums<T>{accumulate});
}

// Takes the gradient of the tower's outputs, [rows, columns], in `delta` (overwritten) and adds those of its parameters.
// The gradient of its input goes to, or is added to, `input_gradient`, unless that is null. `delta` and `other` are both
// as large as the widest layer.
template <class T>
void run_tower_backwards(const Tower& tower, std::int64_t rows, const T* parameters, const T* input,
                         std::int64_t columns, const TowerTape<T>& tape, T* delta, T* other, T* input_gradient,
                         bool accumulate, GradientScratch<T>& scratch) {
  if (tower.num_layers == 0 && input_gradient != nullptr) {
    // The input is the output.
    for (std::int64_t i = 0; i < rows * columns; ++i)
      input_gradient[i] = accumulate ? input_gradient[i] + delta[i] : delta[i];
  }
  for (std::int64_t k = tower.num_layers - 1; k >= 0; --k) {
    const DenseLayer& layer = tower.layers[k];
    const T* const x = k == 0 ? input : tape.outputs[k - 1];
    deactivate(layer.activation, layer.outputs * columns, tape.outputs[k], tape.sigmoids[k], delta);
    add_weight_gradient(delta, layer.outputs, x, layer.inputs, columns, scratch.gradient + layer.weight, scratch);
    if (layer.bias >= 0) add_row_sums(delta, layer.outputs, columns, scratch.gradient + layer.bias);
    if (k == 0 && input_gradient == nullptr) return;
    T* const x_gradient = k == 0 ? input_gradient : other;
    multiply_transposed_weight(parameters + layer.weight, layer.outputs, layer.inputs, delta, columns, x_gradient,
                               k == 0 && accumulate);
    other = delta;
    delta = x_gradient;
  }
}

}  // namespace
}  // namespace metafast
