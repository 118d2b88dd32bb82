// GAE, V-trace and UPGO in the drivers' terms: the estimators that compare with the values of the states.
#pragma once

#include "returns/formula.hpp"

namespace metafast::returns {
namespace {

// What the value of a successor comes from: next_values in the shape of the rewards; or, bootstrapped, the value of
// the step after, final_values where truncated.
template <bool kBootstrapped>
struct Successors {
  static constexpr bool kCompanion = kBootstrapped;
  static constexpr bool kReadsFinalValues = kBootstrapped;
  static constexpr bool kEitherWay = false;

  template <class Problem, class T = typename Problem::Element>
  METAFAST_FORMULA T initial_companion(const Problem& problem, std::int64_t outer, std::int64_t column) {
    return problem.read(kNextValues, outer, 0, column);
  }
  template <class P, class Walk>
  METAFAST_FORMULA typename P::Real companion(const Walk& walk, std::int64_t index) {
    return walk.template input<P>(kValues, index);
  }
  template <class P, class Walk>
  METAFAST_FORMULA typename P::Real next_value(const Walk& walk, std::int64_t index, typename P::Real next_companion) {
    if constexpr (kBootstrapped)
      return walk.template successor<P>(index, next_companion);
    else
      return walk.template input<P>(kNextValues, index);
  }
};

template <bool kBootstrapped, bool kSomeMasked>
struct Gae : Successors<kBootstrapped> {
  using Inputs = InputList<kRewards, kValues, kNextValues, kFinalValues>;
  static constexpr int kResults = 2;
  static constexpr bool kMasked = kSomeMasked;

  template <class Problem, class T = typename Problem::Element>
  METAFAST_FORMULA T initial(const Problem&, std::int64_t, std::int64_t) {
    return T(0);
  }

  template <class Real, class Mask>
  struct Step {
    Affine<Real> affine;
    Real value;
    Mask taken;
  };

  template <class P, class Walk, class Real = typename P::Real>
  METAFAST_FORMULA Step<Real, typename P::Mask> step(const Walk& walk, std::int64_t index, Real next_companion) {
    // Field by field: of a structure that is copied gcc 12 keeps the vectors in memory.
    Step<Real, typename P::Mask> step;
    step.value = walk.template input<P>(kValues, index);
    const auto affine =
        gae_step(walk.template input<P>(kRewards, index), step.value,
                 Successors<kBootstrapped>::template next_value<P>(walk, index, next_companion),
                 walk.template flag<P>(kTerminated, index), walk.template flag<P>(kTruncated, index),
                 walk.template factor<P>(kGamma, index), walk.template factor<P>(kLam, index));
    step.affine.offset = affine.offset;
    step.affine.decay = affine.decay;
    if constexpr (kMasked) {
      step.taken = walk.template flag<P>(kMask, index);
      const auto held = only_where<P>(step.taken, affine);
      step.affine.offset = held.offset;
      step.affine.decay = held.decay;
    }
    return step;
  }

  template <class P, bool kStream, class Walk, class Step, class Real>
  METAFAST_FORMULA void emit(const Walk& walk, std::int64_t index, const Step& step, Real, Real solved) {
    const Real zero{};
    if constexpr (kMasked) {
      walk.template write<P, kStream>(0, index, step.taken ? solved : zero);
      walk.template write<P, kStream>(1, index, step.taken ? solved + step.value : zero);
    } else {
      walk.template write<P, kStream>(0, index, solved);
      walk.template write<P, kStream>(1, index, solved + step.value);
    }
  }
};

template <bool kBootstrapped>
struct Vtrace : Successors<kBootstrapped> {
  using Inputs = InputList<kLogRhos, kRewards, kValues, kNextValues, kFinalValues>;
  static constexpr int kResults = 2;
  static constexpr bool kMasked = false;

  template <class Problem, class T = typename Problem::Element>
  METAFAST_FORMULA T initial(const Problem&, std::int64_t, std::int64_t) {
    return T(0);
  }

  template <class Real, class Mask>
  struct Step {
    Affine<Real> affine;
    Real reward, value, next_value, gamma, rho;
    Mask terminated, truncated;
  };

  template <class P, class Walk, class Real = typename P::Real>
  METAFAST_FORMULA Step<Real, typename P::Mask> step(const Walk& walk, std::int64_t index, Real next_companion) {
    const auto& problem = walk.problem;
    Step<Real, typename P::Mask> step;
    step.reward = walk.template input<P>(kRewards, index);
    step.value = walk.template input<P>(kValues, index);
    step.next_value = Successors<kBootstrapped>::template next_value<P>(walk, index, next_companion);
    step.gamma = walk.template factor<P>(kGamma, index);
    step.rho = walk.template exponential<P>(walk.template input<P>(kLogRhos, index));
    step.terminated = walk.template flag<P>(kTerminated, index);
    step.truncated = walk.template flag<P>(kTruncated, index);
    step.affine = vtrace_step(step.reward, step.value, step.next_value, step.terminated, step.truncated, step.gamma,
                              walk.template factor<P>(kLam, index), step.rho, P::fill(problem.clip_rho),
                              P::fill(problem.clip_c));
    return step;
  }

  template <class P, bool kStream, class Walk, class Step, class Real>
  METAFAST_FORMULA void emit(const Walk& walk, std::int64_t index, const Step& step, Real next, Real solved) {
    walk.template write<P, kStream>(0, index, step.value + solved);
    walk.template write<P, kStream>(
        1, index, vtrace_policy_advantage(step.reward, step.value, step.next_value, next, step.terminated,
                                          step.truncated, step.gamma, step.rho, P::fill(walk.problem.clip_pg_rho)));
  }
};

template <bool kBootstrapped>
struct Upgo : Successors<kBootstrapped> {
  using Inputs = InputList<kRewards, kValues, kNextValues, kFinalValues>;
  static constexpr int kResults = 1;
  static constexpr bool kMasked = false;

  // The step after the last bootstraps from its value.
  template <class Problem, class T = typename Problem::Element>
  METAFAST_FORMULA T initial(const Problem& problem, std::int64_t outer, std::int64_t column) {
    const std::int64_t last = problem.bootstrapped ? 0 : problem.extents.time - 1;
    return problem.read(kNextValues, outer, last, column);
  }

  template <class Real>
  struct Step {
    Affine<Real> affine;
    Affine<Real> target;
    Real value;
  };

  template <class P, class Walk, class Real = typename P::Real>
  METAFAST_FORMULA Step<Real> step(const Walk& walk, std::int64_t index, Real next_companion) {
    const Real reward = walk.template input<P>(kRewards, index);
    const Real value = walk.template input<P>(kValues, index);
    const Real next_value = Successors<kBootstrapped>::template next_value<P>(walk, index, next_companion);
    const auto terminated = walk.template flag<P>(kTerminated, index);
    const auto truncated = walk.template flag<P>(kTruncated, index);
    const Real gamma = walk.template factor<P>(kGamma, index);
    return {upgo_step(reward, value, next_value, terminated, truncated, gamma),
            discounted_return_step(reward, next_value, terminated, truncated, gamma), value};
  }

  template <class P, bool kStream, class Walk, class Real>
  METAFAST_FORMULA void emit(const Walk& walk, std::int64_t index, const Step<Real>& step, Real next, Real) {
    walk.template write<P, kStream>(0, index, carry_back<P>(step.target, next) - step.value);
  }
};

}  // namespace
}  // namespace metafast::returns
