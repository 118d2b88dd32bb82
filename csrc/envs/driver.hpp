// Steps, resets and observes a tile of environments: everything that is the same for all of them.
#pragma once

#include <cstdint>
#include <cstring>

#include "envs/batch.hpp"

namespace metafast {
// Internal linkage: each instruction-set level has its own copy, which the linker must not merge.
namespace {

// Lists the positions whose flag is not 0; returns how many.
std::int64_t collect(const std::uint8_t* flags, std::int64_t count, std::int32_t* indices) {
  std::int64_t found = 0;
  std::int32_t i = 0;
  for (; i + 8 <= count; i += 8) {
    std::uint64_t eight;
    std::memcpy(&eight, flags + i, 8);
    if (eight == 0) continue;
    for (std::int32_t j = 0; j < 8; ++j) {
      indices[found] = i + j;
      found += flags[i + j] != 0;
    }
  }
  for (; i < count; ++i)
    if (flags[i]) indices[found++] = i;
  return found;
}

// One tile of a batch: its `count` environments begin at environment `first`.
class TileDriver {
 public:
  TileDriver(const Batch& batch, std::int64_t first, std::int64_t end)
      : batch_(batch),
        first_(first),
        count_(end - first < kTile ? end - first : kTile),
        state_(batch.state + first * batch.state_bytes) {}

  // Returns the number of an environment of the batch where the user's code raised, or -1.
  std::int64_t step(const StepResult& result, std::int64_t& num_final) {
    const AutoresetMode mode = batch_.autoreset_mode;
    std::uint8_t* const ended = batch_.ended + first_;
    std::byte* const observations = result.observations + first_ * batch_.observation_bytes;
    std::byte* const rewards = result.rewards + first_ * batch_.reward_bytes;
    std::uint8_t* const terminated = result.terminated + first_;
    std::uint8_t* const truncated = result.truncated + first_;
    if (batch_.saved_state != nullptr) save();

    std::int32_t indices[kTile];
    // In next_step mode an ended environment is stepped with the others, and its result overwritten by the reset's.
    const std::int64_t num_ended = mode == AutoresetMode::next_step ? collect(ended, count_, indices) : 0;
    if (batch_.begin_before_step) {
      std::memset(terminated, 0, static_cast<std::size_t>(count_));
      for (std::int64_t i = 0; i < num_ended; ++i) terminated[indices[i]] = kIgnored;
    }
    if (num_ended > 0 && batch_.begin_before_step) {
      count_episodes(indices, num_ended);
      if (const std::int64_t failed = begin(indices, num_ended); failed >= 0) return failed;
    }
    const std::int64_t failed = batch_.phases.advance(
        batch_.parameters, state_, count_, result.actions + first_ * result.action_bytes, batch_.seeds + first_,
        batch_.episodes + first_, batch_.elapsed_steps + first_, rewards, terminated);
    if (failed >= 0) return first_ + failed;
    limit_length(terminated, truncated);

    if (mode == AutoresetMode::next_step) {
      for (std::int64_t i = 0; i < num_ended; ++i) {
        std::memset(rewards + indices[i] * batch_.reward_bytes, 0, static_cast<std::size_t>(batch_.reward_bytes));
        terminated[indices[i]] = 0;
        truncated[indices[i]] = 0;
      }
      if (num_ended > 0) {
        if (!batch_.begin_before_step) count_episodes(indices, num_ended);
        else clear_counts(indices, num_ended);
        if (const std::int64_t index = begin(indices, num_ended); index >= 0) return index;
      }
      return observe(-1, nullptr, observations);
    }

    if (const std::int64_t index = observe(-1, nullptr, observations); index >= 0) return index;
    if (mode == AutoresetMode::same_step) {
      const std::int64_t num_over = collect(ended, count_, indices);
      if (num_over == 0) return -1;
      std::byte* const final_observations = result.final_observations + first_ * batch_.observation_bytes;
      for (std::int64_t i = 0; i < num_over; ++i) {
        const std::int64_t offset = indices[i] * batch_.observation_bytes;
        std::memcpy(final_observations + offset, observations + offset,
                    static_cast<std::size_t>(batch_.observation_bytes));
      }
      num_final += num_over;
      count_episodes(indices, num_over);
      if (const std::int64_t index = begin(indices, num_over); index >= 0) return index;
      return observe(num_over, indices, observations);
    }
    return -1;
  }

  std::int64_t reset(const std::uint8_t* mask) {
    std::int32_t indices[kTile];
    std::int64_t num_indices = count_;
    if (mask != nullptr)
      num_indices = collect(mask + first_, count_, indices);
    else
      for (std::int32_t i = 0; i < count_; ++i) indices[i] = i;
    if (num_indices == 0) return -1;
    count_episodes(indices, num_indices);
    return begin(indices, num_indices);
  }

  std::int64_t observe(std::int64_t num_indices, const std::int32_t* indices, std::byte* observations) const {
    const std::int64_t failed =
        batch_.phases.observe(batch_.parameters, state_, count_, indices, num_indices, observations);
    return failed < 0 ? -1 : first_ + failed;
  }

 private:
  void save() const {
    const auto count = static_cast<std::size_t>(count_);
    copy_tile(batch_.saved_state + first_ * batch_.state_bytes, state_, count_, batch_.field_bytes, batch_.num_fields);
    std::memcpy(batch_.saved_elapsed_steps + first_, batch_.elapsed_steps + first_, count * sizeof(std::int32_t));
    std::memcpy(batch_.saved_ended + first_, batch_.ended + first_, count);
    std::memcpy(batch_.saved_episodes + first_, batch_.episodes + first_, count * sizeof(std::uint64_t));
  }

  // The next episode of each environment listed is now the current one.
  void count_episodes(const std::int32_t* indices, std::int64_t num_indices) const {
    for (std::int64_t i = 0; i < num_indices; ++i) ++batch_.episodes[first_ + indices[i]];
    clear_counts(indices, num_indices);
  }

  void clear_counts(const std::int32_t* indices, std::int64_t num_indices) const {
    for (std::int64_t i = 0; i < num_indices; ++i) {
      batch_.elapsed_steps[first_ + indices[i]] = 0;
      batch_.ended[first_ + indices[i]] = 0;
    }
  }

  std::int64_t begin(const std::int32_t* indices, std::int64_t num_indices) const {
    const std::int64_t failed = batch_.phases.begin(
        batch_.parameters, state_, indices, num_indices, batch_.seeds + first_, batch_.episodes + first_,
        batch_.streams == nullptr ? nullptr : batch_.streams + first_ * 4);
    return failed < 0 ? -1 : first_ + failed;
  }

  // Counts the step: elapsed_steps, truncated, ended.
  void limit_length(const std::uint8_t* __restrict terminated, std::uint8_t* __restrict truncated) const {
    std::int32_t* __restrict elapsed_steps = batch_.elapsed_steps + first_;
    std::uint8_t* __restrict ended = batch_.ended + first_;
    const std::int32_t limit = batch_.max_episode_steps;
    // A copy, which the bytes that are written cannot overlap.
    const std::int64_t count = count_;
    for (std::int64_t i = 0; i < count; ++i) {
      elapsed_steps[i] += 1;
      truncated[i] = elapsed_steps[i] >= limit;
    }
    for (std::int64_t i = 0; i < count; ++i) ended[i] = terminated[i] | truncated[i];
  }

  const Batch& batch_;
  const std::int64_t first_;
  const std::int64_t count_;
  std::byte* const state_;
};

}  // namespace
}  // namespace metafast
