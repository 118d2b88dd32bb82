// Discounted returns in the drivers' terms. For kernel files only.
#pragma once

#include "returns/drivers.hpp"

namespace metafast::returns {
namespace {

// The pointers of one row (elements are columns) or one series (elements are times).
template <class T>
struct DiscountedReturnsCursor {
  DiscountedReturnsCursor(const DiscountedReturns<T>& arguments, std::int64_t outer, std::int64_t time,
                          std::int64_t column)
      : rewards_stride(arguments.rewards.time_stride),
        terminated_stride(arguments.terminated.time_stride),
        rewards(cursor_at(arguments.rewards, outer, time, column)),
        final_values(cursor_at(arguments.final_values, outer, time, column)),
        terminated(cursor_at(arguments.terminated, outer, time, column)),
        truncated(cursor_at(arguments.truncated, outer, time, column)),
        gamma(cursor_at(arguments.gamma, outer, time, column)),
        returns(cursor_at(arguments.returns, outer, time, column)) {}

  template <class P>
  [[gnu::always_inline]] Affine<typename P::Real> step(std::int64_t index) const {
    const auto final_value = final_values != nullptr ? P::load(final_values + index) : P::fill(0);
    return discounted_return_step(P::load(rewards + index), final_value, P::load_mask(terminated + index),
                                  load_optional<P>(truncated, index), gamma.template load<P>(index));
  }

  template <class P, bool kStream>
  [[gnu::always_inline]] typename P::Real solve(std::int64_t column, typename P::Real next) const {
    const auto result = carry_back(step<P>(column), next);
    write<kStream, P>(returns + column, result);
    return result;
  }

  std::int64_t outputs_to_boundary() const { return elements_to_boundary(returns); }

  [[gnu::always_inline]] void prefetch_earlier(std::int64_t column) const {
    __builtin_prefetch(rewards + column - rewards_stride);
    __builtin_prefetch(terminated + column - terminated_stride);
  }

  std::int64_t rewards_stride, terminated_stride;
  const T *rewards, *final_values;
  const std::uint8_t *terminated, *truncated;
  CoefficientCursor<T> gamma;
  T* returns;
};

template <class T>
struct DiscountedReturnsRows {
  DiscountedReturnsRows(const DiscountedReturns<T>& arguments, std::int64_t outer, std::int64_t first_column,
                        std::int64_t)
      : arguments(arguments), outer(outer), first_column(first_column) {}

  T initial(std::int64_t column) const {
    return arguments.bootstrap ? arguments.bootstrap.row(outer, 0)[first_column + column] : T(0);
  }

  DiscountedReturnsCursor<T> row(std::int64_t time) const { return {arguments, outer, time, first_column}; }

 private:
  const DiscountedReturns<T>& arguments;
  const std::int64_t outer, first_column;
};

template <class T>
struct DiscountedReturnsSeries {
  static bool takes(const DiscountedReturns<T>&) { return true; }

  DiscountedReturnsSeries(const DiscountedReturns<T>& arguments, std::int64_t outer)
      : cursor(arguments, outer, 0, 0),
        last_time(arguments.extents.time - 1),
        bootstrap(arguments.bootstrap ? *arguments.bootstrap.row(outer, 0) : T(0)) {}

  T initial() const { return bootstrap; }

  Affine<T> last() const { return cursor.template step<Pack<T, 1>>(last_time); }

  template <class P>
  [[gnu::always_inline]] Affine<typename P::Real> step(std::int64_t time) const {
    return cursor.template step<P>(time);
  }

  template <class P>
  [[gnu::always_inline]] void emit(std::int64_t time, typename P::Real result) const {
    P::store(cursor.returns + time, result);
  }

 private:
  DiscountedReturnsCursor<T> cursor;
  std::int64_t last_time;
  T bootstrap;
};

}  // namespace
}  // namespace metafast::returns
