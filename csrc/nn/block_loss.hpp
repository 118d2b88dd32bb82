// The objective of one block of samples, and its gradient with respect to what the network put out.
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
    fill(actions_, action_rows * columns, T(0));
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
          to[k * columns_ + c] = weight_[c] != T(0) ? static_cast<T>(from[rows[c] * row_size + k]) : T(0);
    };
    if (experience.whole_actions != nullptr) take_rows(experience.whole_actions, size, actions_);
    if (experience.real_actions != nullptr) take_rows(experience.real_actions, size, actions_);
    if (experience.teacher != nullptr) {
      const std::int64_t width = distribution_size(network_.head);
      take_rows(experience.teacher, width, teacher_);
      // A sigma of 0 where there is no sample would be divided by.
      if (is_gaussian(network_.head))
        for (std::int64_t k = size; k < width; ++k)
          for (std::int64_t c = 0; c < columns_; ++c)
            if (weight_[c] == T(0)) teacher_[k * columns_ + c] = T(1);
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
    if (objective_.surrogate == Surrogate::divergence) return imitate(pass, with_entropy, gradient);
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
    // Selected, not multiplied: beyond the samples there may be anything. Read first, because gcc 12 loses lanes where a
    // masked read is selected by its own mask.
    for_columns(columns_, [=](std::int64_t c) {
      const T value = values[c];
      sums[c] += weight[c] != T(0) ? value : T(0);
    });
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
      const T product = log_prob[c] * advantage[c];
      objective_sum[c] += weight[c] != T(0) ? product : T(0);
    });
  }

  void imitate(Pass<T>& pass, bool with_entropy, T* gradient) {
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
    if (!with_entropy) return;
    // The teacher has been read; its memory takes the entropy's part.
    fill(policy_weight_, columns_, T(0));
    differentiate(network_.head, pass.distribution, pass.outputs, actions_, policy_weight_, entropy_weight_, true,
                  columns_, teacher_, gradient, scratch_);
    T* const __restrict output_gradient = output_gradient_;
    const T* const __restrict of_entropy = teacher_;
    for_columns(distribution_size(network_.head) * columns_,
                [=](std::int64_t c) { output_gradient[c] += of_entropy[c]; });
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

}  // namespace
}  // namespace metafast
