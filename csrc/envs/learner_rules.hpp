// LearnerTasks-v0: the environment is a learner, the action its update, the reward the fall in its log loss.
//
// Li and Malik (2017), Learning to Optimize, section 3: each episode draws a problem of linear or of logistic
// regression and random parameters to start from. State: float64 vectors of D = features and M = examples, in this
// order: features [M, D], targets [M], parameters [D], momentum [D], gradient [D], previous gradient [D],
// observation [10].
//
// Everything stays finite: parameters are kept in [-100, 100], actions in their bounds, logarithms are of at least
// 1e-12.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/host_device.hpp"
#include "common/vector_math.hpp"
#include "envs/batch.hpp"
#include "envs/randomness.hpp"

namespace metafast {

struct LearnerRules {
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

  using Column = double[kTile];  // one component of the state

  struct TileState {
    Column* features;
    Column* targets;
    Column* parameters;
    Column* momentum;
    Column* gradient;
    Column* previous_gradient;
    Column* observation;
  };

  METAFAST_FORMULA TileState tile_state_at(const Parameters& values, std::byte* state) {
    auto* const features = reinterpret_cast<Column*>(state);
    Column* const targets = features + values.examples * values.features;
    Column* const parameters = targets + values.examples;
    return {features,
            targets,
            parameters,
            parameters + values.features,
            parameters + 2 * values.features,
            parameters + 3 * values.features,
            parameters + 4 * values.features};
  }

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

  METAFAST_FORMULA double clip(double x, double low, double high) {
    const double above = x < low ? low : x;
    return above > high ? high : above;
  }

  // The update. Its change is learning_rate times the gradient, or the sum of both coefficients' products, in which the
  // momentum is the new one.

  METAFAST_FORMULA double learning_rate(float action) {
    return vector_exp(clip(static_cast<double>(action), -4, 1) * kLog10);
  }

  METAFAST_FORMULA void coefficients(const float* action, double log_gradient_norm, double& of_gradient,
                                     double& of_momentum) {
    const double inverse_norm = vector_exp(-log_gradient_norm);
    of_gradient =
        clip(static_cast<double>(action[0]), -1, 1) + clip(static_cast<double>(action[2]), -1, 1) * inverse_norm;
    of_momentum = clip(static_cast<double>(action[1]), -1, 1);
  }

  METAFAST_FORMULA double next_momentum(double momentum, double gradient) {
    return kDecay * momentum + (1 - kDecay) * gradient;
  }

  METAFAST_FORMULA double next_parameter(double parameter, double change) {
    return clip(parameter - change, -kParameterLimit, kParameterLimit);
  }

  // An example's loss; `prediction` becomes the loss's derivative by it.

  METAFAST_FORMULA double logistic_loss(double target, double& prediction) {
    const double margin = target * prediction;
    const double power = vector_exp(margin < 0 ? margin : -margin);
    prediction = -target * ((margin < 0 ? 1.0 : power) / (1 + power));
    return (margin < 0 ? -margin : 0.0) + vector_log(1 + power);
  }

  METAFAST_FORMULA double squared_loss(double target, double& prediction) {
    prediction -= target;
    return 0.5 * prediction * prediction;
  }

  // From the sum over the examples to the gradient's component for one parameter; the loss gets the ridge's part.
  METAFAST_FORMULA double mean_with_ridge(double sum, double num_examples, double ridge, double parameter,
                                          double& loss) {
    loss += 0.5 * ridge * parameter * parameter;
    return sum / num_examples + ridge * parameter;
  }

  METAFAST_FORMULA double log_of(double x) { return vector_log(x < kSmallest ? kSmallest : x); }

  METAFAST_FORMULA double cosine(double product, double norm, double other_square) {
    const double norms = norm * __builtin_sqrt(other_square);
    return product / (norms < kSmallest ? kSmallest : norms);
  }

  METAFAST_FORMULA double progress(std::int32_t elapsed_steps, double steps) { return (elapsed_steps + 1.0) / steps; }

  METAFAST_FORMULA bool is_last(std::int32_t elapsed_steps, std::int64_t steps) { return elapsed_steps >= steps - 1; }

  // The problem. The standard normal numbers of the features, the noise of the targets, the first parameters and the
  // true ones come in this order, two from a block; then, two from a block again, the uniform numbers of the features'
  // scales. It is the state's order too: the true parameters stand in the momentum's place until the targets are made.

  METAFAST_FORMULA std::int64_t num_normals(const Parameters& values) {
    return (values.features + 1) * values.examples + 2 * values.features;
  }

  METAFAST_FORMULA void normal_pair(std::uint64_t seed, std::uint64_t episode, std::uint32_t block, double& first,
                                    double& second) {
    uniform_pair(seed, episode, 0, block, first, second);
    const double radius = __builtin_sqrt(-2 * vector_log(1 - first));
    double sine, cosine;
    vector_sincos(kTurn * second, sine, cosine);
    first = radius * cosine;
    second = radius * sine;
  }

  METAFAST_FORMULA void scale_pair(const Parameters& values, std::uint64_t seed, std::uint64_t episode,
                                   std::uint32_t block, double& first, double& second) {
    const double range = values.log_largest_scale - values.log_smallest_scale;
    uniform_pair(seed, episode, 0, block, first, second);
    first = vector_exp(values.log_smallest_scale + range * first);
    second = vector_exp(values.log_smallest_scale + range * second);
  }

  METAFAST_FORMULA double label(double target) { return target < 0 ? -1.0 : 1.0; }
};

}  // namespace metafast
