// GAE in the drivers' terms. For kernel files only.
#pragma once

#include "returns/drivers.hpp"

namespace metafast::returns {
namespace {

template <class T>
struct GaeRow {
  const T *rewards, *values, *next_values;
  const std::uint8_t *terminated, *truncated, *mask;
  CoefficientCursor<T> gamma, lam;
  T *advantages, *returns;
  T* successors;  // null in the full form
  std::int64_t rewards_stride, values_stride, terminated_stride;

  [[gnu::always_inline]] void prefetch_earlier(std::int64_t column) const {
    __builtin_prefetch(rewards + column - rewards_stride);
    __builtin_prefetch(values + column - values_stride);
    __builtin_prefetch(terminated + column - terminated_stride);
  }

  template <class P, bool kStream>
  [[gnu::always_inline]] typename P::Real solve(std::int64_t column, typename P::Real next) const {
    const auto value = P::load(values + column);
    const auto step = gae_step(P::load(rewards + column), value, P::load(next_values + column),
                               P::load_mask(terminated + column), load_optional<P>(truncated, column),
                               gamma.template load<P>(column), lam.template load<P>(column));
    const auto advantage = carry_back(step, next);
    if (mask == nullptr) {
      write<kStream, P>(advantages + column, advantage);
      write<kStream, P>(returns + column, advantage + value);
      if (successors != nullptr) P::store(successors + column, value);
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
  GaeRows(const Gae<T>& gae, std::int64_t outer, std::int64_t first_column, std::int64_t num_columns)
      : gae(gae), outer(outer), first_column(first_column), num_columns(num_columns) {
    const std::int64_t last_time = gae.extents.time - 1;
    current.rewards = at(gae.rewards, last_time);
    current.values = at(gae.values, last_time);
    current.terminated = at(gae.terminated, last_time);
    current.truncated = at(gae.truncated, last_time);
    current.mask = at(gae.mask, last_time);
    current.gamma = cursor_at(gae.gamma, outer, last_time, first_column);
    current.lam = cursor_at(gae.lam, outer, last_time, first_column);
    current.advantages = at(gae.advantages, last_time);
    current.returns = at(gae.returns, last_time);
    current.successors = gae.bootstrapped ? successors : nullptr;
    current.next_values = gae.bootstrapped ? successors : at(gae.next_values, last_time);
    current.rewards_stride = gae.rewards.time_stride;
    current.values_stride = gae.values.time_stride;
    current.terminated_stride = gae.terminated.time_stride;
    if (!gae.bootstrapped) return;
    const T* bootstrap_values = at(gae.next_values, 0);
    for (std::int64_t column = 0; column < num_columns; ++column) successors[column] = bootstrap_values[column];
    if (takes_final_values()) find_truncated(last_time);
  }

  T initial(std::int64_t) const { return T(0); }

  GaeRow<T> row(std::int64_t time) {
    if (takes_final_values()) {
      const T* final_values = at(gae.final_values, time);
      for (std::int64_t i = 0; i < num_truncated; ++i)
        successors[truncated_columns[i]] = final_values[truncated_columns[i]];
      if (time > 0) find_truncated(time - 1);
    }
    const GaeRow<T> row = current;
    step_back(time);
    return row;
  }

 private:
  template <class Element>
  [[gnu::always_inline]] Element* at(const SequenceView<Element>& view, std::int64_t time) const {
    return cursor_at(view, outer, time, first_column);
  }

  // The absent arrays are null and have stride 0.
  void step_back(std::int64_t time) {
    if (time == 0) return;
    current.rewards -= gae.rewards.time_stride;
    current.values -= gae.values.time_stride;
    current.terminated -= gae.terminated.time_stride;
    current.truncated -= gae.truncated.time_stride;
    current.mask -= gae.mask.time_stride;
    current.gamma.array -= gae.gamma.view.time_stride;
    current.lam.array -= gae.lam.view.time_stride;
    current.advantages -= gae.advantages.time_stride;
    current.returns -= gae.returns.time_stride;
    if (!gae.bootstrapped) current.next_values -= gae.next_values.time_stride;
  }

  bool takes_final_values() const { return gae.bootstrapped && gae.truncated && gae.final_values; }

  // Truncation is rare: its successors' values are fetched one by one, and hardly any of that array is read. Each is
  // sought a row ahead, because it would otherwise cost a wait for memory.
  void find_truncated(std::int64_t time) {
    const std::uint8_t* truncated = at(gae.truncated, time);
    const std::uint8_t* mask = at(gae.mask, time);
    const T* final_values = at(gae.final_values, time);
    num_truncated = 0;
    const auto look_at = [&](std::int64_t column) {
      if (!truncated[column] || (mask != nullptr && !mask[column])) return;
      truncated_columns[num_truncated++] = static_cast<std::uint16_t>(column);
      __builtin_prefetch(final_values + column);
    };
    std::int64_t column = 0;
    for (; column + 8 <= num_columns; column += 8) {
      std::uint64_t eight;
      std::memcpy(&eight, truncated + column, sizeof(eight));
      if (eight == 0) continue;
      for (int i = 0; i < 8; ++i) look_at(column + i);
    }
    for (; column < num_columns; ++column) look_at(column);
  }

  const Gae<T>& gae;
  const std::int64_t outer, first_column, num_columns;
  GaeRow<T> current;
  alignas(64) T successors[kMaxColumns];  // in the bootstrapped form: V(s_{t+1}) of the row at hand
  std::uint16_t truncated_columns[kMaxColumns];
  std::int64_t num_truncated = 0;
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
