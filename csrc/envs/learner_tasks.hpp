// LearnerTasks-v0: the environment is a learner, the action its update, the reward the fall in its log loss.
//
// Li and Malik (2017), Learning to Optimize, section 3: each episode draws a problem of linear or of logistic regression
// and random parameters to start from. State: float64 vectors of D = features and M = examples, in this order:
// features [M, D], targets [M], parameters [D], momentum [D], gradient [D], previous gradient [D], observation [10].
//
// Everything stays finite: parameters are kept in [-100, 100], actions in their bounds, logarithms are of 1e-12 at least.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/vector_math.hpp"
#include "envs/batch.hpp"
#include "envs/randomness.hpp"

namespace metafast {
// Internal linkage: each instruction-set level has its own copy, which the linker must not merge.
namespace {

class LearnerTasks {
 public:
  struct Parameters {
    std::int64_t classification;  // logistic regression, targets -1 and 1; else linear regression
    std::int64_t coefficients;    // three update coefficients an action; else the logarithm of a learning rate
    std::int64_t features;
    std::int64_t examples;
    std::int64_t steps;
    std::int64_t first_block;  // of the random stream: training and test problems have blocks of their own
    double noise;
    double ridge;
    double log_smallest_scale;
    double log_largest_scale;
  };

  static std::int64_t advance(const void* parameters, void* state, std::int64_t count, const void* actions,
                              const std::uint64_t*, const std::uint64_t*, const std::int32_t* elapsed_steps,
                              void* rewards, std::uint8_t* terminated) {
    const LearnerTasks tile(parameters, state);
    const auto* taken = static_cast<const float*>(actions);
    if (tile.values_.coefficients)
      tile.update_by_coefficients(taken, count);
    else
      tile.update_by_learning_rate(taken, count);
    Column* const observation = tile.observation_;
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
      observation[kProgress][i] = (elapsed_steps[i] + 1.0) / steps;
      paid[i] = static_cast<float>(-change);
    }
    for (std::int64_t i = 0; i < count; ++i) terminated[i] = elapsed_steps[i] >= tile.values_.steps - 1;
    return -1;
  }

  static std::int64_t begin(const void* parameters, void* state, const std::int32_t* indices, std::int64_t num_indices,
                            const std::uint64_t* seeds, const std::uint64_t* episodes, std::uint64_t*) {
    const LearnerTasks tile(parameters, state);
    tile.draw(indices, num_indices, seeds, episodes);
    for (int k = 0; k < kObservationSize; ++k)
      for (std::int64_t i = 0; i < num_indices; ++i) tile.observation_[k][indices[i]] = 0;
    for (std::int64_t d = 0; d < tile.values_.features; ++d)
      for (std::int64_t i = 0; i < num_indices; ++i) tile.momentum_[d][indices[i]] = tile.gradient_[d][indices[i]] = 0;
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
        rows[i * kObservationSize + k] = static_cast<float>(tile.observation_[k][i]);
    }
    return -1;
  }

 private:
  using Column = double[kTile];  // one component of the state

  // The components of the observation.
  static constexpr int kLogLoss = 0;
  static constexpr int kChange = 1;  // of the log loss, the latest first
  static constexpr int kChanges = 5;
  static constexpr int kLogGradientNorm = 6;
  static constexpr int kCosineToPrevious = 7;
  static constexpr int kCosineToMomentum = 8;
  static constexpr int kProgress = 9;
  static constexpr int kObservationSize = 10;

  static constexpr double kParameterLimit = 100;
  static constexpr double kSmallest = 1e-12;
  static constexpr double kDecay = 0.9;  // of the momentum
  static constexpr double kLog10 = 2.302585092994046;
  static constexpr double kTurn = 6.283185307179586;

  LearnerTasks(const void* parameters, void* state) {
    std::memcpy(&values_, parameters, sizeof(values_));
    features_ = static_cast<Column*>(state);
    targets_ = features_ + values_.examples * values_.features;
    parameters_ = targets_ + values_.examples;
    momentum_ = parameters_ + values_.features;
    gradient_ = momentum_ + values_.features;
    previous_gradient_ = gradient_ + values_.features;
    observation_ = previous_gradient_ + values_.features;
  }

  METAFAST_FORMULA double clip(double x, double low, double high) {
    const double above = x < low ? low : x;
    return above > high ? high : above;
  }

  void update_by_learning_rate(const float* actions, std::int64_t count) const {
    double rate[kTile];
    for (std::int64_t i = 0; i < count; ++i)
      rate[i] = vector_exp(clip(static_cast<double>(actions[i]), -4, 1) * kLog10);
    for (std::int64_t d = 0; d < values_.features; ++d) {
      for (std::int64_t i = 0; i < count; ++i) {
        momentum_[d][i] = kDecay * momentum_[d][i] + (1 - kDecay) * gradient_[d][i];
        const double moved = parameters_[d][i] - rate[i] * gradient_[d][i];
        parameters_[d][i] = clip(moved, -kParameterLimit, kParameterLimit);
      }
    }
  }

  void update_by_coefficients(const float* actions, std::int64_t count) const {
    double of_gradient[kTile], of_momentum[kTile];
    for (std::int64_t i = 0; i < count; ++i) {
      const double inverse_norm = vector_exp(-observation_[kLogGradientNorm][i]);
      of_gradient[i] = clip(static_cast<double>(actions[3 * i]), -1, 1) +
                       clip(static_cast<double>(actions[3 * i + 2]), -1, 1) * inverse_norm;
      of_momentum[i] = clip(static_cast<double>(actions[3 * i + 1]), -1, 1);
    }
    for (std::int64_t d = 0; d < values_.features; ++d) {
      for (std::int64_t i = 0; i < count; ++i) {
        momentum_[d][i] = kDecay * momentum_[d][i] + (1 - kDecay) * gradient_[d][i];
        const double moved =
            parameters_[d][i] - (of_gradient[i] * gradient_[d][i] + of_momentum[i] * momentum_[d][i]);
        parameters_[d][i] = clip(moved, -kParameterLimit, kParameterLimit);
      }
    }
  }

  // Sets gradient, previous gradient and the observation's loss and gradient statistics at the parameters of the
  // environments place(0) to place(count - 1).
  template <class Place>
  void evaluate(std::int64_t count, const Place& place) const {
    const std::int64_t num_features = values_.features;
    double loss[kTile] = {};
    for (std::int64_t d = 0; d < num_features; ++d) {
      for (std::int64_t k = 0; k < count; ++k) {
        previous_gradient_[d][place(k)] = gradient_[d][place(k)];
        gradient_[d][place(k)] = 0;
      }
    }
    for (std::int64_t m = 0; m < values_.examples; ++m) {
      const Column* const example = features_ + m * num_features;
      double slope[kTile] = {};  // first the prediction, then the loss's derivative by it
      for (std::int64_t d = 0; d < num_features; ++d)
        for (std::int64_t k = 0; k < count; ++k) slope[k] += example[d][place(k)] * parameters_[d][place(k)];
      if (values_.classification) {
        for (std::int64_t k = 0; k < count; ++k) {
          const double target = targets_[m][place(k)];
          const double margin = target * slope[k];
          const double power = vector_exp(margin < 0 ? margin : -margin);
          loss[k] += (margin < 0 ? -margin : 0.0) + vector_log(1 + power);
          slope[k] = -target * ((margin < 0 ? 1.0 : power) / (1 + power));
        }
      } else {
        for (std::int64_t k = 0; k < count; ++k) {
          slope[k] -= targets_[m][place(k)];
          loss[k] += 0.5 * slope[k] * slope[k];
        }
      }
      for (std::int64_t d = 0; d < num_features; ++d)
        for (std::int64_t k = 0; k < count; ++k) gradient_[d][place(k)] += slope[k] * example[d][place(k)];
    }
    finish(loss, count, place);
  }

  template <class Place>
  void finish(double (&loss)[kTile], std::int64_t count, const Place& place) const {
    const auto num_examples = static_cast<double>(values_.examples);
    double square[kTile] = {}, previous_square[kTile] = {}, momentum_square[kTile] = {};
    double by_previous[kTile] = {}, by_momentum[kTile] = {};
    for (std::int64_t k = 0; k < count; ++k) loss[k] /= num_examples;
    for (std::int64_t d = 0; d < values_.features; ++d) {
      for (std::int64_t k = 0; k < count; ++k) {
        const std::int64_t i = place(k);
        const double weight = parameters_[d][i];
        const double slope = gradient_[d][i] / num_examples + values_.ridge * weight;
        gradient_[d][i] = slope;
        loss[k] += 0.5 * values_.ridge * weight * weight;
        square[k] += slope * slope;
        previous_square[k] += previous_gradient_[d][i] * previous_gradient_[d][i];
        momentum_square[k] += momentum_[d][i] * momentum_[d][i];
        by_previous[k] += slope * previous_gradient_[d][i];
        by_momentum[k] += slope * momentum_[d][i];
      }
    }
    for (std::int64_t k = 0; k < count; ++k) {
      const std::int64_t i = place(k);
      const double norm = __builtin_sqrt(square[k]);
      const double norms = norm * __builtin_sqrt(previous_square[k]);
      const double momentum_norms = norm * __builtin_sqrt(momentum_square[k]);
      observation_[kLogLoss][i] = vector_log(loss[k] < kSmallest ? kSmallest : loss[k]);
      observation_[kLogGradientNorm][i] = vector_log(norm < kSmallest ? kSmallest : norm);
      observation_[kCosineToPrevious][i] = by_previous[k] / (norms < kSmallest ? kSmallest : norms);
      observation_[kCosineToMomentum][i] = by_momentum[k] / (momentum_norms < kSmallest ? kSmallest : momentum_norms);
    }
  }

  // Draws the problem and the first parameters. The standard normal numbers of the features, the noise of the targets,
  // the first parameters and the true ones come in this order, two from a block; then, two from a block again, the
  // uniform numbers of the features' scales.
  void draw(const std::int32_t* indices, std::int64_t count, const std::uint64_t* seeds,
            const std::uint64_t* episodes) const {
    std::uint64_t seed[kTile], episode[kTile];
    for (std::int64_t k = 0; k < count; ++k) {
      seed[k] = seeds[indices[k]];
      episode[k] = episodes[indices[k]] - 1;
    }
    const std::int64_t num_features = values_.features;
    const std::int64_t num_normals = (values_.features + 1) * values_.examples + 2 * values_.features;
    auto block = static_cast<std::uint32_t>(values_.first_block);
    double first[kTile], second[kTile];
    // The true parameters stand in the momentum's place until the targets are made.
    for (std::int64_t number = 0; number < num_normals; number += 2, ++block) {
      for (std::int64_t k = 0; k < count; ++k) {
        uniform_pair(seed[k], episode[k], 0, block, first[k], second[k]);
        const double radius = __builtin_sqrt(-2 * vector_log(1 - first[k]));
        double sine, cosine;
        vector_sincos(kTurn * second[k], sine, cosine);
        first[k] = radius * cosine;
        second[k] = radius * sine;
      }
      for (std::int64_t k = 0; k < count; ++k) features_[number][indices[k]] = first[k];
      if (number + 1 < num_normals)
        for (std::int64_t k = 0; k < count; ++k) features_[number + 1][indices[k]] = second[k];
    }
    const double range = values_.log_largest_scale - values_.log_smallest_scale;
    for (std::int64_t d = 0; d < num_features; d += 2, ++block) {
      for (std::int64_t k = 0; k < count; ++k) {
        uniform_pair(seed[k], episode[k], 0, block, first[k], second[k]);
        first[k] = vector_exp(values_.log_smallest_scale + range * first[k]);
        second[k] = vector_exp(values_.log_smallest_scale + range * second[k]);
      }
      for (std::int64_t m = 0; m < values_.examples; ++m) {
        Column* const example = features_ + m * num_features;
        for (std::int64_t k = 0; k < count; ++k) example[d][indices[k]] *= first[k];
        if (d + 1 < num_features)
          for (std::int64_t k = 0; k < count; ++k) example[d + 1][indices[k]] *= second[k];
      }
    }
    for (std::int64_t m = 0; m < values_.examples; ++m) {
      const Column* const example = features_ + m * num_features;
      for (std::int64_t k = 0; k < count; ++k) targets_[m][indices[k]] *= values_.noise;
      for (std::int64_t d = 0; d < num_features; ++d)
        for (std::int64_t k = 0; k < count; ++k)
          targets_[m][indices[k]] += example[d][indices[k]] * momentum_[d][indices[k]];
      if (values_.classification)
        for (std::int64_t k = 0; k < count; ++k) targets_[m][indices[k]] = targets_[m][indices[k]] < 0 ? -1.0 : 1.0;
    }
  }

  Parameters values_;
  Column* features_;
  Column* targets_;
  Column* parameters_;
  Column* momentum_;
  Column* gradient_;
  Column* previous_gradient_;
  Column* observation_;
};

}  // namespace
}  // namespace metafast
