// The phases of LearnerTasks-v0 (learner_rules.hpp) on the CPU, a tile at a time.
#pragma once

#include <cstdint>
#include <cstring>

#include "envs/batch.hpp"
#include "envs/learner_rules.hpp"

namespace metafast {
// Internal linkage: each instruction-set level has its own copy, which the linker must not merge.
namespace {

class LearnerTasks : LearnerRules {
 public:
  static std::int64_t advance(const void* parameters, void* state, std::int64_t count, const void* actions,
                              const std::uint64_t*, const std::uint64_t*, const std::int32_t* elapsed_steps,
                              void* rewards, std::uint8_t* terminated) {
    const LearnerTasks tile(parameters, state);
    const auto* taken = static_cast<const float*>(actions);
    if (tile.values_.coefficients)
      tile.update_by_coefficients(taken, count);
    else
      tile.update_by_learning_rate(taken, count);
    Column* const observation = tile.state_.observation;
    double earlier[kTile];
    for (std::int64_t i = 0; i < count; ++i) earlier[i] = observation[kLogLoss][i];
    tile.evaluate(count, [](std::int64_t k) { return k; });
    auto* paid = static_cast<float*>(rewards);
    const auto steps = static_cast<double>(tile.values_.steps);
    for (int k = kChanges - 1; k > 0; --k)
      for (std::int64_t i = 0; i < count; ++i) observation[kChange + k][i] = observation[kChange + k - 1][i];
    for (std::int64_t i = 0; i < count; ++i) {
      const double change = observation[kLogLoss][i] - earlier[i];
      observation[kChange][i] = change;
      observation[kProgress][i] = progress(elapsed_steps[i], steps);
      paid[i] = static_cast<float>(-change);
    }
    for (std::int64_t i = 0; i < count; ++i) terminated[i] = is_last(elapsed_steps[i], tile.values_.steps);
    return -1;
  }

  static std::int64_t begin(const void* parameters, void* state, const std::int32_t* indices, std::int64_t num_indices,
                            const std::uint64_t* seeds, const std::uint64_t* episodes, std::uint64_t*) {
    const LearnerTasks tile(parameters, state);
    const TileState& at = tile.state_;
    tile.draw(indices, num_indices, seeds, episodes);
    for (int k = 0; k < kObservationSize; ++k)
      for (std::int64_t i = 0; i < num_indices; ++i) at.observation[k][indices[i]] = 0;
    for (std::int64_t d = 0; d < tile.values_.features; ++d)
      for (std::int64_t i = 0; i < num_indices; ++i) at.momentum[d][indices[i]] = at.gradient[d][indices[i]] = 0;
    tile.evaluate(num_indices, [indices](std::int64_t k) { return indices[k]; });
    return -1;
  }

  static std::int64_t observe(const void* parameters, const void* state, std::int64_t count,
                              const std::int32_t* indices, std::int64_t num_indices, void* observations) {
    const LearnerTasks tile(parameters, const_cast<void*>(state));
    auto* rows = static_cast<float*>(observations);
    const std::int64_t num_rows = num_indices < 0 ? count : num_indices;
    for (std::int64_t r = 0; r < num_rows; ++r) {
      const std::int64_t i = num_indices < 0 ? r : indices[r];
      for (int k = 0; k < kObservationSize; ++k)
        rows[i * kObservationSize + k] = static_cast<float>(tile.state_.observation[k][i]);
    }
    return -1;
  }

 private:
  LearnerTasks(const void* parameters, void* state) {
    std::memcpy(&values_, parameters, sizeof(values_));
    state_ = tile_state_at(values_, static_cast<std::byte*>(state));
  }

  void update_by_learning_rate(const float* actions, std::int64_t count) const {
    const TileState& at = state_;
    double rate[kTile];
    for (std::int64_t i = 0; i < count; ++i) rate[i] = learning_rate(actions[i]);
    for (std::int64_t d = 0; d < values_.features; ++d) {
      for (std::int64_t i = 0; i < count; ++i) {
        at.momentum[d][i] = next_momentum(at.momentum[d][i], at.gradient[d][i]);
        at.parameters[d][i] = next_parameter(at.parameters[d][i], rate[i] * at.gradient[d][i]);
      }
    }
  }

  void update_by_coefficients(const float* actions, std::int64_t count) const {
    const TileState& at = state_;
    double of_gradient[kTile], of_momentum[kTile];
    for (std::int64_t i = 0; i < count; ++i)
      coefficients(actions + 3 * i, at.observation[kLogGradientNorm][i], of_gradient[i], of_momentum[i]);
    for (std::int64_t d = 0; d < values_.features; ++d) {
      for (std::int64_t i = 0; i < count; ++i) {
        at.momentum[d][i] = next_momentum(at.momentum[d][i], at.gradient[d][i]);
        const double change = of_gradient[i] * at.gradient[d][i] + of_momentum[i] * at.momentum[d][i];
        at.parameters[d][i] = next_parameter(at.parameters[d][i], change);
      }
    }
  }

  // Sets gradient, previous gradient and the observation's loss and gradient statistics at the parameters of the
  // environments place(0) to place(count - 1).
  template <class Place>
  void evaluate(std::int64_t count, const Place& place) const {
    const TileState& at = state_;
    const std::int64_t num_features = values_.features;
    double loss[kTile] = {};
    for (std::int64_t d = 0; d < num_features; ++d) {
      for (std::int64_t k = 0; k < count; ++k) {
        at.previous_gradient[d][place(k)] = at.gradient[d][place(k)];
        at.gradient[d][place(k)] = 0;
      }
    }
    for (std::int64_t m = 0; m < values_.examples; ++m) {
      const Column* const example = at.features + m * num_features;
      double slope[kTile] = {};  // first the prediction, then the loss's derivative by it
      for (std::int64_t d = 0; d < num_features; ++d)
        for (std::int64_t k = 0; k < count; ++k) slope[k] += example[d][place(k)] * at.parameters[d][place(k)];
      if (values_.classification)
        for (std::int64_t k = 0; k < count; ++k) loss[k] += logistic_loss(at.targets[m][place(k)], slope[k]);
      else
        for (std::int64_t k = 0; k < count; ++k) loss[k] += squared_loss(at.targets[m][place(k)], slope[k]);
      for (std::int64_t d = 0; d < num_features; ++d)
        for (std::int64_t k = 0; k < count; ++k) at.gradient[d][place(k)] += slope[k] * example[d][place(k)];
    }
    finish(loss, count, place);
  }

  template <class Place>
  void finish(double (&loss)[kTile], std::int64_t count, const Place& place) const {
    const TileState& at = state_;
    const auto num_examples = static_cast<double>(values_.examples);
    double square[kTile] = {}, previous_square[kTile] = {}, momentum_square[kTile] = {};
    double by_previous[kTile] = {}, by_momentum[kTile] = {};
    for (std::int64_t k = 0; k < count; ++k) loss[k] /= num_examples;
    for (std::int64_t d = 0; d < values_.features; ++d) {
      for (std::int64_t k = 0; k < count; ++k) {
        const std::int64_t i = place(k);
        const double slope =
            mean_with_ridge(at.gradient[d][i], num_examples, values_.ridge, at.parameters[d][i], loss[k]);
        at.gradient[d][i] = slope;
        square[k] += slope * slope;
        previous_square[k] += at.previous_gradient[d][i] * at.previous_gradient[d][i];
        momentum_square[k] += at.momentum[d][i] * at.momentum[d][i];
        by_previous[k] += slope * at.previous_gradient[d][i];
        by_momentum[k] += slope * at.momentum[d][i];
      }
    }
    for (std::int64_t k = 0; k < count; ++k) {
      const std::int64_t i = place(k);
      const double norm = __builtin_sqrt(square[k]);
      at.observation[kLogLoss][i] = log_of(loss[k]);
      at.observation[kLogGradientNorm][i] = log_of(norm);
      at.observation[kCosineToPrevious][i] = cosine(by_previous[k], norm, previous_square[k]);
      at.observation[kCosineToMomentum][i] = cosine(by_momentum[k], norm, momentum_square[k]);
    }
  }

  // Draws the problem and the first parameters.
  void draw(const std::int32_t* indices, std::int64_t count, const std::uint64_t* seeds,
            const std::uint64_t* episodes) const {
    const TileState& at = state_;
    std::uint64_t seed[kTile], episode[kTile];
    for (std::int64_t k = 0; k < count; ++k) {
      seed[k] = seeds[indices[k]];
      episode[k] = episodes[indices[k]] - 1;
    }
    const std::int64_t num_features = values_.features;
    const std::int64_t count_of_normals = num_normals(values_);
    auto block = static_cast<std::uint32_t>(values_.first_block);
    double first[kTile], second[kTile];
    for (std::int64_t number = 0; number < count_of_normals; number += 2, ++block) {
      for (std::int64_t k = 0; k < count; ++k) normal_pair(seed[k], episode[k], block, first[k], second[k]);
      for (std::int64_t k = 0; k < count; ++k) at.features[number][indices[k]] = first[k];
      if (number + 1 < count_of_normals)
        for (std::int64_t k = 0; k < count; ++k) at.features[number + 1][indices[k]] = second[k];
    }
    for (std::int64_t d = 0; d < num_features; d += 2, ++block) {
      for (std::int64_t k = 0; k < count; ++k) scale_pair(values_, seed[k], episode[k], block, first[k], second[k]);
      for (std::int64_t m = 0; m < values_.examples; ++m) {
        Column* const example = at.features + m * num_features;
        for (std::int64_t k = 0; k < count; ++k) example[d][indices[k]] *= first[k];
        if (d + 1 < num_features)
          for (std::int64_t k = 0; k < count; ++k) example[d + 1][indices[k]] *= second[k];
      }
    }
    for (std::int64_t m = 0; m < values_.examples; ++m) {
      const Column* const example = at.features + m * num_features;
      for (std::int64_t k = 0; k < count; ++k) at.targets[m][indices[k]] *= values_.noise;
      for (std::int64_t d = 0; d < num_features; ++d)
        for (std::int64_t k = 0; k < count; ++k)
          at.targets[m][indices[k]] += example[d][indices[k]] * at.momentum[d][indices[k]];
      if (values_.classification)
        for (std::int64_t k = 0; k < count; ++k) at.targets[m][indices[k]] = label(at.targets[m][indices[k]]);
    }
  }

  Parameters values_;
  TileState state_;
};

}  // namespace
}  // namespace metafast
