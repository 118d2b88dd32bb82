// One step of a gated recurrent unit in torch.nn.GRU's form (Cho et al. 2014, with the reset gate after the product),
// forwards and backwards, on blocks of samples (columns.hpp).
//
//   r = sigmoid(W_r x + b_r + U_r h + c_r)      z = sigmoid(W_z x + b_z + U_z h + c_z)
//   n = tanh(W_n x + b_n + r q), q = U_n h + c_n      h' = (1 - z) n + z h
//
// For kernel files only: everything here has internal linkage, because each level compiles its own copy.
#pragma once

#include <cstdint>

#include "nn/activations.hpp"
#include "nn/columns.hpp"
#include "nn/dense.hpp"
#include "nn/network.hpp"

namespace metafast {
namespace {

// What backward needs of one step, each [width, columns]; `gates` holds r and then z.
template <class T>
struct GruTape {
  T* gates;
  T* candidate;
  T* recurrent;  // q

  void allocate(const GruLayer& gru, std::int64_t columns, Arena<T>& arena) {
    gates = arena.take(2 * gru.width * columns);
    candidate = arena.take(gru.width * columns);
    recurrent = arena.take(gru.width * columns);
  }
};

// The sums U h of r and z become those gates. W x is there.
template <class T>
struct FinishGates {
  const T* input_bias;
  const T* hidden_bias;
  bool accumulate = true;
  template <class P>
  [[gnu::always_inline]] void finish(typename P::Real sums, std::int64_t row, T* gate) const {
    P::store(gate, sigmoid_of_lanes<P>(P::load(gate) + sums + P::fill(input_bias[row] + hidden_bias[row])));
  }
};

// The sums U_n h become q, and the rest of the step follows. W_n x + b_n lies in `candidate`.
template <class T>
struct FinishStep {
  const T* bias;
  const T* hidden;
  T* next_hidden;
  GruTape<T> tape;
  std::int64_t count;  // elements of a gate
  bool accumulate = false;
  template <class P>
  [[gnu::always_inline]] void finish(typename P::Real sums, std::int64_t row, T* q) const {
    if (accumulate) sums += P::load(q);
    sums += P::fill(bias[row]);
    P::store(q, sums);
    const std::int64_t i = q - tape.recurrent;
    const auto r = P::load(tape.gates + i), z = P::load(tape.gates + count + i);
    const auto n = tanh_of_lanes<P>(P::multiply_add(r, sums, P::load(tape.candidate + i)));
    P::store(tape.candidate + i, n);
    P::store(next_hidden + i, P::multiply_add(z, P::load(hidden + i) - n, n));
  }
};

template <class T>
void run_gru(const GruLayer& gru, const T* parameters, const T* x, const T* hidden, std::int64_t columns,
             const GruTape<T>& tape, T* next_hidden) {
  const std::int64_t H = gru.width;
  const T* const input_weight = parameters + gru.input_weight;
  const T* const hidden_weight = parameters + gru.hidden_weight;
  const T* const input_bias = parameters + gru.input_bias;
  const T* const hidden_bias = parameters + gru.hidden_bias;
  multiply_weight<T>(input_weight, nullptr, 2 * H, gru.inputs, x, columns, tape.gates);
  multiply_weight(input_weight + 2 * H * gru.inputs, input_bias + 2 * H, H, gru.inputs, x, columns, tape.candidate);
  multiply_in_blocks(2 * H, columns, H, hidden_weight, H, 1, hidden, tape.gates,
                     FinishGates<T>{input_bias, hidden_bias});
  multiply_in_blocks(H, columns, H, hidden_weight + 2 * H * H, H, 1, hidden, tape.recurrent,
                     FinishStep<T>{hidden_bias + 2 * H, hidden, next_hidden, tape, H * columns});
}

// Of the step that run_gru took from `x` and `hidden`: `hidden_gradient` holds the gradient of next_hidden and then that
// of `hidden`; that of `x` is written to `input_gradient` unless that is null; parameters' are added. `delta`, a
// scratch, holds [4 width, columns].
template <class T>
void run_gru_backwards(const GruLayer& gru, const T* parameters, const T* x, const T* hidden, std::int64_t columns,
                       const GruTape<T>& tape, T* hidden_gradient, T* input_gradient, T* delta,
                       GradientScratch<T>& scratch) {
  const std::int64_t H = gru.width;
  const std::int64_t count = H * columns;
  T* const __restrict reset_delta = delta;
  T* const __restrict update_delta = delta + count;
  T* const __restrict recurrent_delta = delta + 2 * count;
  T* const __restrict candidate_delta = delta + 3 * count;
  const T* const __restrict reset = tape.gates;
  const T* const __restrict update = tape.gates + count;
  const T* const __restrict candidate = tape.candidate;
  const T* const __restrict recurrent = tape.recurrent;
  for_columns(count, [=](std::int64_t c) {
    const T r = reset[c], z = update[c], n = candidate[c], g = hidden_gradient[c];
    const T before_tanh = g * (T(1) - z) * (T(1) - n * n);
    candidate_delta[c] = before_tanh;
    recurrent_delta[c] = before_tanh * r;
    reset_delta[c] = before_tanh * recurrent[c] * r * (T(1) - r);
    update_delta[c] = g * (hidden[c] - n) * z * (T(1) - z);
    hidden_gradient[c] = g * z;
  });
  T* const gradient = scratch.gradient;
  add_weight_gradient(delta, 3 * H, hidden, H, columns, gradient + gru.hidden_weight, scratch);
  add_weight_gradient(delta, 2 * H, x, gru.inputs, columns, gradient + gru.input_weight, scratch);
  add_weight_gradient(candidate_delta, H, x, gru.inputs, columns, gradient + gru.input_weight + 2 * H * gru.inputs,
                      scratch);
  add_row_sums(delta, 3 * H, columns, gradient + gru.hidden_bias);
  add_row_sums(delta, 2 * H, columns, gradient + gru.input_bias);
  add_row_sums(candidate_delta, H, columns, gradient + gru.input_bias + 2 * H);
  multiply_transposed_weight(parameters + gru.hidden_weight, 3 * H, H, delta, columns, hidden_gradient, true);
  if (input_gradient == nullptr) return;
  multiply_transposed_weight(parameters + gru.input_weight, 2 * H, gru.inputs, delta, columns, input_gradient, false);
  multiply_transposed_weight(parameters + gru.input_weight + 2 * H * gru.inputs, H, gru.inputs, candidate_delta,
                             columns, input_gradient, true);
}

}  // namespace
}  // namespace metafast
