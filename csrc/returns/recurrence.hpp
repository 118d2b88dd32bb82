// The recurrences behind every return estimator, once, for CPU and CUDA.
//
// An estimator turns each step into a first-order affine recurrence that runs backwards in time,
//
//     A_t = offset_t + decay_t * A_{t+1},
//
// and a driver solves it. A decay of 0 cuts the recurrence: what lies behind an episode's end is not multiplied by
// zero but not looked at, so NaN and infinity never cross it. `Real` and `Mask` are a scalar and bool, or vectors.
#pragma once

#include "common/host_device.hpp"

namespace metafast {

template <class Real>
struct Affine {
  Real offset;
  Real decay;
};

// A_t from A_{t+1}.
template <class Real>
METAFAST_FORMULA Real carry_back(const Affine<Real>& step, Real next) {
  return step.decay == Real{} ? step.offset : step.offset + step.decay * next;
}

// The recurrence of `step` followed (later in time) by `next`, so that chunks of time can be joined in any grouping.
template <class Real>
METAFAST_FORMULA Affine<Real> compose(const Affine<Real>& step, const Affine<Real>& next) {
  const auto cut = step.decay == Real{};
  return {cut ? step.offset : step.offset + step.decay * next.offset, cut ? Real{} : step.decay * next.decay};
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

}  // namespace metafast
