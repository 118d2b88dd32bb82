// The exponential form of additive scores: (Q + K) H exponentials instead of Q K H hyperbolic tangents.
//
// With e = exp(2q) exp(2k) and sigma = 1 / (1 + e), tanh(q + k) = 1 - 2 sigma, and the softmax cancels the sum of the
// weights, so score = -2 sum_h w_h sigma_h. What is left for each query, key and column is one fused multiply-add
// D = 1 + e and one reciprocal, which neighbouring columns share: w1/D1 + w2/D2 = (w1 D2 + w2 D1) / (D1 D2).
// Four forms, by the range of a problem's keys:
//
//   folded    D = 1/w + exp(2q) (exp(2k)/w): the numerator is D1 + D2. Needs weights of similar magnitude.
//   separate  as above; any weights.
//   narrow    keys close together, in the backward passes: e - 1 = a + b + a b with a = exp(2q) - 1 and b = exp(2k) - 1,
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
#include "common/lanes.hpp"
#include "common/vector_math.hpp"

namespace metafast::attention {
namespace {

template <class T>
struct Range;

template <>
struct Range<float> {
  static constexpr float kSaturation = 9.05f;
  static constexpr float kMaxHalfRange = 12.0f;
  static constexpr float kNarrow = 0.5f;  // as half a range; 1 + b is then at least 1/e, and a + b + a b does not cancel
  static constexpr float kScale = 0x1p-58f;
  static constexpr float kFoldable = 0x1p-24f;  // least magnitude of a weight beside a largest in [1, 2)
};

template <>
struct Range<double> {
  static constexpr double kSaturation = 19.1;
  static constexpr double kMaxHalfRange = 60.0;
  static constexpr double kNarrow = 0.5;
  static constexpr double kScale = 0x1p-230;
  static constexpr double kFoldable = 0x1p-60;
};

// exp for arguments whose exponential is a normal number, and NaN; less 1 where `minus_one`.
template <bool minus_one, class T>
METAFAST_FORMULA T normal_exp(T x) {
  const auto reduced = vector_math::reduce_exponential(x);
  const T power = vector_math::power_of_two<T>(reduced.exponent);
  return (minus_one ? power - T(1) : power) + power * reduced.fraction;
}

// out = scale * exp(2 (x + sign * shift)), with the sum clamped to +-limit; NaN stays. The rounding of the sum (Knuth's
// two-sum finds it) is taken up by the first order of the exponential. `minus_one`: exp - 1.
template <bool minus_one, class T>
inline void exponentials(T* __restrict out, const T* __restrict x, const T* __restrict shift, const T* __restrict limit,
                         T sign, T scale, std::int64_t width) {
  for (std::int64_t h = 0; h < width; ++h) {
    const T a = x[h], b = sign * shift[h];
    const T sum = a + b;
    const T part = sum - a;
    const T lost = (a - (sum - part)) + (b - part);
    const T low = sum < -limit[h] ? -limit[h] : sum;
    const T clamped = low > limit[h] ? limit[h] : low;
    const T rest = clamped == sum ? lost : T(0);
    const T exponential = scale * normal_exp<minus_one>(clamped + clamped);
    out[h] = exponential + (minus_one ? exponential + scale : exponential) * (rest + rest);
  }
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

template <class T>
inline void fill(T* out, std::int64_t begin, std::int64_t end, T value) {
  for (std::int64_t index = begin; index < end; ++index) out[index] = value;
}

template <class T>
void weigh(const Additive<T>& arguments, T* score_weights, T* weights, T* floors, T* factors, bool* foldable) {
  const std::int64_t width = arguments.extents.width, padded_width = padded<T>(width);
  for (std::int64_t head = 0; head < arguments.extents.heads; ++head) {
    const T* given = arguments.score_weight.of(arguments.extents, head);
    T largest = 0, smallest = T(__builtin_inf());
    for (std::int64_t h = 0; h < width; ++h) {
      const T magnitude = __builtin_fabs(given[h]);
      largest = magnitude > largest ? magnitude : largest;
      smallest = magnitude < smallest ? magnitude : smallest;
    }
    // By a power of two, so that nothing is rounded. Where no number in [1, 2) can be had, as it is.
    const bool scalable = largest > 0 && largest < T(__builtin_inf());
    int exponent = 0;
    if (scalable) (void)__builtin_frexp(largest, &exponent);
    // In two steps, each a normal number.
    const int half = scalable ? (exponent - 1) / 2 : 0, rest = scalable ? exponent - 1 - half : 0;
    const T down = T(__builtin_ldexp(1.0, -half)), further_down = T(__builtin_ldexp(1.0, -rest));
    for (std::int64_t h = 0; h < padded_width; ++h) {
      const T weight = h < width ? given[h] * down * further_down : T(0);
      score_weights[head * padded_width + h] = h < width ? given[h] : T(0);
      weights[head * padded_width + h] = weight;
      // A padding column's denominator is so large that it adds nothing.
      floors[head * padded_width + h] = h < width ? Range<T>::kScale / weight : T(1) / Range<T>::kScale;
    }
    foldable[head] = scalable && smallest * down * further_down >= Range<T>::kFoldable;
    factors[head] = T(-2) * Range<T>::kScale / down / further_down;
  }
}

// Finds the keys that take part; the mask is read once, because its owner may write to it meanwhile.
template <class T>
std::int64_t gather_active(const Additive<T>& arguments, std::int64_t problem, std::int32_t* active) {
  const std::int64_t batch = problem / arguments.extents.heads;
  const std::int64_t end = arguments.selection.end(batch, arguments.extents.keys);
  std::int64_t count = 0;
  for (std::int64_t key = 0; key < end; ++key) {
    active[count] = static_cast<std::int32_t>(key);
    count += arguments.selection.takes(batch, key);
  }
  return count;
}

// Centres and half ranges of the columns of the active keys; returns the widest half range, NaN where there is no finite one.
template <class T>
T find_ranges(const T* key, std::int64_t stride, const PreparedKeys<T>& prepared, std::int64_t width) {
  T* __restrict low = prepared.centres;
  T* __restrict high = prepared.limits;
  fill(low, 0, width, T(__builtin_inf()));
  fill(high, 0, width, T(-__builtin_inf()));
  for (std::int64_t index = 0; index < *prepared.count; ++index) {
    const T* __restrict row = key + prepared.active[index] * stride;
    for (std::int64_t h = 0; h < width; ++h) {
      // A NaN is passed over: its row is NaN whatever the centre.
      low[h] = row[h] < low[h] ? row[h] : low[h];
      high[h] = row[h] > high[h] ? row[h] : high[h];
    }
  }
  T widest = 0;
  bool finite = true;
  for (std::int64_t h = 0; h < width; ++h) {
    const bool any = low[h] <= high[h];
    const T centre = any ? T(0.5) * low[h] + T(0.5) * high[h] : T(0);
    const T below = centre - low[h], above = high[h] - centre;
    const T half_range = !any ? T(0) : below > above ? below : above;
    finite = finite && half_range <= T(0x1p100);
    widest = half_range > widest ? half_range : widest;
    prepared.centres[h] = centre;
    prepared.limits[h] = half_range + Range<T>::kSaturation;
  }
  return finite ? widest : T(__builtin_nan(""));
}

template <class T>
void prepare(const Additive<T>& arguments, std::int64_t problem, Form wanted, const PreparedKeys<T>& prepared) {
  const std::int64_t width = arguments.extents.width, padded_width = padded<T>(width);
  const std::int64_t head = problem % arguments.extents.heads;
  const T* key = arguments.key.of(arguments.extents, problem);
  const std::int64_t count = *prepared.count = gather_active(arguments, problem, prepared.active);
  const auto choose = [&] {
    if (wanted == Form::direct) return Form::direct;
    const T widest = find_ranges(key, arguments.key.row_stride, prepared, width);
    if (!(widest <= Range<T>::kMaxHalfRange)) return Form::direct;
    if (wanted == Form::folded && arguments.table.foldable[head]) return Form::folded;
    return wanted == Form::narrow && widest <= Range<T>::kNarrow ? Form::narrow : Form::separate;
  };
  const Form form = *prepared.form = choose();
  const T* __restrict weights = arguments.table.weights + head * padded_width;
  for (std::int64_t index = 0; index < count; ++index) {
    const T* from = key + prepared.active[index] * arguments.key.row_stride;
    T* __restrict row = prepared.rows + index * padded_width;
    if (form == Form::direct) {
      __builtin_memcpy(row, from, sizeof(T) * width);
    } else if (form == Form::narrow) {
      exponentials<true>(row, from, prepared.centres, prepared.limits, T(-1), T(1), width);
    } else {
      exponentials<false>(row, from, prepared.centres, prepared.limits, T(-1), T(1), width);
      if (form == Form::folded)
        for (std::int64_t h = 0; h < width; ++h) row[h] /= weights[h];
    }
    fill(row, width, padded_width, T(0));
  }
  fill(prepared.rows, count * padded_width, padded<T>(count) * padded_width, T(0));
}

// The query's side of the products: its exponentials, times `scale`; less 1 (narrow), or its elements (direct).
template <class T>
inline void prepare_query(const Additive<T>& arguments, const PreparedKeys<T>& prepared, const T* query, T scale, T* out) {
  const std::int64_t width = arguments.extents.width;
  if (*prepared.form == Form::direct)
    __builtin_memcpy(out, query, sizeof(T) * width);
  else if (*prepared.form == Form::narrow)
    exponentials<true>(out, query, prepared.centres, prepared.limits, T(1), T(1), width);
  else
    exponentials<false>(out, query, prepared.centres, prepared.limits, T(1), scale, width);
  fill(out, width, padded<T>(width), T(0));
}

}  // namespace
}  // namespace metafast::attention
