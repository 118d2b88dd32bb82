// The gradient of an objective over rows of experience: blocks of steps or, through time, of environments.
// For kernel files only: everything here has internal linkage, because each level compiles its own copy.
#pragma once

#include <cstdint>

#include "nn/actor_critic.hpp"
#include "nn/block_loss.hpp"
#include "nn/learning.hpp"

namespace metafast {
namespace {

// The scratch of a pass backwards, beside GradientScratch: gradients of two layers, and of the features.
template <class T>
struct BackwardMemory {
  GradientScratch<T> scratch;
  T* delta;
  T* other;
  T* features;

  BackwardMemory(const Network& network, std::int64_t columns, T* gradient, Arena<T>& arena) {
    const std::int64_t width = widest(network);
    scratch.gradient = gradient;
    scratch.transposed = arena.take(width * columns);
    scratch.product = arena.take(width * kLanes<T>);
    delta = arena.take(width * columns);
    other = arena.take(width * columns);
    features = arena.take(width * columns);
  }
  static std::int64_t size(const Network& network, std::int64_t columns) {
    return widest(network) * (4 * columns + kLanes<T>) + 5 * kColumnGroup;
  }
};

// Both heads backwards; the gradient of the features goes to `features_gradient`.
template <class T>
void run_heads_backwards(const Network& network, const T* parameters, const Pass<T>& pass, BlockLoss<T>& loss,
                         T* features_gradient, bool with_value, BackwardMemory<T>& memory) {
  memory.scratch.transposed_of = nullptr;
  const auto run = [&](const Tower& tower, std::int64_t rows, const TowerTape<T>& tape, const T* gradient,
                       bool accumulate) {
    // The tower's way back goes to and fro between two memories as wide as its widest layer.
    for (std::int64_t i = 0; i < rows * pass.columns; ++i) memory.delta[i] = gradient[i];
    run_tower_backwards(tower, rows, parameters, pass.features, pass.columns, tape, memory.delta, memory.other,
                        features_gradient, accumulate, memory.scratch);
  };
  run(network.policy, network.head.num_outputs, pass.policy, loss.output_gradient(), false);
  if (with_value) run(network.value, 1, pass.value, loss.value_gradient(), true);
}

template <class T>
void add_gradient_of_rows(const Network& network, const T* parameters, const Experience<T>& experience,
                          const Objective<T>& objective, const std::int64_t* indices, std::int64_t count,
                          std::int64_t columns, Arena<T>& arena, T* gradient, double* diagnostics) {
  Pass<T> pass;
  pass.allocate_body(network, columns, arena);
  pass.allocate_heads(network, columns, arena);
  BackwardMemory<T> memory(network, columns, gradient, arena);
  BlockLoss<T> loss(network, objective, columns, arena);
  take_observations(experience.observations, indices, count, columns, pass.observation);
  loss.take(experience, indices, count, nullptr);
  pass.run_body(network, parameters, nullptr, nullptr);
  pass.run_heads(network, parameters);
  loss.evaluate(pass, gradient);
  loss.add_sums(diagnostics);
  const bool has_trunk = network.trunk.num_layers > 0;
  run_heads_backwards(network, parameters, pass, loss, has_trunk ? memory.features : nullptr,
                      objective.value_scale != T(0), memory);
  if (has_trunk)
    run_tower_backwards(network.trunk, 0, parameters, pass.observation, columns, pass.trunk, memory.features,
                        memory.delta, static_cast<T*>(nullptr), false, memory.scratch);
}

// What is not finite in a row that does not count must not reach a weight by way of 0 times infinity.
template <class T>
void clear_unusable(const std::uint8_t* mask, const std::int64_t* rows, std::int64_t count, std::int64_t columns,
                    const Network& network, T* observation) {
  for (std::int64_t c = 0; c < count; ++c)
    for (std::int64_t k = 0; !mask[rows[c]] && k < network.observation_size; ++k) {
      T& element = observation[k * columns + c];
      element = element - element == T(0) ? element : T(0);
    }
}

// Backpropagation through time, over the starts of episodes, where the state is zeroed and no gradient passes.
template <class T>
void add_gradient_of_sequences(const Network& network, const T* parameters, const Experience<T>& experience,
                               const Objective<T>& objective, const std::int64_t* envs, std::int64_t count,
                               std::int64_t columns, Arena<T>& arena, T* gradient, double* diagnostics) {
  const std::int64_t num_steps = experience.num_steps, size = network.gru.width * columns;
  T* const states = arena.take((num_steps + 1) * size);  // before each step, zeroed where an episode starts
  T* const features_gradients = arena.take(num_steps * size);
  Pass<T> heads;
  heads.allocate_heads(network, columns, arena);
  BackwardMemory<T> memory(network, columns, gradient, arena);
  BlockLoss<T> loss(network, objective, columns, arena);
  T* const starts = arena.take(columns);
  // The bodies follow, one for each step; where they lie is a matter of counting.
  const Arena<T> bodies = arena;
  const std::int64_t body = body_size(network, columns);
  std::int64_t rows[kBlockColumns];
  const auto rows_of = [&](std::int64_t step) {
    for (std::int64_t c = 0; c < count; ++c) rows[c] = step * experience.num_envs + envs[c];
  };
  const auto pass_of = [&](std::int64_t step) {
    Arena<T> memory_of_step = bodies;
    memory_of_step.take(step * body);
    Pass<T> pass;
    pass.allocate_body(network, columns, memory_of_step);
    pass.share_heads(heads);
    return pass;
  };
  const auto clear_started = [&](std::int64_t step, T* state) {
    for (std::int64_t c = 0; c < columns; ++c)
      starts[c] = c < count && experience.starts[step * experience.num_envs + envs[c]] ? T(1) : T(0);
    const T* const __restrict started = starts;
    for (std::int64_t h = 0; h < network.gru.width; ++h) {
      T* const __restrict row = state + h * columns;
      for_columns(columns, [=](std::int64_t c) { row[c] = started[c] != T(0) ? T(0) : row[c]; });
    }
  };

  for (std::int64_t h = 0; h < network.gru.width; ++h)
    for (std::int64_t c = 0; c < columns; ++c)
      states[h * columns + c] = c < count ? experience.hidden[envs[c] * network.gru.width + h] : T(0);
  for (std::int64_t step = 0; step < num_steps; ++step) {
    rows_of(step);
    Pass<T> pass = pass_of(step);
    take_observations(experience.observations, rows, count, columns, pass.observation);
    if (experience.mask != nullptr) clear_unusable(experience.mask, rows, count, columns, network, pass.observation);
    loss.take(experience, rows, count, experience.mask);
    T* const state = states + step * size;
    clear_started(step, state);
    pass.run_body(network, parameters, state, state + size);
    pass.run_heads(network, parameters);
    loss.evaluate(pass, gradient);
    run_heads_backwards(network, parameters, pass, loss, features_gradients + step * size,
                        objective.value_scale != T(0), memory);
  }
  loss.add_sums(diagnostics);

  T* const hidden_gradient = memory.features;
  fill(hidden_gradient, size, T(0));
  const bool has_trunk = network.trunk.num_layers > 0;
  for (std::int64_t step = num_steps - 1; step >= 0; --step) {
    Pass<T> pass = pass_of(step);
    const T* const trunk_output =
        has_trunk ? pass.trunk.outputs[network.trunk.num_layers - 1] : pass.observation;
    const T* const __restrict of_step = features_gradients + step * size;
    T* const __restrict carried = hidden_gradient;
    for_columns(size, [=](std::int64_t c) { carried[c] += of_step[c]; });
    memory.scratch.transposed_of = nullptr;
    run_gru_backwards(network.gru, parameters, trunk_output, states + step * size, columns, pass.gru, hidden_gradient,
                      has_trunk ? memory.other : nullptr, memory.delta, memory.scratch);
    clear_started(step, hidden_gradient);
    if (has_trunk)
      run_tower_backwards(network.trunk, 0, parameters, pass.observation, columns, pass.trunk, memory.other,
                          memory.delta, static_cast<T*>(nullptr), false, memory.scratch);
  }
}

template <class T>
std::int64_t scratch_size(const Network& network, std::int64_t samples, std::int64_t num_steps) {
  const std::int64_t columns = padded_columns(samples < kBlockColumns ? samples : kBlockColumns);
  const std::int64_t shared = heads_size(network, columns) + BackwardMemory<T>::size(network, columns) +
                              BlockLoss<T>::size(network, columns) + kColumnGroup;
  if (network.gru.width == 0) return shared + body_size(network, columns);
  return shared + num_steps * body_size(network, columns) + (2 * num_steps + 2) * network.gru.width * columns +
         columns;
}

template <class T>
void add_gradient(const Network& network, const T* parameters, const Experience<T>& experience,
                  const Objective<T>& objective, const std::int64_t* indices, std::int64_t count, T* scratch,
                  T* gradient, double* diagnostics) {
  for (std::int64_t first = 0; first < count; first += kBlockColumns) {
    const std::int64_t samples = count - first < kBlockColumns ? count - first : kBlockColumns;
    const std::int64_t columns = padded_columns(samples);
    Arena<T> arena(scratch);
    const auto add = network.gru.width > 0 ? &add_gradient_of_sequences<T> : &add_gradient_of_rows<T>;
    add(network, parameters, experience, objective, indices + first, samples, columns, arena, gradient, diagnostics);
  }
}

template <class T>
void answer(const Network& network, const T* parameters, const Observations<T>& observations, std::int64_t count,
            T* hidden, T* scratch, T* distribution, T* values) {
  const std::int64_t width = network.gru.width, rows = distribution_size(network.head);
  for (std::int64_t first = 0; first < count; first += kBlockColumns) {
    const std::int64_t samples = count - first < kBlockColumns ? count - first : kBlockColumns;
    const std::int64_t columns = padded_columns(samples);
    Arena<T> arena(scratch);
    Pass<T> pass;
    pass.allocate_body(network, columns, arena);
    pass.allocate_heads(network, columns, arena);
    T* const from = arena.take(width * columns);
    T* const to = arena.take(width * columns);
    std::int64_t indices[kBlockColumns];
    for (std::int64_t c = 0; c < samples; ++c) indices[c] = first + c;
    take_observations(observations, indices, samples, columns, pass.observation);
    for (std::int64_t h = 0; h < width; ++h)
      for (std::int64_t c = 0; c < columns; ++c)
        from[h * columns + c] = c < samples ? hidden[(first + c) * width + h] : T(0);
    pass.run_body(network, parameters, from, to);
    pass.run_heads(network, parameters);
    for (std::int64_t c = 0; c < samples; ++c) {
      for (std::int64_t row = 0; row < rows; ++row)
        distribution[(first + c) * rows + row] = pass.distribution[row * columns + c];
      for (std::int64_t h = 0; h < width; ++h) hidden[(first + c) * width + h] = to[h * columns + c];
      values[first + c] = pass.state_value[c];
    }
  }
}

}  // namespace
}  // namespace metafast
