// GAE in the drivers' terms. For kernel files only.
#pragma once

#include "returns/drivers.hpp"

namespace metafast::returns {
namespace {

template <class T>
struct GaeRow {
  const T *rewards, *values, *next_values;
  const T* final_values;  // null in the full form
  const std::uint8_t *terminated, *truncated, *mask;
  CoefficientCursor<T> gamma, lam;
  T *advantages, *returns;
  T* successors;  // where a mask parts a step from its successor: its value, carried; else null
  std::int64_t rewards_stride, values_stride, final_values_stride, terminated_stride, truncated_stride;

  [[gnu::always_inline]] void prefetch_earlier(std::int64_t column) const {
    __builtin_prefetch(rewards + column - rewards_stride);
    __builtin_prefetch(values + column - values_stride);
    __builtin_prefetch(terminated + column - terminated_stride);
    if (final_values != nullptr) {
      // Truncation is rare: hardly any of final_values is read, and only what will be is fetched.
      const std::uint8_t* flags = truncated + column - truncated_stride;
      __builtin_prefetch(any<kLanes<T>>(flags) ? final_values + column - final_values_stride : rewards + column);
    }
  }

  template <class P, bool kStream>
  [[gnu::always_inline]] typename P::Real solve(std::int64_t column, typename P::Real next) const {
    const auto value = P::load(values + column);
    const auto is_truncated = load_optional<P>(truncated, column);
    auto next_value = P::load(next_values + column);
    if (final_values != nullptr && any<P::kWidth>(truncated + column))
      next_value = is_truncated ? P::load(final_values + column) : next_value;
    const auto step = gae_step(P::load(rewards + column), value, next_value, P::load_mask(terminated + column),
                               is_truncated, gamma.template load<P>(column), lam.template load<P>(column));
    const auto advantage = carry_back(step, next);
    if (mask == nullptr) {
      write<kStream, P>(advantages + column, advantage);
      write<kStream, P>(returns + column, advantage + value);
      return advantage;
    }
    const auto taken = P::load_mask(mask + column);
    write<kStream, P>(advantages + column, taken ? advantage : P::fill(0));
    write<kStream, P>(returns + column, taken ? advantage + value : P::fill(0));
    if (successors != nullptr) P::store(successors + column, taken ? value : P::load(successors + column));
    return taken ? advantage : next;
  }

  std::int64_t outputs_to_boundary() const {
    const std::int64_t boundary = elements_to_boundary(advantages);
    return boundary == elements_to_boundary(returns) ? boundary : -1;
  }
};

template <class T>
struct GaeRows {
  GaeRows(const Gae<T>& gae, std::int64_t outer, std::int64_t first_column, std::int64_t num_columns) : gae(gae) {
    const auto at = [&](const auto& view) {
      return cursor_at(view, outer, gae.extents.time - 1, first_column);
    };
    current.rewards = at(gae.rewards);
    current.values = at(gae.values);
    current.next_values = at(gae.next_values);
    current.final_values = gae.bootstrapped && gae.truncated ? at(gae.final_values) : nullptr;
    current.terminated = at(gae.terminated);
    current.truncated = at(gae.truncated);
    current.mask = at(gae.mask);
    current.gamma = cursor_at(gae.gamma, outer, gae.extents.time - 1, first_column);
    current.lam = cursor_at(gae.lam, outer, gae.extents.time - 1, first_column);
    current.advantages = at(gae.advantages);
    current.returns = at(gae.returns);
    current.successors = nullptr;
    current.rewards_stride = gae.rewards.time_stride;
    current.values_stride = gae.values.time_stride;
    current.final_values_stride = gae.final_values.time_stride;
    current.terminated_stride = gae.terminated.time_stride;
    current.truncated_stride = gae.truncated.time_stride;
    if (gae.bootstrapped && gae.mask) {
      for (std::int64_t column = 0; column < num_columns; ++column) successors[column] = current.next_values[column];
      current.next_values = current.successors = successors;
    }
  }

  T initial(std::int64_t) const { return T(0); }

  GaeRow<T> row(std::int64_t time) {
    GaeRow<T> row = current;
    if (time > 0)
      step_back();
    else  // there is no earlier row to look at
      row.truncated_stride = row.final_values_stride = 0;
    return row;
  }

 private:
  // The absent arrays are null and have stride 0.
  void step_back() {
    if (!gae.bootstrapped)
      current.next_values -= gae.next_values.time_stride;
    else if (current.successors == nullptr)
      current.next_values = current.values;
    current.rewards -= gae.rewards.time_stride;
    current.values -= gae.values.time_stride;
    if (current.final_values != nullptr) current.final_values -= gae.final_values.time_stride;
    current.terminated -= gae.terminated.time_stride;
    current.truncated -= gae.truncated.time_stride;
    current.mask -= gae.mask.time_stride;
    current.gamma.array -= gae.gamma.view.time_stride;
    current.lam.array -= gae.lam.view.time_stride;
    current.advantages -= gae.advantages.time_stride;
    current.returns -= gae.returns.time_stride;
  }

  const Gae<T>& gae;
  GaeRow<T> current;
  alignas(64) T successors[kMaxColumns];
};

template <class T>
struct GaeSeries {
  // A skipped step has its successor at a distance, which the rows know how to carry.
  static bool takes(const Gae<T>& gae) { return !gae.mask; }

  GaeSeries(const Gae<T>& gae, std::int64_t outer)
      : rewards(at(gae.rewards, outer)),
        values(at(gae.values, outer)),
        next_values(gae.bootstrapped ? values + 1 : at(gae.next_values, outer)),
        final_values(gae.bootstrapped ? at(gae.final_values, outer) : nullptr),
        terminated(at(gae.terminated, outer)),
        truncated(at(gae.truncated, outer)),
        gamma(cursor_at(gae.gamma, outer, 0, 0)),
        lam(cursor_at(gae.lam, outer, 0, 0)),
        advantages(at(gae.advantages, outer)),
        returns(at(gae.returns, outer)),
        last_time(gae.extents.time - 1),
        last_next_value(gae.bootstrapped ? *at(gae.next_values, outer) : next_values[last_time]) {}

  T initial() const { return T(0); }

  Affine<T> last() const { return step_from<Pack<T, 1>>(last_time, last_next_value); }

  template <class P>
  [[gnu::always_inline]] Affine<typename P::Real> step(std::int64_t time) const {
    return step_from<P>(time, P::load(next_values + time));
  }

  template <class P>
  [[gnu::always_inline]] void emit(std::int64_t time, typename P::Real advantage) const {
    P::store(advantages + time, advantage);
    P::store(returns + time, advantage + P::load(values + time));
  }

 private:
  template <class Element>
  static Element* at(const SequenceView<Element>& view, std::int64_t outer) {
    return cursor_at(view, outer, 0, 0);
  }

  template <class P>
  [[gnu::always_inline]] Affine<typename P::Real> step_from(std::int64_t time, typename P::Real next_value) const {
    const auto is_truncated = load_optional<P>(truncated, time);
    if (final_values != nullptr && truncated != nullptr)
      next_value = is_truncated ? P::load(final_values + time) : next_value;
    return gae_step(P::load(rewards + time), P::load(values + time), next_value, P::load_mask(terminated + time),
                    is_truncated, gamma.template load<P>(time), lam.template load<P>(time));
  }

  const T *rewards, *values, *next_values, *final_values;
  const std::uint8_t *terminated, *truncated;
  CoefficientCursor<T> gamma, lam;
  T *advantages, *returns;
  std::int64_t last_time;
  T last_next_value;
};

}  // namespace
}  // namespace metafast::returns
