// The forms of the card's sums: their scales and the ranges that they take.
//
// Quads, D = 1/w + exp(2q) (exp(2k)/w), add four reciprocals with one division: from N/P = 1/D1 the next column makes
// N := N D + P, P := P D, so that an element costs three instructions at whatever length; at four the special-function
// unit, which has an eighth of the speed, is not what the sum waits for. P stays among the normal numbers:
//
//   Weights are scaled to a largest magnitude in [1, 2), D by 2^-30, so |D| > 2^-31 and P > 2^-124. With R the widest
//   half range, e <= exp(2 (2R + kSaturation)); where 1 + e <= 2^61 times the least weight that is not 0, |D| <= 2^31
//   and P <= 2^124. Column by column: a weight of 0 is given D = 2^31 and a key of 0 (a NaN stays), so that it adds
//   2^-62 of what the largest weight may.
//
// An error of D is one of 1/D alone, whatever the signs; a rounded P enters N and the next P alike, so that it and a
// rounded N count as errors of the sum so far. The first two columns bring 2 u, each further one 2 u, the estimate 2 u
// and the last fused multiply-add 1 u: at most 9 u of a quad's sum where the CPU has 4.1 u of a pair's
// (exponential_form.hpp), and in practice they average out: the CPU's bounds are those of tests/attention/
// test_cuda_additive.py, where every estimate is as wrong as the card's may be.
//
// Pairs are the CPU's separate form, at 2^-58; direct tanh takes the rest.
#pragma once

#include "attention/additive_device.hpp"
#include "attention/device_rows.cuh"
#include "attention/shifted_exponential.hpp"

namespace metafast::attention {
namespace {

constexpr float kQuadScale = 0x1p-30f, kQuadPadding = 0x1p31f;
constexpr int kQuadBits = 61;

// Whether 1 + e is at most 2^kQuadBits times a weight of this exponent.
__device__ __forceinline__ bool fits_quads(float widest, std::int32_t smallest_exponent) {
  const float bits = 2.8853902f * (2 * widest + Range<float>::kSaturation);
  return bits - static_cast<float>(smallest_exponent) <= kQuadBits - 0.01f;
}
__device__ __forceinline__ bool fits_quads(double, std::int32_t) { return false; }

// What a query's exponentials are multiplied with.
template <class T>
__device__ __forceinline__ T query_scale(DeviceForm form) {
  return form == DeviceForm::quads ? T(kQuadScale) : form == DeviceForm::pairs ? Range<T>::kScale : T(0.5);
}

}  // namespace

// Queues what makes query_rows of the queries.
template <class T>
void prepare_queries(const DeviceAdditive<T>&, const Stream&);

}  // namespace metafast::attention
