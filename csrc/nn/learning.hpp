// What a policy learns from, and the table of kernels that compute the gradient and take the step.
#pragma once

#include <cstdint>

#include "common/isa.hpp"
#include "nn/network.hpp"

namespace metafast {

enum class ElementType : std::int32_t { float32, float64, uint8, int8, uint16, int16, int32, int64 };

// Observations as an environment gives them: rows of `size` elements. Where `mean` is not null an element becomes
// (x - mean) * scale, kept within +-limit.
template <class T>
struct Observations {
  const void* rows;
  ElementType type;
  std::int64_t size;
  const T* mean;
  const T* scale;
  T limit;
};

// Row i of every array belongs to one step. Null pointers where an objective does not need an array.
template <class T>
struct Experience {
  Observations<T> observations;
  const std::int64_t* whole_actions;  // [rows, action_size], of categorical and Bernoulli policies
  const T* real_actions;              // of Gaussian ones
  const T* log_probs;                 // of the policy that acted
  const T* advantages;                // or weights
  const T* returns;
  const T* values;         // before the update, where the change of value is clipped
  const T* teacher;        // [rows, distribution_size]: normalised logits, or means and sigmas
  // Of recurrent policies, whose rows are [steps, envs]:
  std::int64_t num_steps;
  std::int64_t num_envs;
  const std::uint8_t* starts;  // 1 where a row is the first of its episode
  const std::uint8_t* mask;    // 0 where a row is no step, or null
  const T* hidden;             // [envs, width], before the first step
};

enum class Surrogate : std::int32_t {
  clipped,    // Schulman et al. 2017, eq. 7
  log_prob,   // Williams 1992: log pi(a|s) times the advantage, or weight
  divergence  // minus KL(teacher || pi) times the weight
};

// minimised: -policy_scale * sum of surrogates + value_scale * sum of squared errors - entropy_scale * sum of entropies
template <class T>
struct Objective {
  Surrogate surrogate;
  T clip;
  T value_clip;  // 0: none
  T policy_scale, value_scale, entropy_scale;
  T advantage_shift, advantage_scale;  // advantages are (a - shift) * scale
};

// Sums over samples.
enum Diagnostic { kPolicyObjective, kValueError, kEntropy, kDivergence, kClipped, kNumDiagnostics };

struct AdamOptions {
  double learning_rate, beta_1, beta_2, epsilon, weight_decay;
  bool decoupled;        // AdamW
  bool plain;            // stochastic gradient descent: no moments
  std::int64_t step;     // the number of this step, from 1
  double gradient_scale;  // what shortens a long gradient
};

template <class T>
struct LearningKernels {
  // Elements of scratch that add_gradient needs for slices of at most `samples` rows (or environments where recurrent).
  std::int64_t (*scratch_size)(const Network& network, std::int64_t samples, std::int64_t num_steps);
  // Adds to gradient [num_parameters] and diagnostics [kNumDiagnostics] what the rows `indices` (of a recurrent network:
  // the environments) contribute, in an order that depends on nothing else.
  void (*add_gradient)(const Network& network, const T* parameters, const Experience<T>& experience,
                       const Objective<T>& objective, const std::int64_t* indices, std::int64_t count, T* scratch,
                       T* gradient, double* diagnostics);
  // The network's answers to `count` rows: distribution [rows, distribution_size] and values [rows]. `hidden`, where the
  // network is recurrent, holds each row's own state [rows, width] and receives the next.
  void (*answer)(const Network& network, const T* parameters, const Observations<T>& observations, std::int64_t count,
                 T* hidden, T* scratch, T* distribution, T* values);
  // gradients [num][stride]: adds all to the first, in order, on [begin, end); returns the sum of squares there.
  double (*reduce)(T* gradients, std::int64_t num, std::int64_t stride, std::int64_t begin, std::int64_t end);
  // One step on [begin, end).
  void (*descend)(const AdamOptions& options, T* parameters, const T* gradient, T* first, T* second,
                  std::int64_t begin, std::int64_t end);
};

// Slices of add_gradient: rows, or environments of a recurrent network.
constexpr std::int64_t kSliceRows = 128;
constexpr std::int64_t kSliceEnvs = 32;

struct NnKernels {
  LearningKernels<float> float32;
  LearningKernels<double> float64;
  // noise [steps, envs, size]
  void (*fill_noise)(std::uint64_t key, std::int64_t num_steps, std::int64_t num_envs, bool normal, std::int64_t size,
                     float* noise);
};

METAFAST_DISPATCH(NnKernels, nn_kernels)

}  // namespace metafast
