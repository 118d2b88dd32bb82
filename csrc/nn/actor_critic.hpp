// A whole network on one block of samples (columns.hpp): what acting and learning share.
// For kernel files only: everything here has internal linkage, because each level compiles its own copy.
#pragma once

#include <cstdint>

#include "nn/dense.hpp"
#include "nn/gru.hpp"
#include "nn/heads.hpp"
#include "nn/learning.hpp"
#include "nn/network.hpp"

namespace metafast {
namespace {

// Element by element through all rows, so that stores are whole vectors.
template <class T, class Element>
void take_elements(const Element* rows, std::int64_t size, const std::int64_t* indices, std::int64_t count,
                   std::int64_t columns, T* x) {
  for (std::int64_t k = 0; k < size; ++k) {
    T* const __restrict to = x + k * columns;
    for (std::int64_t c = 0; c < count; ++c) to[c] = static_cast<T>(rows[indices[c] * size + k]);
  }
}

// x[k][c] is element k of row indices[c]; columns from `count` on are 0.
template <class T>
void take_observations(const Observations<T>& observations, const std::int64_t* indices, std::int64_t count,
                       std::int64_t columns, T* x) {
  const std::int64_t size = observations.size;
  const auto take = [&](auto* rows) { take_elements(rows, size, indices, count, columns, x); };
  switch (observations.type) {
    case ElementType::float32: take(static_cast<const float*>(observations.rows)); break;
    case ElementType::float64: take(static_cast<const double*>(observations.rows)); break;
    case ElementType::uint8: take(static_cast<const std::uint8_t*>(observations.rows)); break;
    case ElementType::int8: take(static_cast<const std::int8_t*>(observations.rows)); break;
    case ElementType::uint16: take(static_cast<const std::uint16_t*>(observations.rows)); break;
    case ElementType::int16: take(static_cast<const std::int16_t*>(observations.rows)); break;
    case ElementType::int32: take(static_cast<const std::int32_t*>(observations.rows)); break;
    case ElementType::int64: take(static_cast<const std::int64_t*>(observations.rows)); break;
  }
  if (observations.mean != nullptr)
    for (std::int64_t k = 0; k < size; ++k) {
      const T mean = observations.mean[k], scale = observations.scale[k], limit = observations.limit;
      T* const __restrict row = x + k * columns;
      for_columns(columns, [=](std::int64_t c) {
        T value = (row[c] - mean) * scale;
        value = value > limit ? limit : value;
        row[c] = value < -limit ? -limit : value;
      });
    }
  if (count < columns)
    for (std::int64_t k = 0; k < size; ++k) fill(x + k * columns + count, columns - count, T(0));
}

// The numbers that one pass through the network makes, and backward reads.
template <class T>
struct Pass {
  std::int64_t columns;
  T* observation;
  TowerTape<T> trunk, policy, value;
  GruTape<T> gru;
  const T* hidden;  // before the step
  const T* trunk_output;
  const T* features;
  const T* outputs;  // of the policy tower
  const T* state_value;
  T* distribution;

  // What must be kept for each step of a sequence, and what each step may overwrite.
  void allocate_body(const Network& network, std::int64_t padded, Arena<T>& arena) {
    columns = padded;
    observation = arena.take(network.observation_size * columns);
    trunk.allocate(network.trunk, columns, arena);
    if (network.gru.width > 0) gru.allocate(network.gru, columns, arena);
  }
  void allocate_heads(const Network& network, std::int64_t padded, Arena<T>& arena) {
    columns = padded;
    policy.allocate(network.policy, columns, arena);
    value.allocate(network.value, columns, arena);
    distribution = arena.take(distribution_size(network.head) * columns);
  }
  void share_heads(const Pass& other) {
    policy = other.policy;
    value = other.value;
    distribution = other.distribution;
  }

  // From `observation` to `features`. A recurrent network reads `from` and writes `to`, both [width, columns].
  void run_body(const Network& network, const T* parameters, const T* from, T* to) {
    trunk_output = run_tower(network.trunk, parameters, observation, columns, trunk);
    features = trunk_output;
    if (network.gru.width == 0) return;
    hidden = from;
    run_gru(network.gru, parameters, trunk_output, from, columns, gru, to);
    features = to;
  }

  void run_heads(const Network& network, const T* parameters) {
    run_policy(network, parameters);
    run_value(network, parameters);
  }
  void run_policy(const Network& network, const T* parameters) {
    outputs = run_tower(network.policy, parameters, features, columns, policy);
    make_distribution(network.head, parameters, outputs, columns, distribution);
  }
  void run_value(const Network& network, const T* parameters) {
    state_value = run_tower(network.value, parameters, features, columns, value);
  }
};

inline std::int64_t widest(const Tower& tower, std::int64_t least) {
  for (std::int64_t k = 0; k < tower.num_layers; ++k) {
    if (tower.layers[k].outputs > least) least = tower.layers[k].outputs;
    if (tower.layers[k].inputs > least) least = tower.layers[k].inputs;
  }
  return least;
}

// No array of a block has more rows.
inline std::int64_t widest(const Network& network) {
  std::int64_t width = network.observation_size;
  width = widest(network.trunk, width);
  width = widest(network.policy, width);
  width = widest(network.value, width);
  if (4 * network.gru.width > width) width = 4 * network.gru.width;
  if (distribution_size(network.head) > width) width = distribution_size(network.head);
  return width;
}

inline std::int64_t tower_size(const Tower& tower) {
  std::int64_t rows = 0;
  for (std::int64_t k = 0; k < tower.num_layers; ++k) rows += 2 * tower.layers[k].outputs;
  return rows;
}

// Elements that allocate_body and allocate_heads take, at most.
inline std::int64_t body_size(const Network& network, std::int64_t columns) {
  return (network.observation_size + tower_size(network.trunk) + 4 * network.gru.width) * columns;
}
inline std::int64_t heads_size(const Network& network, std::int64_t columns) {
  return (tower_size(network.policy) + tower_size(network.value) + distribution_size(network.head)) * columns;
}

}  // namespace
}  // namespace metafast
