// Activation functions of network layers, and their derivatives from what the layer put out.
//
// In float, tanh is one rational function, x P(x^2) / Q(x^2), to 3e-7 absolutely and relatively: a tanh of the common
// room's accuracy (vector_math.hpp) would take as long as the rest of a small network. In double it is that one.
#pragma once

#include <cstdint>

#include "common/host_device.hpp"
#include "common/vector_math.hpp"
#include "nn/columns.hpp"
#include "nn/network.hpp"

namespace metafast {

// From common/vector_math_polynomials.py, "tanh of networks"; beyond 7.9 it stays where it is, 3e-7 from 1. `x` is
// within [-7.9, 7.9], a number or a vector of them.
constexpr float kTanhRange = 7.9f;
template <class Real>
METAFAST_FORMULA Real tanh_within_range(Real x) {
  const Real z = x * x;
  Real p = 0x1.717c90p-16f + z * 0x1.090c22p-26f;
  p = 0x1.d51ac8p-9f + z * p;
  p = 0x1.1377f4p-3f + z * p;
  p = 1.0f + z * p;
  Real q = 0x1.66fe94p-12f + z * 0x1.cda3b6p-21f;
  q = 0x1.ad2216p-6f + z * q;
  q = 0x1.df114cp-2f + z * q;
  q = 1.0f + z * q;
  return x * p / q;
}

METAFAST_FORMULA float network_tanh(float x) {
  x = x > kTanhRange ? kTanhRange : x;  // a NaN stays
  x = x < -kTanhRange ? -kTanhRange : x;
  return tanh_within_range(x);
}

METAFAST_FORMULA double network_tanh(double x) { return vector_tanh(x); }

template <class T>
METAFAST_FORMULA T network_sigmoid(T x) {
  return T(0.5) + T(0.5) * network_tanh(T(0.5) * x);
}

// log(1 + exp(x)).
template <class T>
METAFAST_FORMULA T softplus(T x) {
  const T magnitude = x < T(0) ? -x : x;
  const T positive = x < T(0) ? T(0) : x;
  const T e = vector_exp(-magnitude);
  // log(1 + e) without what rounding 1 + e loses (Kahan): log(u) e / (u - 1).
  const T u = T(1) + e;
  const T lost = u - T(1);
  const T log = lost > T(0) ? vector_log(u) * (e / (lost > T(0) ? lost : T(1))) : e;
  return positive + log;
}

namespace {

// The same for a vector. Out of line in double, where it is long and speed matters less.
template <class P>
[[gnu::noinline]] void tanh_in_memory(double* lanes) {
  for (int lane = 0; lane < P::kWidth; ++lane) lanes[lane] = network_tanh(lanes[lane]);
}
template <class P>
[[gnu::always_inline]] inline typename P::Real tanh_of_lanes(typename P::Real x) {
  if constexpr (sizeof(typename P::Element) == 4) {
    return tanh_within_range(P::clamp(x, P::fill(-kTanhRange), P::fill(kTanhRange)));
  } else {
    double lanes[P::kWidth];
    P::store(lanes, x);
    tanh_in_memory<P>(lanes);
    return P::load(lanes);
  }
}
template <class P>
[[gnu::always_inline]] inline typename P::Real sigmoid_of_lanes(typename P::Real x) {
  const auto half = P::fill(typename P::Element(0.5));
  return P::multiply_add(half, tanh_of_lanes<P>(half * x), half);
}

// y = activation(y) in place, of all but tanh, which the product of the layer ends with (dense.hpp). Of silu, `sigmoids`
// keeps what its derivative needs.
template <class T>
void activate(Activation activation, std::int64_t count, T* __restrict y, T* __restrict sigmoids) {
  if (activation == Activation::relu) for_columns(count, [=](std::int64_t c) { y[c] = y[c] < T(0) ? T(0) : y[c]; });
  if (activation != Activation::silu) return;
  using P = Pack<T, kLanes<T>>;
  for (std::int64_t c = 0; c < count; c += P::kWidth) {
    const auto x = P::load(y + c), sigmoid = sigmoid_of_lanes<P>(x);
    P::store(sigmoids + c, sigmoid);
    P::store(y + c, x * sigmoid);
  }
}

// Turns the gradient of what the layer put out, `y`, into that of what went into its activation.
template <class T>
void deactivate(Activation activation, std::int64_t count, const T* __restrict y, const T* __restrict sigmoids,
                T* __restrict delta) {
  switch (activation) {
    case Activation::identity:
      return;
    case Activation::tanh:
      return for_columns(count, [=](std::int64_t c) { delta[c] *= T(1) - y[c] * y[c]; });
    case Activation::relu:
      return for_columns(count, [=](std::int64_t c) { delta[c] = y[c] > T(0) ? delta[c] : T(0); });
    case Activation::silu:
      return for_columns(count, [=](std::int64_t c) { delta[c] *= sigmoids[c] + y[c] * (T(1) - sigmoids[c]); });
  }
}

}  // namespace
}  // namespace metafast
