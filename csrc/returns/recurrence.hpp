// The recurrences behind the return estimators, once, for CPU and CUDA.
//
// An estimator turns each step into a first-order affine recurrence that runs backwards in time,
//
//     A_t = offset_t + decay_t * A_{t+1},
//
// and a driver solves it. A decay of 0 cuts the recurrence: what lies behind an episode's end is not multiplied by
// zero but not looked at, so NaN and infinity never cross it. Two estimators do not fit. The n-step return is a
// window over the recurrence and not its solution (n_step_returns.hpp joins the windows by doubling, out of the same
// `compose`); the group advantages compare samples and know no time.
//
// `P` names the arithmetic: P::Real and P::Mask are a scalar and bool, or vectors, and P::multiply_add is rounded
// once where the processor can.
#pragma once

#include "common/host_device.hpp"

namespace metafast {

template <class Real>
struct Affine {
  Real offset;
  Real decay;
};

// A_t from A_{t+1}.
template <class P, class Real>
METAFAST_FORMULA Real carry_back(const Affine<Real>& step, Real next) {
  return step.decay != Real{} ? P::multiply_add(step.decay, next, step.offset) : step.offset;
}

// The recurrence of `step` followed (later in time) by `next`, so that chunks of time can be joined in any grouping.
template <class P, class Real>
METAFAST_FORMULA Affine<Real> compose(const Affine<Real>& step, const Affine<Real>& next) {
  const auto joined = step.decay != Real{};
  return {joined ? P::multiply_add(step.decay, next.offset, step.offset) : step.offset,
          joined ? step.decay * next.decay : Real{}};
}

// What a masked step does: nothing. The recurrence passes through.
template <class P, class Real, class Mask>
METAFAST_FORMULA Affine<Real> only_where(Mask taken, const Affine<Real>& step) {
  return {taken ? step.offset : Real{}, taken ? step.decay : P::fill(1)};
}

// Generalised advantage estimation (Schulman et al. 2016, equations 11 and 16):
// delta_t = r_t + gamma V(s_{t+1}) - V(s_t), A_t = delta_t + gamma lambda A_{t+1}.
template <class Real, class Mask>
METAFAST_FORMULA Affine<Real> gae_step(Real reward, Real value, Real next_value, Mask terminated, Mask truncated,
                                       Real gamma, Real lam) {
  const Real successor = terminated ? Real{} : gamma * next_value;
  const Real decay = terminated ? Real{} : gamma * lam;
  return {reward + successor - value, truncated ? Real{} : decay};
}

// Discounted return-to-go (Sutton and Barto 2018, equation 3.9): G_t = r_t + gamma G_{t+1}; after a truncated step
// the value of its true successor stands for the rest.
template <class Real, class Mask>
METAFAST_FORMULA Affine<Real> discounted_return_step(Real reward, Real final_value, Mask terminated, Mask truncated,
                                                     Real gamma) {
  const Real decay = terminated ? Real{} : gamma;
  const Real rest = terminated ? Real{} : gamma * final_value;
  return {truncated ? reward + rest : reward, truncated ? Real{} : decay};
}

// The lambda-return (Sutton and Barto 2018, equation 12.3; with the greedy value for V it is Peng's Q(lambda), 1996):
// G_t = r_t + gamma ((1 - lambda) V(s_{t+1}) + lambda G_{t+1}). Where lambda is 1 the value is not looked at.
template <class P, class Real, class Mask>
METAFAST_FORMULA Affine<Real> lambda_return_step(Real reward, Real next_value, Mask terminated, Mask truncated,
                                                 Real gamma, Real lam) {
  const Real weight = truncated ? P::fill(1) : P::fill(1) - lam;
  const Real blend = weight == Real{} ? Real{} : weight * next_value;
  const Real decay = terminated ? Real{} : gamma * lam;
  return {reward + (terminated ? Real{} : gamma * blend), truncated ? Real{} : decay};
}

// V-trace (Espeholt et al. 2018, equation 1), for A_t = v_t - V(s_t):
// A_t = min(clip_rho, rho_t) delta_t + gamma lambda min(clip_c, rho_t) A_{t+1}.
template <class Real, class Mask>
METAFAST_FORMULA Affine<Real> vtrace_step(Real reward, Real value, Real next_value, Mask terminated, Mask truncated,
                                          Real gamma, Real lam, Real rho, Real clip_rho, Real clip_c) {
  const Real weight = rho > clip_rho ? clip_rho : rho;
  const Real trace = rho > clip_c ? clip_c : rho;
  const Affine<Real> step = gae_step(reward, value, next_value, terminated, truncated, gamma, lam * trace);
  return {weight == Real{} ? Real{} : weight * step.offset, step.decay};
}

// The advantage that V-trace's policy gradient takes (Espeholt et al. 2018, section 4.2):
// min(clip_pg_rho, rho_t) (r_t + gamma v_{t+1} - V(s_t)), where v_{t+1} = V(s_{t+1}) + A_{t+1}.
template <class Real, class Mask>
METAFAST_FORMULA Real vtrace_policy_advantage(Real reward, Real value, Real next_value, Real next_advantage,
                                              Mask terminated, Mask truncated, Real gamma, Real rho,
                                              Real clip_pg_rho) {
  const Real target = truncated ? next_value : next_value + next_advantage;
  const Real weight = rho > clip_pg_rho ? clip_pg_rho : rho;
  const Real advantage = reward + (terminated ? Real{} : gamma * target) - value;
  return weight == Real{} ? Real{} : weight * advantage;
}

// Retrace (Munos et al. 2016, equations 3 and 4), for the target G_t of Q(s_t, a_t):
// G_t = r_t + gamma (E_pi Q(s_{t+1}, .) + c_{t+1} (G_{t+1} - Q(s_{t+1}, a_{t+1}))), c = lambda min(1, rho).
template <class Real, class Mask>
METAFAST_FORMULA Affine<Real> retrace_step(Real reward, Real next_q_expected, Real next_q, Real next_trace,
                                           Mask terminated, Mask truncated, Real gamma) {
  const auto cut = truncated | (next_trace == Real{});
  const Real correction = cut ? Real{} : next_trace * next_q;
  const Real rest = terminated ? Real{} : gamma * (next_q_expected - correction);
  return {reward + rest, (cut | terminated) ? Real{} : gamma * next_trace};
}

// Upgoing policy update (Vinyals et al. 2019, methods): the return follows the trajectory while it does better than
// the value. C_t is what the step before bootstraps from: G_t where r_t + gamma V(s_{t+1}) >= V(s_t), else V(s_t).
template <class Real, class Mask>
METAFAST_FORMULA Affine<Real> upgo_step(Real reward, Real value, Real next_value, Mask terminated, Mask truncated,
                                        Real gamma) {
  const Real expected = reward + (terminated ? Real{} : gamma * next_value);
  const auto better = expected >= value;
  const Affine<Real> step = discounted_return_step(reward, next_value, terminated, truncated, gamma);
  return {better ? step.offset : value, better ? step.decay : Real{}};
}

}  // namespace metafast
