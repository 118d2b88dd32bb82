// The distributions over actions that a policy's outputs stand for: sampling, log-probabilities, entropies and their
// gradients, on blocks of samples (columns.hpp).
//
// A distribution is [rows, columns]: the logits; or the means and then the sigmas. Actions are [action_size, columns]
// whole numbers or reals. For kernel files only: everything here has internal linkage, because each level compiles its
// own copy.
#pragma once

#include <cstdint>

#include "nn/activations.hpp"
#include "nn/columns.hpp"
#include "nn/network.hpp"

namespace metafast {
namespace {

constexpr double kHalfLogTwoPi = 0.91893853320467274178;

[[gnu::always_inline]] inline bool is_gaussian(const ActionHead& head) {
  return head.kind == Head::gaussian || head.kind == Head::squashed_gaussian;
}

// The rows of a distribution.
[[gnu::always_inline]] inline std::int64_t distribution_size(const ActionHead& head) {
  return is_gaussian(head) ? 2 * head.action_size : head.num_outputs;
}

// From the policy tower's outputs. Logits are copied.
template <class T>
void make_distribution(const ActionHead& head, const T* parameters, const T* __restrict outputs, std::int64_t columns,
                       T* __restrict distribution) {
  const std::int64_t count = head.action_size * columns;
  switch (head.kind) {
    case Head::categorical:
    case Head::bernoulli:
      return for_columns(head.num_outputs * columns, [=](std::int64_t c) { distribution[c] = outputs[c]; });
    case Head::gaussian:
      for_columns(count, [=](std::int64_t c) { distribution[c] = outputs[c]; });
      for (std::int64_t k = 0; k < head.action_size; ++k)
        fill(distribution + count + k * columns, columns, vector_exp(parameters[head.log_sigma + k]));
      return;
    case Head::squashed_gaussian:
      return for_columns(count, [=](std::int64_t c) {
        distribution[c] = network_tanh(outputs[c]);
        distribution[count + c] = softplus(outputs[count + c]) + T(kSigmaFloor);
      });
  }
}

// The largest of each column's `rows` numbers.
template <class T>
void find_largest(const T* __restrict from, std::int64_t rows, std::int64_t columns, T* __restrict largest) {
  for_columns(columns, [=](std::int64_t c) { largest[c] = from[c]; });
  for (std::int64_t row = 1; row < rows; ++row)
    for_columns(columns, [=](std::int64_t c) {
      const T candidate = from[row * columns + c];
      largest[c] = candidate > largest[c] ? candidate : largest[c];
    });
}

// From uniforms on [0, 1) or, for the Gaussian, standard normals, [action_size, columns]. Logits are left normalised, as
// by normalize_logits. `scratch` holds 3 columns, and as many again as there are outputs.
template <class T>
void sample_actions(const ActionHead& head, T* __restrict distribution, const float* __restrict noise,
                    std::int64_t columns, T* __restrict actions, T* __restrict scratch) {
  const std::int64_t count = head.action_size * columns;
  if (is_gaussian(head))
    return for_columns(count,
                       [=](std::int64_t c) { actions[c] = distribution[c] + distribution[count + c] * T(noise[c]); });
  if (head.kind == Head::bernoulli)
    return for_columns(
        count, [=](std::int64_t c) { actions[c] = T(noise[c]) < network_sigmoid(distribution[c]) ? T(1) : T(0); });
  T* const __restrict largest = scratch;
  T* const __restrict total = scratch + columns;
  T* const __restrict share = scratch + 2 * columns;
  T* const __restrict weights = scratch + 3 * columns;
  for (std::int64_t k = 0; k < head.action_size; ++k) {
    // The first choice at which the cumulative weight exceeds the share `noise` of the total. Both are summed in one
    // order, so that the share stays below the last sum, and a choice of weight 0 is never taken.
    const std::int64_t choices = head.num_choices[k];
    const float* const __restrict uniform = noise + k * columns;
    T* const __restrict action = actions + k * columns;
    find_largest(distribution, choices, columns, largest);
    fill(total, columns, T(0));
    for (std::int64_t j = 0; j < choices; ++j)
      for_columns(columns, [=](std::int64_t c) {
        const T weight = vector_exp(distribution[j * columns + c] - largest[c]);
        weights[j * columns + c] = weight;
        total[c] += weight;
      });
    for_columns(columns, [=](std::int64_t c) {
      share[c] = T(uniform[c]) * total[c];
      largest[c] += vector_log(total[c]);
      total[c] = T(0);
      action[c] = T(0);
    });
    for (std::int64_t j = 0; j < choices; ++j) {
      const bool last = j + 1 == choices;
      for_columns(columns, [=](std::int64_t c) {
        total[c] += weights[j * columns + c];
        action[c] += (share[c] >= total[c]) & !last ? T(1) : T(0);
        distribution[j * columns + c] -= largest[c];
      });
    }
    distribution += choices * columns;
  }
}

// The most probable actions.
template <class T>
void most_probable_actions(const ActionHead& head, const T* __restrict distribution, std::int64_t columns,
                           T* __restrict actions, T* __restrict scratch) {
  const std::int64_t count = head.action_size * columns;
  if (is_gaussian(head)) return for_columns(count, [=](std::int64_t c) { actions[c] = distribution[c]; });
  if (head.kind == Head::bernoulli)
    return for_columns(count, [=](std::int64_t c) { actions[c] = distribution[c] > T(0) ? T(1) : T(0); });
  T* const __restrict largest = scratch;
  for (std::int64_t k = 0; k < head.action_size; ++k) {
    T* const __restrict action = actions + k * columns;
    for_columns(columns, [=](std::int64_t c) {
      largest[c] = distribution[c];
      action[c] = T(0);
    });
    for (std::int64_t j = 1; j < head.num_choices[k]; ++j)
      for_columns(columns, [=](std::int64_t c) {
        const T logit = distribution[j * columns + c];
        action[c] = logit > largest[c] ? T(j) : action[c];
        largest[c] = logit > largest[c] ? logit : largest[c];
      });
    distribution += head.num_choices[k] * columns;
  }
}

// Subtracts from the logits of each softmax the logarithm of its normaliser, after which they are log-probabilities.
// `scratch` holds 2 columns.
template <class T>
void normalize_logits(const ActionHead& head, T* __restrict distribution, std::int64_t columns,
                      T* __restrict scratch) {
  T* const __restrict largest = scratch;
  T* const __restrict total = scratch + columns;
  for (std::int64_t k = 0; k < head.action_size; ++k) {
    const std::int64_t choices = head.num_choices[k];
    find_largest(distribution, choices, columns, largest);
    fill(total, columns, T(0));
    for (std::int64_t j = 0; j < choices; ++j)
      for_columns(columns,
                  [=](std::int64_t c) { total[c] += vector_exp(distribution[j * columns + c] - largest[c]); });
    for_columns(columns, [=](std::int64_t c) { total[c] = largest[c] + vector_log(total[c]); });
    for (std::int64_t j = 0; j < choices; ++j)
      for_columns(columns, [=](std::int64_t c) { distribution[j * columns + c] -= total[c]; });
    distribution += choices * columns;
  }
}

// Log-probabilities of the actions, summed over their components. Logits must be normalised.
template <class T>
void find_log_probs(const ActionHead& head, const T* __restrict distribution, const T* __restrict actions,
                    std::int64_t columns, T* __restrict log_probs) {
  fill(log_probs, columns, T(0));
  const std::int64_t count = head.action_size * columns;
  for (std::int64_t k = 0; k < head.action_size; ++k) {
    const T* const __restrict action = actions + k * columns;
    if (is_gaussian(head)) {
      const T* const __restrict mean = distribution + k * columns;
      for_columns(columns, [=](std::int64_t c) {
        const T sigma = mean[count + c], u = (action[c] - mean[c]) / sigma;
        log_probs[c] -= T(0.5) * u * u + vector_log(sigma) + T(kHalfLogTwoPi);
      });
    } else if (head.kind == Head::bernoulli) {
      const T* const __restrict logit = distribution + k * columns;
      for_columns(columns, [=](std::int64_t c) { log_probs[c] += action[c] * logit[c] - softplus(logit[c]); });
    } else {
      for (std::int64_t j = 0; j < head.num_choices[k]; ++j)
        for_columns(columns, [=](std::int64_t c) {
          const T log_p = distribution[j * columns + c];
          log_probs[c] += action[c] == T(j) ? log_p : T(0);
        });
      distribution += head.num_choices[k] * columns;
    }
  }
}

// p log p, which is 0 where p is.
template <class T>
METAFAST_FORMULA T times_log(T log_p) {
  const T p = vector_exp(log_p);
  return p > T(0) ? p * log_p : T(0);
}

// Entropies, summed over the components. Logits must be normalised.
template <class T>
void find_entropies(const ActionHead& head, const T* __restrict distribution, std::int64_t columns,
                    T* __restrict entropies) {
  fill(entropies, columns, T(0));
  const std::int64_t count = head.action_size * columns;
  if (head.kind == Head::categorical) {
    for (std::int64_t j = 0; j < head.num_outputs; ++j)
      for_columns(columns, [=](std::int64_t c) { entropies[c] -= times_log(distribution[j * columns + c]); });
    return;
  }
  for (std::int64_t k = 0; k < head.action_size; ++k) {
    const T* const __restrict row = distribution + k * columns;
    if (head.kind == Head::bernoulli)
      for_columns(columns, [=](std::int64_t c) { entropies[c] += softplus(row[c]) - network_sigmoid(row[c]) * row[c]; });
    else
      for_columns(columns, [=](std::int64_t c) { entropies[c] += vector_log(row[count + c]) + T(kHalfLogTwoPi + 0.5); });
  }
}

// A gradient with respect to the means and sigmas becomes one with respect to what they were made of.
template <class T>
void unmake_gaussian(const ActionHead& head, const T* __restrict distribution, const T* __restrict outputs,
                     std::int64_t columns, const T* __restrict mean_gradient, const T* __restrict sigma_gradient,
                     T* __restrict output_gradient, T* log_sigma_gradient) {
  const std::int64_t count = head.action_size * columns;
  if (head.kind == Head::squashed_gaussian)
    return for_columns(count, [=](std::int64_t c) {
      output_gradient[c] = mean_gradient[c] * (T(1) - distribution[c] * distribution[c]);
      output_gradient[count + c] = sigma_gradient[c] * network_sigmoid(outputs[count + c]);
    });
  for_columns(count, [=](std::int64_t c) {
    output_gradient[c] = mean_gradient[c];
    // By its logarithm; the sum over the columns follows.
    output_gradient[count + c] = sigma_gradient[c] * distribution[count + c];
  });
  add_row_sums(output_gradient + count, head.action_size, columns, log_sigma_gradient);
}

// The gradient of log_prob_weight[c] log pi(a_c) + entropy_weight[c] H_c with respect to the policy tower's outputs.
// `output_gradient` has distribution_size(head) rows, of which the tower's outputs are the first; that of the
// parameters log sigma is added to `gradient`. `entropies` are find_entropies'; `scratch` holds 2 rows of each action
// component and a column more.
template <class T>
void differentiate(const ActionHead& head, const T* __restrict distribution, const T* __restrict outputs,
                   const T* __restrict actions, const T* __restrict log_prob_weight,
                   const T* __restrict entropy_weight, bool with_entropy, std::int64_t columns,
                   T* __restrict output_gradient, T* gradient, T* __restrict scratch) {
  const std::int64_t count = head.action_size * columns;
  if (is_gaussian(head)) {
    for (std::int64_t k = 0; k < head.action_size; ++k) {
      const T* const __restrict mean = distribution + k * columns;
      const T* const __restrict action = actions + k * columns;
      T* const __restrict mean_gradient = scratch + k * columns;
      for_columns(columns, [=](std::int64_t c) {
        const T sigma = mean[count + c], u = (action[c] - mean[c]) / sigma;
        mean_gradient[c] = log_prob_weight[c] * u / sigma;
        mean_gradient[count + c] = (log_prob_weight[c] * (u * u - T(1)) + entropy_weight[c]) / sigma;
      });
    }
    return unmake_gaussian(head, distribution, outputs, columns, scratch, scratch + count, output_gradient,
                           gradient + head.log_sigma);
  }
  for (std::int64_t k = 0; k < head.action_size; ++k) {
    const T* const __restrict action = actions + k * columns;
    if (head.kind == Head::bernoulli) {
      const T* const __restrict logit = distribution + k * columns;
      T* const __restrict logit_gradient = output_gradient + k * columns;
      for_columns(columns, [=](std::int64_t c) {
        const T p = network_sigmoid(logit[c]);
        logit_gradient[c] = log_prob_weight[c] * (action[c] - p) - entropy_weight[c] * logit[c] * p * (T(1) - p);
      });
      continue;
    }
    const std::int64_t choices = head.num_choices[k];
    for (std::int64_t j = 0; j < choices; ++j)
      for_columns(columns, [=](std::int64_t c) {
        const T p = vector_exp(distribution[j * columns + c]);
        output_gradient[j * columns + c] = log_prob_weight[c] * ((action[c] == T(j) ? T(1) : T(0)) - p);
      });
    if (with_entropy) {
      T* const __restrict entropy = scratch;
      fill(entropy, columns, T(0));
      for (std::int64_t j = 0; j < choices; ++j)
        for_columns(columns, [=](std::int64_t c) { entropy[c] -= times_log(distribution[j * columns + c]); });
      for (std::int64_t j = 0; j < choices; ++j)
        for_columns(columns, [=](std::int64_t c) {
          const T log_p = distribution[j * columns + c], p = vector_exp(log_p);
          output_gradient[j * columns + c] -= entropy_weight[c] * (times_log(log_p) + p * entropy[c]);
        });
    }
    distribution += choices * columns;
    output_gradient += choices * columns;
  }
}

// KL(teacher || pi), and the gradient of weight[c] times it, as `differentiate` gives it. Logits of both must be
// normalised.
template <class T>
void differentiate_divergence(const ActionHead& head, const T* __restrict distribution, const T* __restrict outputs,
                              const T* __restrict teacher, const T* __restrict weight, std::int64_t columns,
                              T* __restrict divergences, T* __restrict output_gradient, T* gradient,
                              T* __restrict scratch) {
  fill(divergences, columns, T(0));
  const std::int64_t count = head.action_size * columns;
  if (head.kind == Head::categorical) {
    for (std::int64_t j = 0; j < head.num_outputs; ++j)
      for_columns(columns, [=](std::int64_t c) {
        const std::int64_t i = j * columns + c;
        const T p = vector_exp(teacher[i]), log_p = distribution[i];
        const T part = p * (teacher[i] - log_p);
        divergences[c] += p > T(0) ? part : T(0);
        output_gradient[i] = weight[c] * (vector_exp(log_p) - p);
      });
    return;
  }
  for (std::int64_t k = 0; k < head.action_size; ++k) {
    const T* const __restrict mine = distribution + k * columns;
    const T* const __restrict theirs = teacher + k * columns;
    if (head.kind == Head::bernoulli) {
      T* const __restrict logit_gradient = output_gradient + k * columns;
      for_columns(columns, [=](std::int64_t c) {
        const T p = network_sigmoid(theirs[c]);
        divergences[c] += p * (theirs[c] - mine[c]) + softplus(mine[c]) - softplus(theirs[c]);
        logit_gradient[c] = weight[c] * (network_sigmoid(mine[c]) - p);
      });
      continue;
    }
    T* const __restrict mean_gradient = scratch + k * columns;
    for_columns(columns, [=](std::int64_t c) {
      const T sigma = mine[count + c], their_sigma = theirs[count + c];
      const T difference = (mine[c] - theirs[c]) / sigma, ratio = their_sigma / sigma;
      const T square = difference * difference + ratio * ratio;
      divergences[c] += T(0.5) * (square - T(1)) - vector_log(ratio);
      mean_gradient[c] = weight[c] * difference / sigma;
      mean_gradient[count + c] = weight[c] * (T(1) - square) / sigma;
    });
  }
  if (is_gaussian(head))
    unmake_gaussian(head, distribution, outputs, columns, scratch, scratch + count, output_gradient,
                    gradient + head.log_sigma);
}

}  // namespace
}  // namespace metafast
