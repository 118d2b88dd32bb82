// LearnerTasks-v0 (learner_rules.hpp) on the device: one environment, by one thread.
//
// Neighbouring threads read neighbouring numbers of every component. Memory is the limit: a step reads the features and
// the targets once, where the sums over the examples fit the registers.
#pragma once

#include <cstdint>

#include "envs/device_phases.cuh"
#include "envs/learner_rules.hpp"

namespace metafast {

struct DeviceLearner {
  using Rules = LearnerRules;
  using Parameters = Rules::Parameters;
  using Action = float;
  static constexpr bool kBegunByWarp = false;

  METAFAST_FORMULA int action_size(const Parameters& values) { return values.coefficients ? 3 : 1; }
  METAFAST_FORMULA int observation_size(const Parameters&) { return Rules::kObservationSize; }

  METAFAST_FORMULA void advance(const Parameters& values, const EnvironmentPlace& place, const Action* action,
                                float& reward, bool& terminated) {
    const Rules::TileState at = Rules::tile_state_at(values, place.state);
    const int i = place.index;
    update(values, at, i, action);
    const double earlier = at.observation[Rules::kLogLoss][i];
    evaluate(values, at, i);
    for (int k = Rules::kChange + Rules::kChanges - 1; k > Rules::kChange; --k)
      at.observation[k][i] = at.observation[k - 1][i];
    const double change = at.observation[Rules::kLogLoss][i] - earlier;
    at.observation[Rules::kChange][i] = change;
    at.observation[Rules::kProgress][i] = Rules::progress(place.elapsed_steps, static_cast<double>(values.steps));
    reward = static_cast<float>(-change);
    terminated = Rules::is_last(place.elapsed_steps, values.steps);
  }

  METAFAST_FORMULA void begin(const Parameters& values, const EnvironmentPlace& place) {
    const Rules::TileState at = Rules::tile_state_at(values, place.state);
    const int i = place.index;
    draw(values, place.seed, place.episode, at, i);
    for (int k = 0; k < Rules::kObservationSize; ++k) at.observation[k][i] = 0;
    for (std::int64_t d = 0; d < values.features; ++d) at.momentum[d][i] = at.gradient[d][i] = 0;
    evaluate(values, at, i);
  }

  METAFAST_FORMULA void observe(const Parameters& values, const EnvironmentPlace& place, float* observation) {
    const Rules::TileState at = Rules::tile_state_at(values, place.state);
    for (int k = 0; k < Rules::kObservationSize; ++k)
      observation[k] = static_cast<float>(at.observation[k][place.index]);
  }

 private:
  static constexpr int kInRegisters = 8;  // features

  METAFAST_FORMULA void update(const Parameters& values, const Rules::TileState& at, int i, const Action* action) {
    double of_gradient, of_momentum = 0;
    if (values.coefficients)
      Rules::coefficients(action, at.observation[Rules::kLogGradientNorm][i], of_gradient, of_momentum);
    else
      of_gradient = Rules::learning_rate(*action);
    for (std::int64_t d = 0; d < values.features; ++d) {
      const double gradient = at.gradient[d][i];
      const double momentum = Rules::next_momentum(at.momentum[d][i], gradient);
      double change = of_gradient * gradient;
      if (values.coefficients) change += of_momentum * momentum;
      at.momentum[d][i] = momentum;
      at.parameters[d][i] = Rules::next_parameter(at.parameters[d][i], change);
    }
  }

  // As LearnerTasks::evaluate.
  METAFAST_FORMULA void evaluate(const Parameters& values, const Rules::TileState& at, int i) {
    double loss;
    if (values.features <= kInRegisters)
      loss = sum_in_registers(values, at, i);
    else
      loss = sum_in_memory(values, at, i);
    finish(values, at, i, loss);
  }

  METAFAST_FORMULA double loss_of(const Parameters& values, double target, double& prediction) {
    return values.classification ? Rules::logistic_loss(target, prediction) : Rules::squared_loss(target, prediction);
  }

  // Sums the losses and, into the gradient, their derivatives; what the gradient was is then the previous one.
  METAFAST_FORMULA double sum_in_registers(const Parameters& values, const Rules::TileState& at, int i) {
    const int num_features = static_cast<int>(values.features);
    double parameters[kInRegisters], gradient[kInRegisters] = {}, loss = 0;
#pragma unroll
    for (int d = 0; d < kInRegisters; ++d) parameters[d] = d < num_features ? at.parameters[d][i] : 0.0;
    const Rules::Column* example = at.features;
    for (std::int64_t m = 0; m < values.examples; ++m, example += num_features) {
      double features[kInRegisters], slope = 0;
#pragma unroll
      for (int d = 0; d < kInRegisters; ++d) features[d] = d < num_features ? example[d][i] : 0.0;
#pragma unroll
      for (int d = 0; d < kInRegisters; ++d) slope += features[d] * parameters[d];
      loss += loss_of(values, at.targets[m][i], slope);
#pragma unroll
      for (int d = 0; d < kInRegisters; ++d) gradient[d] += slope * features[d];
    }
#pragma unroll
    for (int d = 0; d < kInRegisters; ++d) {
      if (d >= num_features) break;
      at.previous_gradient[d][i] = at.gradient[d][i];
      at.gradient[d][i] = gradient[d];
    }
    return loss;
  }

  METAFAST_FORMULA double sum_in_memory(const Parameters& values, const Rules::TileState& at, int i) {
    double loss = 0;
    for (std::int64_t d = 0; d < values.features; ++d) {
      at.previous_gradient[d][i] = at.gradient[d][i];
      at.gradient[d][i] = 0;
    }
    const Rules::Column* example = at.features;
    for (std::int64_t m = 0; m < values.examples; ++m, example += values.features) {
      double slope = 0;
      for (std::int64_t d = 0; d < values.features; ++d) slope += example[d][i] * at.parameters[d][i];
      loss += loss_of(values, at.targets[m][i], slope);
      for (std::int64_t d = 0; d < values.features; ++d) at.gradient[d][i] += slope * example[d][i];
    }
    return loss;
  }

  METAFAST_FORMULA void finish(const Parameters& values, const Rules::TileState& at, int i, double loss) {
    const auto num_examples = static_cast<double>(values.examples);
    double square = 0, previous_square = 0, momentum_square = 0, by_previous = 0, by_momentum = 0;
    loss /= num_examples;
    for (std::int64_t d = 0; d < values.features; ++d) {
      const double previous = at.previous_gradient[d][i], momentum = at.momentum[d][i];
      const double slope =
          Rules::mean_with_ridge(at.gradient[d][i], num_examples, values.ridge, at.parameters[d][i], loss);
      at.gradient[d][i] = slope;
      square += slope * slope;
      previous_square += previous * previous;
      momentum_square += momentum * momentum;
      by_previous += slope * previous;
      by_momentum += slope * momentum;
    }
    const double norm = __builtin_sqrt(square);
    at.observation[Rules::kLogLoss][i] = Rules::log_of(loss);
    at.observation[Rules::kLogGradientNorm][i] = Rules::log_of(norm);
    at.observation[Rules::kCosineToPrevious][i] = Rules::cosine(by_previous, norm, previous_square);
    at.observation[Rules::kCosineToMomentum][i] = Rules::cosine(by_momentum, norm, momentum_square);
  }

  METAFAST_FORMULA void draw(const Parameters& values, std::uint64_t seed, std::uint64_t episode,
                             const Rules::TileState& at, int i) {
    const std::int64_t num_normals = Rules::num_normals(values);
    auto block = static_cast<std::uint32_t>(values.first_block);
    double first, second;
    for (std::int64_t number = 0; number < num_normals; number += 2, ++block) {
      Rules::normal_pair(seed, episode, block, first, second);
      at.features[number][i] = first;
      if (number + 1 < num_normals) at.features[number + 1][i] = second;
    }
    for (std::int64_t d = 0; d < values.features; d += 2, ++block) {
      Rules::scale_pair(values, seed, episode, block, first, second);
      for (std::int64_t m = 0; m < values.examples; ++m) {
        Rules::Column* const example = at.features + m * values.features;
        example[d][i] *= first;
        if (d + 1 < values.features) example[d + 1][i] *= second;
      }
    }
    for (std::int64_t m = 0; m < values.examples; ++m) {
      const Rules::Column* const example = at.features + m * values.features;
      double target = at.targets[m][i] * values.noise;
      for (std::int64_t d = 0; d < values.features; ++d) target += example[d][i] * at.momentum[d][i];
      at.targets[m][i] = values.classification ? Rules::label(target) : target;
    }
  }
};

}  // namespace metafast
