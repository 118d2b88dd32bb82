// The gradient of an objective over rows of experience, and Adam.
// For kernel files only: everything here has internal linkage, because each level compiles its own copy.
#pragma once

#include <cstdint>

#include "nn/actor_critic.hpp"
#include "nn/learning.hpp"

namespace metafast {
namespace {

// The columns of one block that the objective reads, and what it makes of them.
template <class T>
class BlockLoss {
 public:
  BlockLoss(const Network& network, const Objective<T>& objective, std::int64_t columns, Arena<T>& arena)
      : network_(network), objective_(objective), columns_(columns) {
    const std::int64_t action_rows = network.head.action_size, rows = distribution_size(network.head);
    actions_ = arena.take(action_rows * columns);
    teacher_ = arena.take(rows * columns);
    scratch_ = arena.take((2 * action_rows + 3) * columns);
    for (T** column : {&weight_, &old_log_prob_, &advantage_, &return_, &old_value_, &log_prob_, &entropy_,
                       &policy_weight_, &entropy_weight_, &value_gradient_})
      *column = arena.take(columns);
    sums_ = arena.take(kNumDiagnostics * columns);
    fill(sums_, kNumDiagnostics * columns, T(0));
    output_gradient_ = arena.take(rows * columns);
  }

  static std::int64_t size(const Network& network, std::int64_t columns) {
    return (3 * network.head.action_size + 2 * distribution_size(network.head) + 13 + kNumDiagnostics) * columns +
           kColumnGroup;
  }

  // Gathers rows; weight 0 where `mask` is.
  void take(const Experience<T>& experience, const std::int64_t* rows, std::int64_t count,
            const std::uint8_t* mask) {
    for (std::int64_t c = 0; c < columns_; ++c) weight_[c] = c < count && (mask == nullptr || mask[rows[c]]) ? 1 : 0;
    const auto take_column = [&](const T* from, T* to) {
      for (std::int64_t c = 0; c < columns_; ++c) to[c] = from != nullptr && weight_[c] != T(0) ? from[rows[c]] : T(0);
    };
    take_column(experience.log_probs, old_log_prob_);
    take_column(experience.returns, return_);
    take_column(experience.values, old_value_);
    for (std::int64_t c = 0; c < columns_; ++c)
      advantage_[c] = weight_[c] == T(0) ? T(0)
                      : experience.advantages == nullptr
                          ? T(1)
                          : (experience.advantages[rows[c]] - objective_.advantage_shift) * objective_.advantage_scale;
    const std::int64_t size = network_.head.action_size;
    const auto take_rows = [&](const auto* from, std::int64_t row_size, T* to) {
      for (std::int64_t k = 0; k < row_size; ++k)
        for (std::int64_t c = 0; c < columns_; ++c)
          to[k * columns_ + c] = c < count ? static_cast<T>(from[rows[c] * row_size + k]) : T(0);
    };
    if (experience.whole_actions != nullptr) take_rows(experience.whole_actions, size, actions_);
    if (experience.real_actions != nullptr) take_rows(experience.real_actions, size, actions_);
    if (experience.teacher != nullptr) {
      const std::int64_t width = distribution_size(network_.head);
      take_rows(experience.teacher, width, teacher_);
      // A sigma of 0 beyond the samples would be divided by.
      if (is_gaussian(network_.head))
        for (std::int64_t k = size; k < width; ++k)
          for (std::int64_t c = count; c < columns_; ++c) teacher_[k * columns_ + c] = T(1);
    }
  }

  // Leaves the gradients of the objective with respect to the policy tower's outputs and to the value.
  void evaluate(Pass<T>& pass, T* gradient) {
    const ActionHead& head = network_.head;
    if (head.kind == Head::categorical) normalize_logits(head, pass.distribution, columns_, scratch_);
    const bool with_entropy = objective_.entropy_scale != T(0);
    find_entropies(head, pass.distribution, columns_, entropy_);
    const T entropy_scale = objective_.entropy_scale;
    const T* const __restrict weight = weight_;
    T* const __restrict entropy_weight = entropy_weight_;
    for_columns(columns_, [=](std::int64_t c) { entropy_weight[c] = -entropy_scale * weight[c]; });
    add_to(kEntropy, entropy_);
    value_loss(pass.state_value);
    if (objective_.surrogate == Surrogate::divergence) return imitate(pass, gradient);
    find_log_probs(head, pass.distribution, actions_, columns_, log_prob_);
    if (objective_.surrogate == Surrogate::clipped) clipped_surrogate();
    else log_prob_surrogate();
    differentiate(head, pass.distribution, pass.outputs, actions_, policy_weight_, entropy_weight_, with_entropy,
                  columns_, output_gradient_, gradient, scratch_);
  }

  T* output_gradient() { return output_gradient_; }
  T* value_gradient() { return value_gradient_; }
  void add_sums(double* diagnostics) const {
    for (int k = 0; k < kNumDiagnostics; ++k)
      for (std::int64_t c = 0; c < columns_; ++c) diagnostics[k] += static_cast<double>(sums_[k * columns_ + c]);
  }

 private:
  void add_to(Diagnostic which, const T* __restrict values) {
    T* const __restrict sums = sums_ + which * columns_;
    const T* const __restrict weight = weight_;
    // Selected, not multiplied: beyond the samples there may be anything.
    for_columns(columns_, [=](std::int64_t c) { sums[c] += weight[c] != T(0) ? values[c] : T(0); });
  }

  // Schulman et al. 2017, eq. 7: the gradient passes where the ratio is not clipped or clipping would not lower it.
  void clipped_surrogate() {
    const T low = T(1) - objective_.clip, high = T(1) + objective_.clip, scale = -objective_.policy_scale;
    const T* const __restrict log_prob = log_prob_;
    const T* const __restrict old_log_prob = old_log_prob_;
    const T* const __restrict advantage = advantage_;
    const T* const __restrict weight = weight_;
    T* const __restrict policy_weight = policy_weight_;
    T* const __restrict objective_sum = sums_ + kPolicyObjective * columns_;
    T* const __restrict divergence_sum = sums_ + kDivergence * columns_;
    T* const __restrict clipped_sum = sums_ + kClipped * columns_;
    for_columns(columns_, [=](std::int64_t c) {
      const bool valid = weight[c] != T(0);
      const T log_ratio = valid ? log_prob[c] - old_log_prob[c] : T(0);
      const T ratio = vector_exp(log_ratio);
      T bounded = ratio < low ? low : ratio;
      bounded = bounded > high ? high : bounded;
      const T free = ratio * advantage[c], limited = bounded * advantage[c];
      const bool passes = (bounded == ratio) | (free < limited);
      policy_weight[c] = passes ? scale * free : T(0);
      objective_sum[c] += free < limited ? free : limited;
      // Schulman's estimator of KL(old || new) that is never negative: r - 1 - log r.
      divergence_sum[c] += ratio - T(1) - log_ratio;
      clipped_sum[c] += bounded == ratio ? T(0) : T(1);
    });
  }

  void log_prob_surrogate() {
    const T scale = -objective_.policy_scale;
    const T* const __restrict log_prob = log_prob_;
    const T* const __restrict advantage = advantage_;
    const T* const __restrict weight = weight_;
    T* const __restrict policy_weight = policy_weight_;
    T* const __restrict objective_sum = sums_ + kPolicyObjective * columns_;
    for_columns(columns_, [=](std::int64_t c) {
      policy_weight[c] = scale * advantage[c];
      objective_sum[c] += weight[c] != T(0) ? log_prob[c] * advantage[c] : T(0);
    });
  }

  void imitate(Pass<T>& pass, T* gradient) {
    const T scale = objective_.policy_scale;
    const T* const __restrict advantage = advantage_;
    T* const __restrict policy_weight = policy_weight_;
    for_columns(columns_, [=](std::int64_t c) { policy_weight[c] = scale * advantage[c]; });
    differentiate_divergence(network_.head, pass.distribution, pass.outputs, teacher_, policy_weight_, columns_,
                             log_prob_, output_gradient_, gradient, scratch_);
    T* const __restrict divergence = log_prob_;
    add_to(kDivergence, divergence);
    for_columns(columns_, [=](std::int64_t c) { divergence[c] *= -advantage[c]; });
    add_to(kPolicyObjective, divergence);
  }

  void value_loss(const T* __restrict value) {
    const T scale = T(2) * objective_.value_scale, limit = objective_.value_clip;
    const T* const __restrict weight = weight_;
    const T* const __restrict target = return_;
    const T* const __restrict old_value = old_value_;
    T* const __restrict value_gradient = value_gradient_;
    T* const __restrict error_sum = sums_ + kValueError * columns_;
    for_columns(columns_, [=](std::int64_t c) {
      const T error = value[c] - target[c];
      // The larger of the two errors, as in PPO's first implementation.
      const T change = value[c] - old_value[c];
      T moved = change > limit ? limit : change;
      moved = moved < -limit ? -limit : moved;
      const T limited_error = old_value[c] + moved - target[c];
      const bool binds = (limit > T(0)) & (moved != change) & (limited_error * limited_error > error * error);
      const T used = binds ? limited_error : error;
      error_sum[c] += weight[c] != T(0) ? used * used : T(0);
      value_gradient[c] = (weight[c] == T(0)) | binds ? T(0) : scale * error;
    });
  }

  const Network& network_;
  const Objective<T>& objective_;
  const std::int64_t columns_;
  T *actions_, *teacher_, *scratch_, *sums_, *output_gradient_;
  T *weight_, *old_log_prob_, *advantage_, *return_, *old_value_, *log_prob_, *entropy_, *policy_weight_,
      *entropy_weight_, *value_gradient_;
};

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
  run_tower_backwards(network.policy, parameters, pass.features, pass.columns, pass.policy, loss.output_gradient(),
                      memory.other, features_gradient, false, memory.scratch);
  if (with_value)
    run_tower_backwards(network.value, parameters, pass.features, pass.columns, pass.value, loss.value_gradient(),
                        memory.other, features_gradient, true, memory.scratch);
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
    run_tower_backwards(network.trunk, parameters, pass.observation, columns, pass.trunk, memory.features,
                        memory.delta, static_cast<T*>(nullptr), false, memory.scratch);
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
      run_tower_backwards(network.trunk, parameters, pass.observation, columns, pass.trunk, memory.other,
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
  const T shrink = options.decoupled ? T(1 - options.learning_rate * options.weight_decay) : T(1);
  if (options.plain) {
    for (std::int64_t i = begin; i < end; ++i) {
      const T g = gradient[i] * gradient_scale + decay * parameters[i];
      parameters[i] = shrink * parameters[i] - learning_rate * g;
    }
    return;
  }
  const T beta_1 = T(options.beta_1), beta_2 = T(options.beta_2), epsilon = T(options.epsilon);
  const auto steps = static_cast<double>(options.step);
  const T step_size = T(options.learning_rate / (1 - __builtin_pow(options.beta_1, steps)));
  const T second_scale = T(1 / (1 - __builtin_pow(options.beta_2, steps)));
  for (std::int64_t i = begin; i < end; ++i) {
    const T g = gradient[i] * gradient_scale + decay * parameters[i];
    first[i] += (T(1) - beta_1) * (g - first[i]);
    second[i] = beta_2 * second[i] + (T(1) - beta_2) * g * g;
    const T deviation = T(__builtin_sqrt(static_cast<T>(second[i] * second_scale))) + epsilon;
    parameters[i] = shrink * parameters[i] - step_size * first[i] / deviation;
  }
}

}  // namespace
}  // namespace metafast
