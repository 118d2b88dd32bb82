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
      : rewards(cursor_at(arguments.rewards, outer, time, column)),
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

  const T *rewards, *final_values;
  const std::uint8_t *terminated, *truncated;
  CoefficientCursor<T> gamma;
  T* returns;
};

template <class T>
struct DiscountedReturnsRows {
  DiscountedReturnsRows(const DiscountedReturns<T>& arguments, std::int64_t outer, std::int64_t first_column,
                        std::int64_t)
      : arguments(arguments), outer(outer), first_column(first_column), cursor(arguments, outer, 0, first_column) {}

  T initial(std::int64_t column) const {
    return arguments.bootstrap ? arguments.bootstrap.row(outer, 0)[first_column + column] : T(0);
  }

  void move_to(std::int64_t time) { cursor = DiscountedReturnsCursor<T>(arguments, outer, time, first_column); }

  template <class P, bool kStream>
  [[gnu::always_inline]] typename P::Real solve(std::int64_t column, typename P::Real next) const {
    const auto result = carry_back(cursor.template step<P>(column), next);
    write<kStream, P>(cursor.returns + column, result);
    return result;
  }

  std::int64_t outputs_to_boundary() const { return elements_to_boundary(cursor.returns); }

 private:
  const DiscountedReturns<T>& arguments;
  const std::int64_t outer, first_column;
  DiscountedReturnsCursor<T> cursor;
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

  template <class P, bool kStream>
  [[gnu::always_inline]] void emit(std::int64_t time, typename P::Real result) const {
    write<kStream, P>(cursor.returns + time, result);
  }

  std::int64_t outputs_from_boundary(std::int64_t time) const { return elements_past_boundary(cursor.returns + time); }

 private:
  DiscountedReturnsCursor<T> cursor;
  std::int64_t last_time;
  T bootstrap;
};

}  // namespace
}  // namespace metafast::returns
