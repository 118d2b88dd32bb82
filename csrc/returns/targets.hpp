// Discounted returns, lambda-returns, Retrace and the bare recurrence in the drivers' terms.
#pragma once

#include "returns/formula.hpp"

namespace metafast::returns {
namespace {

// One result, which is what the recurrence solves for.
struct Target {
  static constexpr int kResults = 1;
  static constexpr bool kMasked = false;
  static constexpr bool kCompanion = false;
  static constexpr bool kReadsFinalValues = false;
  static constexpr bool kEitherWay = false;

  template <class Real>
  struct Step {
    Affine<Real> affine;
  };

  template <class P, bool kStream, class Walk, class Step, class Real>
  METAFAST_FORMULA void emit(const Walk& walk, std::int64_t index, const Step&, Real, Real solved) {
    walk.template write<P, kStream>(0, index, solved);
  }
};

struct DiscountedReturns : Target {
  using Inputs = InputList<kRewards, kFinalValues>;
  static constexpr bool kReadsFinalValues = true;

  template <class Problem, class T = typename Problem::Element>
  METAFAST_FORMULA T initial(const Problem& problem, std::int64_t outer, std::int64_t column) {
    return problem.has(kNextValues) ? problem.read(kNextValues, outer, 0, column) : T(0);
  }

  template <class P, class Walk, class Real = typename P::Real>
  METAFAST_FORMULA Step<Real> step(const Walk& walk, std::int64_t index, Real) {
    return {discounted_return_step(walk.template input<P>(kRewards, index), walk.template successor<P>(index, Real{}),
                                   walk.template flag<P>(kTerminated, index), walk.template flag<P>(kTruncated, index),
                                   walk.template factor<P>(kGamma, index))};
  }
};

struct LambdaReturns : Target {
  using Inputs = InputList<kRewards, kNextValues>;

  template <class Problem, class T = typename Problem::Element>
  METAFAST_FORMULA T initial(const Problem& problem, std::int64_t outer, std::int64_t column) {
    return problem.read(kNextValues, outer, problem.extents.time - 1, column);
  }

  template <class P, class Walk, class Real = typename P::Real>
  METAFAST_FORMULA Step<Real> step(const Walk& walk, std::int64_t index, Real) {
    return {lambda_return_step<P>(walk.template input<P>(kRewards, index), walk.template input<P>(kNextValues, index),
                                  walk.template flag<P>(kTerminated, index), walk.template flag<P>(kTruncated, index),
                                  walk.template factor<P>(kGamma, index), walk.template factor<P>(kLam, index))};
  }
};

struct Retrace : Target {
  using Inputs = InputList<kNextQExpected, kNextQ, kLogRhos, kRewards>;
  static constexpr bool kCompanion = true;

  template <class Problem, class T = typename Problem::Element>
  METAFAST_FORMULA T initial(const Problem&, std::int64_t, std::int64_t) {
    return T(0);
  }
  // Behind the last step nothing is traced.
  template <class Problem, class T = typename Problem::Element>
  METAFAST_FORMULA T initial_companion(const Problem&, std::int64_t, std::int64_t) {
    return T(0);
  }
  template <class P, class Walk, class Real = typename P::Real>
  METAFAST_FORMULA Real companion(const Walk& walk, std::int64_t index) {
    const Real rho = walk.template exponential<P>(walk.template input<P>(kLogRhos, index));
    const Real one = P::fill(1);
    return walk.template factor<P>(kLam, index) * (rho > one ? one : rho);
  }

  template <class P, class Walk, class Real = typename P::Real>
  METAFAST_FORMULA Step<Real> step(const Walk& walk, std::int64_t index, Real next_trace) {
    return {retrace_step(walk.template input<P>(kRewards, index), walk.template input<P>(kNextQExpected, index),
                         walk.template input<P>(kNextQ, index), next_trace, walk.template flag<P>(kTerminated, index),
                         walk.template flag<P>(kTruncated, index), walk.template factor<P>(kGamma, index))};
  }
};

// The recurrence itself, with nothing after the last step. With negative time strides it runs forwards in time, which
// is the adjoint of every estimator.
struct AffineScan : Target {
  using Inputs = InputList<kOffsets, kDecays>;
  static constexpr bool kEitherWay = true;

  template <class Problem, class T = typename Problem::Element>
  METAFAST_FORMULA T initial(const Problem&, std::int64_t, std::int64_t) {
    return T(0);
  }

  template <class P, class Walk, class Real = typename P::Real>
  METAFAST_FORMULA Step<Real> step(const Walk& walk, std::int64_t index, Real) {
    return {{walk.template input<P>(kOffsets, index), walk.template input<P>(kDecays, index)}};
  }
};

}  // namespace
}  // namespace metafast::returns
