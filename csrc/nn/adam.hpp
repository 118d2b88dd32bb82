// The sum of the slices' gradients, and the step along it.
// For kernel files only: everything here has internal linkage, because each level compiles its own copy.
#pragma once

#include <cstdint>

#include "nn/learning.hpp"

namespace metafast {
namespace {

template <class T>
double reduce(T* gradients, std::int64_t num, std::int64_t stride, std::int64_t begin, std::int64_t end) {
  T* const __restrict total = gradients;
  for (std::int64_t k = 1; k < num; ++k) {
    const T* const __restrict part = gradients + k * stride;
    for (std::int64_t i = begin; i < end; ++i) total[i] += part[i];
  }
  double sums[8] = {};
  std::int64_t i = begin;
  for (; i + 8 <= end; i += 8)
    for (int lane = 0; lane < 8; ++lane) sums[lane] += static_cast<double>(total[i + lane]) * total[i + lane];
  for (; i < end; ++i) sums[0] += static_cast<double>(total[i]) * total[i];
  double sum = 0;
  for (const double part : sums) sum += part;
  return sum;
}

// Kingma and Ba 2015, algorithm 1; with decoupled weight decay, Loshchilov and Hutter 2019, algorithm 2.
template <class T>
void descend(const AdamOptions& options, T* __restrict parameters, const T* __restrict gradient, T* __restrict first,
             T* __restrict second, std::int64_t begin, std::int64_t end) {
  const T gradient_scale = T(options.gradient_scale), learning_rate = T(options.learning_rate);
  const T decay = options.decoupled ? T(0) : T(options.weight_decay);
  const bool decays = decay != T(0);  // 0 times an infinite parameter would be none
  const T shrink = options.decoupled ? T(1 - options.learning_rate * options.weight_decay) : T(1);
  if (options.plain) {
    for (std::int64_t i = begin; i < end; ++i) {
      const T g = gradient[i] * gradient_scale + (decays ? decay * parameters[i] : T(0));
      parameters[i] = shrink * parameters[i] - learning_rate * g;
    }
    return;
  }
  const T beta_1 = T(options.beta_1), beta_2 = T(options.beta_2), epsilon = T(options.epsilon);
  const auto steps = static_cast<double>(options.step);
  const T step_size = T(options.learning_rate / (1 - __builtin_pow(options.beta_1, steps)));
  const T second_scale = T(1 / (1 - __builtin_pow(options.beta_2, steps)));
  for (std::int64_t i = begin; i < end; ++i) {
    const T g = gradient[i] * gradient_scale + (decays ? decay * parameters[i] : T(0));
    first[i] += (T(1) - beta_1) * (g - first[i]);
    second[i] = beta_2 * second[i] + (T(1) - beta_2) * g * g;
    const T deviation = T(__builtin_sqrt(static_cast<T>(second[i] * second_scale))) + epsilon;
    parameters[i] = shrink * parameters[i] - step_size * first[i] / deviation;
  }
}

}  // namespace
}  // namespace metafast
