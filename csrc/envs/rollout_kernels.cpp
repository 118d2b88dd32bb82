// Fused rollouts, compiled once per instruction-set level: a tile of environments stays in one core's cache while it is
// observed, the policy infers and samples, and it steps, for all steps of the rollout.
#include <cstdint>

#include "envs/driver.hpp"
#include "envs/rollout.hpp"
#include "nn/actor_critic.hpp"
#include "nn/noise.hpp"

namespace metafast {
namespace METAFAST_ISA_NAMESPACE {
namespace {

template <class T>
class TileRollout {
 public:
  TileRollout(const Batch& batch, const RolloutPlan<T>& plan, T* scratch, std::int64_t begin, std::int64_t end)
      : batch_(batch), plan_(plan), arrays_(plan.arrays), network_(plan.network), begin_(begin), end_(end) {
    Arena<T> arena(scratch);
    const std::int64_t columns = padded_columns(end - begin < kBlockColumns ? end - begin : kBlockColumns);
    hidden_ = arena.take(network_.gru.width * padded_columns(end - begin));
    next_hidden_ = arena.take(network_.gru.width * columns);
    gathered_hidden_ = arena.take(network_.gru.width * columns);
    pass_.allocate_body(network_, columns, arena);
    pass_.allocate_heads(network_, columns, arena);
    actions_ = arena.take(network_.head.action_size * columns);
    columns_scratch_ = arena.take((3 + network_.head.num_outputs) * columns);
    log_probs_ = arena.take(columns);
    noise_ = reinterpret_cast<float*>(arena.take(network_.head.action_size * columns));
  }

  static std::int64_t scratch_size(const Network& network) {
    return body_size(network, kBlockColumns) + heads_size(network, kBlockColumns) +
           network.gru.width * (kTile + 2 * kBlockColumns) +
           (2 * network.head.action_size + network.head.num_outputs + 4) * kBlockColumns;
  }

  RolloutOutcome run() {
    RolloutOutcome outcome = {-1, -1, -1, 0};
    load_hidden();
    TileDriver driver(batch_, begin_, end_);
    outcome.failed_env = driver.observe(-1, nullptr, observations_at(0) + begin_ * batch_.observation_bytes);
    for (std::int64_t step = 0; outcome.failed_env < 0 && step < plan_.num_steps; ++step) {
      outcome.failed_step = step;
      mark_rows(step);
      outcome.unusable_env = act(step);
      if (outcome.unusable_env >= 0) {
        outcome.unusable_step = step;
        return outcome;
      }
      const std::int64_t row = step * plan_.num_envs;
      const StepResult result = {plan_.env_actions,         plan_.action_bytes,
                                 observations_at(step + 1), plan_.env_rewards,
                                 arrays_.terminated + row,  arrays_.truncated + row,
                                 arrays_.final_observations + row * batch_.observation_bytes};
      std::int64_t num_final = 0;
      outcome.failed_env = driver.step(result, num_final);
      if (outcome.failed_env >= 0) return outcome;
      take_rewards(step);
      value_truncated(step);
    }
    if (outcome.failed_env < 0) value_last();
    store_hidden();
    return outcome;
  }

 private:
  std::byte* observations_at(std::int64_t step) const {
    return arrays_.observations + step * plan_.num_envs * batch_.observation_bytes;
  }
  T* hidden_of_block(std::int64_t first) const { return hidden_ + network_.gru.width * (first - begin_); }

  // Of each block the state is [width, columns], blocks one behind the other.
  template <class Move>
  void for_hidden(const Move& move) const {
    const std::int64_t width = network_.gru.width;
    for (std::int64_t first = begin_; width > 0 && first < end_; first += kBlockColumns) {
      const std::int64_t envs = end_ - first < kBlockColumns ? end_ - first : kBlockColumns;
      const std::int64_t columns = padded_columns(envs);
      T* const state = hidden_of_block(first);
      for (std::int64_t h = 0; h < width; ++h)
        for (std::int64_t c = 0; c < columns; ++c)
          move(c < envs ? arrays_.hidden + (first + c) * width + h : nullptr, state[h * columns + c]);
    }
  }
  void load_hidden() const {
    for_hidden([](const T* from, T& to) { to = from == nullptr ? T(0) : *from; });
  }
  void store_hidden() const {
    for_hidden([](T* to, const T& from) {
      if (to != nullptr) *to = from;
    });
  }

  // What the driver knows before it steps: which rows begin episodes, and which only reset.
  void mark_rows(std::int64_t step) const {
    const std::int64_t row = step * plan_.num_envs;
    const std::int32_t* const __restrict elapsed_steps = batch_.elapsed_steps;
    const std::uint8_t* const __restrict ended = batch_.ended;
    std::uint8_t* const __restrict starts = arrays_.starts + row;
    for (std::int64_t env = begin_; env < end_; ++env) starts[env] = (elapsed_steps[env] == 0) & !ended[env];
    if (arrays_.mask == nullptr) return;
    std::uint8_t* const __restrict mask = arrays_.mask + row;
    for (std::int64_t env = begin_; env < end_; ++env) mask[env] = !ended[env];
  }

  // The observations of up to kBlockColumns environments go through the network's body; `state` is their hidden state,
  // replaced in `pass_.features` only.
  void infer(const std::byte* rows, const std::int64_t* envs, std::int64_t count, T* state) {
    pass_.columns = padded_columns(count);
    Observations<T> observations = plan_.observations;
    observations.rows = rows;
    take_observations(observations, envs, count, pass_.columns, pass_.observation);
    pass_.run_body(network_, plan_.parameters, state, next_hidden_);
  }

  template <class Body>
  void for_blocks(const Body& body) {
    std::int64_t envs[kBlockColumns];
    for (std::int64_t first = begin_; first < end_; first += kBlockColumns) {
      const std::int64_t count = end_ - first < kBlockColumns ? end_ - first : kBlockColumns;
      for (std::int64_t c = 0; c < count; ++c) envs[c] = first + c;
      body(first, count, static_cast<const std::int64_t*>(envs));
    }
  }

  // Returns an environment whose outputs are no distribution, or -1.
  std::int64_t act(std::int64_t step) {
    std::int64_t unusable = -1;
    const std::int64_t row = step * plan_.num_envs;
    for_blocks([&](std::int64_t first, std::int64_t count, const std::int64_t* envs) {
      const ActionHead& head = network_.head;
      T* const state = hidden_of_block(first);
      clear_started(row, first, count, state);
      infer(observations_at(step), envs, count, state);
      const std::int64_t columns = pass_.columns;
      pass_.run_heads(network_, plan_.parameters);
      if (plan_.deterministic) {
        most_probable_actions(head, pass_.distribution, columns, actions_, columns_scratch_);
        if (head.kind == Head::categorical) normalize_logits(head, pass_.distribution, columns, columns_scratch_);
      } else {
        for (std::int64_t k = 0; k < head.action_size; ++k)
          fill_noise(plan_.key, first, step, is_gaussian(head), k, columns, noise_ + k * columns);
        sample_actions(head, pass_.distribution, noise_, columns, actions_, columns_scratch_);
      }
      find_log_probs(head, pass_.distribution, actions_, columns, log_probs_);
      keep(log_probs_, count, arrays_.log_probs + row + first);
      keep(pass_.state_value, count, arrays_.values + row + first);
      if (unusable < 0) unusable = find_unusable(first, count);
      if (network_.gru.width > 0)
        for (std::int64_t i = 0; i < network_.gru.width * columns; ++i) state[i] = next_hidden_[i];
      if (unusable < 0) translate(row, first, count, columns);
    });
    return unusable;
  }

  // One element of each of `count` rows.
  template <class Element, class Convert>
  static void write_rows(const T* __restrict column, std::int64_t count, std::int64_t row_size, Element* __restrict to,
                         const Convert& convert) {
    if (row_size > 1)
      for (std::int64_t c = 0; c < count; ++c) to[c * row_size] = convert(column[c]);
    else
      for (std::int64_t c = 0; c < count; ++c) to[c] = convert(column[c]);
  }
  static void keep(const T* column, std::int64_t count, T* to) {
    write_rows(column, count, 1, to, [](T value) { return value; });
  }

  // An action whose log-probability is not finite was drawn from no distribution. Of an environment that is only reset
  // nobody asks for an action.
  std::int64_t find_unusable(std::int64_t first, std::int64_t count) const {
    const T* const __restrict log_probs = log_probs_;
    std::int32_t found = 0;
    for (std::int64_t c = 0; c < count; ++c) found += log_probs[c] - log_probs[c] == T(0) ? 0 : 1;
    for (std::int64_t c = 0; found > 0 && c < count; ++c)
      if (!(log_probs[c] - log_probs[c] == T(0)) && !batch_.ended[first + c]) return first + c;
    return -1;
  }

  void clear_started(std::int64_t row, std::int64_t first, std::int64_t count, T* state) const {
    const std::int64_t columns = padded_columns(count);
    for (std::int64_t c = 0; network_.gru.width > 0 && c < count; ++c)
      if (arrays_.starts[row + first + c])
        for (std::int64_t h = 0; h < network_.gru.width; ++h) state[h * columns + c] = T(0);
  }

  // Keeps the policy's actions and writes the environments'.
  void translate(std::int64_t row, std::int64_t first, std::int64_t count, std::int64_t columns) const {
    const std::int64_t size = network_.head.action_size;
    const ActionTranslation& to = plan_.actions;
    const auto whole = [&](auto* env_actions) {
      using Whole = std::remove_pointer_t<decltype(env_actions)>;
      for (std::int64_t k = 0; k < size; ++k) {
        const T* const chosen = actions_ + k * columns;
        const std::int64_t start = to.start[k];
        write_rows(chosen, count, size, arrays_.whole_actions + (row + first) * size + k,
                   [](T action) { return static_cast<std::int64_t>(action); });
        write_rows(chosen, count, size, env_actions + first * size + k,
                   [start](T action) { return static_cast<Whole>(static_cast<std::int64_t>(action) + start); });
      }
    };
    const auto real = [&](auto* env_actions) {
      using Real = std::remove_pointer_t<decltype(env_actions)>;
      for (std::int64_t k = 0; k < size; ++k)
        for (std::int64_t c = 0; c < count; ++c) {
          const T action = actions_[k * columns + c];
          arrays_.real_actions[(row + first + c) * size + k] = action;
          double scaled = to.half_range[k] * static_cast<double>(action);
          __asm__("" : "+m"(scaled));  // rounded by itself, as where NumPy does the same
          scaled += to.centre[k];
          scaled = scaled > to.high[k] ? to.high[k] : scaled;
          env_actions[(first + c) * size + k] = static_cast<Real>(scaled < to.low[k] ? to.low[k] : scaled);
        }
    };
    switch (to.type) {
      case ElementType::float32: return real(reinterpret_cast<float*>(plan_.env_actions));
      case ElementType::float64: return real(reinterpret_cast<double*>(plan_.env_actions));
      case ElementType::int8: return whole(reinterpret_cast<std::int8_t*>(plan_.env_actions));
      case ElementType::int32: return whole(reinterpret_cast<std::int32_t*>(plan_.env_actions));
      default: return whole(reinterpret_cast<std::int64_t*>(plan_.env_actions));
    }
  }

  void take_rewards(std::int64_t step) const {
    T* const __restrict rewards = arrays_.rewards + step * plan_.num_envs;
    const auto take = [&](const auto* env_rewards) {
      for (std::int64_t env = begin_; env < end_; ++env) rewards[env] = static_cast<T>(env_rewards[env]);
    };
    if (batch_.reward_bytes == sizeof(double)) take(reinterpret_cast<const double*>(plan_.env_rewards));
    else take(reinterpret_cast<const float*>(plan_.env_rewards));
  }

  // The values of the last observations of episodes that were cut. In next_step mode they are the next rows'.
  void value_truncated(std::int64_t step) {
    const std::int64_t row = step * plan_.num_envs;
    std::uint8_t over[kTile];
    const std::uint8_t* const __restrict terminated = arrays_.terminated + row + begin_;
    const std::uint8_t* const __restrict truncated = arrays_.truncated + row + begin_;
    for (std::int64_t i = 0; i < end_ - begin_; ++i) over[i] = terminated[i] | truncated[i];
    std::int32_t indices[kTile];
    const std::int64_t num_over = collect(over, end_ - begin_, indices);
    if (num_over == 0) return;
    const bool same_step = batch_.autoreset_mode == AutoresetMode::same_step;
    const std::byte* const rows =
        same_step ? arrays_.final_observations + row * batch_.observation_bytes : observations_at(step + 1);
    std::int64_t envs[kBlockColumns];
    std::int64_t count = 0;
    for (std::int64_t i = 0; i < num_over; ++i) {
      if (!terminated[indices[i]]) envs[count++] = begin_ + indices[i];
      if (count == 0 || (count < kBlockColumns && i + 1 < num_over)) continue;
      infer(rows, envs, count, gathered_hidden(envs, count));
      pass_.run_value(network_, plan_.parameters);
      for (std::int64_t c = 0; c < count; ++c) arrays_.final_values[row + envs[c]] = pass_.state_value[c];
      count = 0;
    }
    for (std::int64_t i = 0; !same_step && i < num_over; ++i) {
      const std::int64_t env = begin_ + indices[i];
      __builtin_memcpy(arrays_.final_observations + (row + env) * batch_.observation_bytes,
                       observations_at(step + 1) + env * batch_.observation_bytes,
                       static_cast<std::size_t>(batch_.observation_bytes));
    }
  }

  T* gathered_hidden(const std::int64_t* envs, std::int64_t count) const {
    const std::int64_t width = network_.gru.width, columns = padded_columns(count);
    if (width == 0) return nullptr;
    for (std::int64_t c = 0; c < columns; ++c) {
      const std::int64_t offset = c < count ? envs[c] - begin_ : 0;
      const std::int64_t first = offset / kBlockColumns * kBlockColumns;
      const std::int64_t envs_of_block = end_ - begin_ - first < kBlockColumns ? end_ - begin_ - first : kBlockColumns;
      const T* const state = hidden_ + width * first + (offset - first);
      for (std::int64_t h = 0; h < width; ++h)
        gathered_hidden_[h * columns + c] = c < count ? state[h * padded_columns(envs_of_block)] : T(0);
    }
    return gathered_hidden_;
  }

  void value_last() {
    const std::int64_t row = plan_.num_steps * plan_.num_envs;
    for_blocks([&](std::int64_t first, std::int64_t count, const std::int64_t* envs) {
      T* state = nullptr;
      if (network_.gru.width > 0) {
        state = gathered_hidden(envs, count);
        const std::int64_t columns = padded_columns(count);
        for (std::int64_t c = 0; c < count; ++c)
          if (batch_.elapsed_steps[first + c] == 0 && !batch_.ended[first + c])
            for (std::int64_t h = 0; h < network_.gru.width; ++h) state[h * columns + c] = T(0);
      }
      infer(observations_at(plan_.num_steps), envs, count, state);
      pass_.run_value(network_, plan_.parameters);
      for (std::int64_t c = 0; c < count; ++c) arrays_.values[row + first + c] = pass_.state_value[c];
    });
  }

  const Batch& batch_;
  const RolloutPlan<T>& plan_;
  const RolloutArrays<T>& arrays_;
  const Network& network_;
  const std::int64_t begin_, end_;
  Pass<T> pass_;
  T *hidden_, *next_hidden_, *gathered_hidden_, *actions_, *columns_scratch_, *log_probs_;
  float* noise_;
};

template <class T>
RolloutOutcome run(const Batch& batch, const RolloutPlan<T>& plan, T* scratch, std::int64_t begin, std::int64_t end) {
  return TileRollout<T>(batch, plan, scratch, begin, end).run();
}

template <class T>
constexpr RolloutKernel<T> kRollout = {&TileRollout<T>::scratch_size, &run<T>};

}  // namespace

const RolloutKernels rollout_kernels = {kRollout<float>, kRollout<double>};

}  // namespace METAFAST_ISA_NAMESPACE
}  // namespace metafast
