// What is done once for all queries: tables of the score weights, the keys that take part, and their exponentials.
#pragma once

#include "attention/exponential_form.hpp"

namespace metafast::attention {
namespace {

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

// Centres and half ranges of the columns of the active keys; returns the widest half range, NaN where there is no
// finite one.
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
inline void prepare_query(const Additive<T>& arguments, const PreparedKeys<T>& prepared, const T* query, T scale,
                          T* out) {
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
