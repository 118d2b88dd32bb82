// The exponential form of additive scores: (Q + K) H exponentials instead of Q K H hyperbolic tangents.
//
// With e = exp(2q) exp(2k) and sigma = 1 / (1 + e), tanh(q + k) = 1 - 2 sigma, and the softmax cancels the sum of the
// weights, so score = -2 sum_h w_h sigma_h. What is left for each query, key and column is one fused multiply-add
// D = 1 + e and one reciprocal, which neighbouring columns share: w1/D1 + w2/D2 = (w1 D2 + w2 D1) / (D1 D2).
// Four forms, by the range of a problem's keys:
//
//   folded    D = 1/w + exp(2q) (exp(2k)/w): the numerator is D1 + D2. Needs weights of similar magnitude.
//   separate  as above; any weights.
//   narrow    keys close together, in the backward passes: e - 1 = a + b + a b with a = exp(2q) - 1 and b = exp(2k) -
//   1,
//             so that tanh = (e - 1) / (e + 1) keeps its relative error where it is small.
//   direct    keys so far apart that products of exponentials would overflow: exp(2 (q + k)) or tanh of every element;
//             also a single query, which has nothing to share.
//
// Range. Keys are centred: c is the middle of a column's keys, R half their range, and q takes up c. A query beyond
// +-(R + kSaturation) is clamped there: q + k is then beyond kSaturation for every key, where tanh is +-1 to the last
// bit, and stays beyond it. So e <= exp(2 (2R + kSaturation)), for floats with R <= kMaxHalfRange at most 2^95.4; a
// foldable weight divides by at least 2^-24 and less than 2. With kScale on it D lies within 2^-59 and 2^61.4, its
// exponential of a query above 2^-119, and no product of two D leaves the normal numbers. For doubles the same bounds
// are 2^401, 2^-60, 2^-231 and 2^231.
//
// Error of a float score, u = 2^-24, relative to the sum of |w|. An exponential has 2.2 u (as vector_exp) and 1 u from
// the compensation of its argument, whose own rounding is compensated; that of a key 1 u more from the division by w. D
// takes them with the share 1 - sigma of e in it, 1/w's 1 u with the share sigma, and 1 u of its own (2 u without fused
// multiply-adds, on v2): (1 - sigma) 7.4 u + sigma u + 2 u. Numerator, product, reciprocal estimate (2^-14, after one
// Newton step 2^-28) and the two factors of the quotient add 1, 1 and 2.1 u, and 2 u more in the separate form. Twice
// sigma times all this is at most 2 sigma (7.4 (1 - sigma) + sigma + 8.1) u <= 18.2 u. Clamping adds the 0.5 u that a
// tanh is short of 1 at kSaturation, and the sums over pairs of columns and then lanes, of W lanes,
// 2 (H / 2W + log2 W + 1) u. At H = 128 that is at most 37 u = 2.2e-6 on v4.
// This worst case has all roundings conspire. They do so in part where all columns are alike: 5e-7 was seen (8e-7 on
// v2, eager torch 4e-7). Over columns that differ they add up as independent errors do, and there
// tests/attention/test_additive_accuracy.py holds every level to 4.2 u = 2.5e-7, over all ranges.
// The direct form has no error of exponentials but that of q + k, as any implementation does.
//
// The identity tanh(q + k) = (tanh q + tanh k) / (1 + tanh q tanh k) is not usable: near saturation both sides of the
// fraction cancel.
#pragma once

#include "attention/additive.hpp"
#include "attention/shifted_exponential.hpp"
#include "common/lanes.hpp"

namespace metafast::attention {
namespace {

// shifted_exponential of a row.
template <bool minus_one, class T>
inline void exponentials(T* __restrict out, const T* __restrict x, const T* __restrict shift, const T* __restrict limit,
                         T sign, T scale, std::int64_t width) {
  for (std::int64_t h = 0; h < width; ++h)
    out[h] = shifted_exponential<minus_one>(x[h], sign * shift[h], limit[h], scale);
}

// out = scale * exp(2 (q + k)): the direct form's, one row for each query and key.
template <class T>
inline void direct_exponentials(T* __restrict out, const T* __restrict q, const T* __restrict k, T scale,
                                std::int64_t width) {
  // Beyond this tanh is +-1, and products of two stay normal numbers.
  constexpr T limit = Range<T>::kSaturation + 2;
  for (std::int64_t h = 0; h < width; ++h) {
    const T sum = q[h] + k[h];
    const T low = sum < -limit ? -limit : sum;
    const T clamped = low > limit ? limit : low;
    out[h] = scale * normal_exp<false>(clamped + clamped);
  }
}

// out = tanh(q + k).
template <class T>
inline void direct_tanhs(T* __restrict out, const T* __restrict q, const T* __restrict k, std::int64_t width) {
  for (std::int64_t h = 0; h < width; ++h) out[h] = vector_tanh(q[h] + k[h]);
}

}  // namespace
}  // namespace metafast::attention
