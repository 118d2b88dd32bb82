// Vectors of as many elements as the instruction-set level holds, over the compiler's portable vector types.
//
// Pack<T, W> names the types for W elements and moves them; W = 1 is the plain scalar, so that a formula written
// once over `Real` and `Mask` (arithmetic, comparisons and `mask ? a : b` read the same for both) serves both.
// For kernel files only: everything here has internal linkage, because each level compiles its own copy.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace metafast {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

template <class T, int W>
struct VectorTypes;
#define METAFAST_VECTOR_TYPES(Element, Integer, W)                   \
  template <>                                                        \
  struct VectorTypes<Element, W> {                                   \
    typedef Element Real __attribute__((vector_size(sizeof(Element) * W)));  \
    typedef Integer Mask __attribute__((vector_size(sizeof(Integer) * W)));  \
    typedef std::uint8_t Bytes __attribute__((vector_size(W)));      \
  };
METAFAST_VECTOR_TYPES(float, std::int32_t, 4)
METAFAST_VECTOR_TYPES(float, std::int32_t, 8)
METAFAST_VECTOR_TYPES(float, std::int32_t, 16)
METAFAST_VECTOR_TYPES(double, std::int64_t, 2)
METAFAST_VECTOR_TYPES(double, std::int64_t, 4)
METAFAST_VECTOR_TYPES(double, std::int64_t, 8)
#undef METAFAST_VECTOR_TYPES

// Bytes to integers of the lanes' size. By intrinsics, because gcc 12 takes a generic conversion apart lane by lane.
template <class Mask, class Bytes>
[[gnu::always_inline]] inline Mask widen(Bytes bytes) {
#if defined(__SSE4_1__)
  __m128i low{};
  std::memcpy(&low, &bytes, sizeof(bytes));
  constexpr bool four_byte_lanes = sizeof(Mask) == 4 * sizeof(Bytes);
  if constexpr (sizeof(Mask) == 16) return (Mask)(four_byte_lanes ? _mm_cvtepu8_epi32(low) : _mm_cvtepu8_epi64(low));
#if defined(__AVX2__)
  if constexpr (sizeof(Mask) == 32)
    return (Mask)(four_byte_lanes ? _mm256_cvtepu8_epi32(low) : _mm256_cvtepu8_epi64(low));
#endif
#if defined(__AVX512F__)
  if constexpr (sizeof(Mask) == 64)
    return (Mask)(four_byte_lanes ? _mm512_maskz_cvtepu8_epi32(0xffff, low) : _mm512_maskz_cvtepu8_epi64(0xff, low));
#endif
#endif
  return __builtin_convertvector(bytes, Mask);
}

template <class T, int W>
struct Pack {
  static constexpr int kWidth = W;
  using Element = T;
  using Real = typename VectorTypes<T, W>::Real;
  using Mask = typename VectorTypes<T, W>::Mask;
  using Bytes = typename VectorTypes<T, W>::Bytes;

  [[gnu::always_inline]] static inline Real load(const T* from) {
    Real lanes;
    std::memcpy(&lanes, from, sizeof(lanes));
    return lanes;
  }
  [[gnu::always_inline]] static inline Mask load_mask(const std::uint8_t* from) {
    Bytes bytes;
    std::memcpy(&bytes, from, sizeof(bytes));
    return widen<Mask>(bytes) != 0;
  }
  [[gnu::always_inline]] static inline Real fill(T value) { return value - Real{}; }
  [[gnu::always_inline]] static inline void store(T* to, Real lanes) { std::memcpy(to, &lanes, sizeof(lanes)); }

  // a * b + c and c - a * b, rounded once where the level has such an instruction (v3 and v4), else twice.
  [[gnu::always_inline]] static inline Real multiply_add(Real a, Real b, Real c) {
#if defined(__AVX512F__)
    if constexpr (sizeof(Real) == 64 && sizeof(T) == 4) return (Real)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
    if constexpr (sizeof(Real) == 64 && sizeof(T) == 8) return (Real)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#endif
#if defined(__FMA__)
    if constexpr (sizeof(Real) == 32 && sizeof(T) == 4) return (Real)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
    if constexpr (sizeof(Real) == 32 && sizeof(T) == 8) return (Real)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
    if constexpr (sizeof(Real) == 16 && sizeof(T) == 4) return (Real)_mm_fmadd_ps((__m128)a, (__m128)b, (__m128)c);
    if constexpr (sizeof(Real) == 16 && sizeof(T) == 8) return (Real)_mm_fmadd_pd((__m128d)a, (__m128d)b, (__m128d)c);
#endif
    return a * b + c;
  }
  [[gnu::always_inline]] static inline Real subtract_product(Real a, Real b, Real c) {
    return multiply_add(-a, b, c);
  }

  // `value` within [low, high]; a NaN stays. By intrinsics, because gcc makes comparisons and masks of it (masked ones,
  // because gcc 12 finds the plain forms to read a vector that was never set).
  [[gnu::always_inline]] static inline Real clamp(Real value, Real low, Real high) {
#if defined(__AVX512F__)
    if constexpr (sizeof(Real) == 64 && sizeof(T) == 4)
      return (Real)_mm512_maskz_max_ps(0xffff, (__m512)low, _mm512_maskz_min_ps(0xffff, (__m512)high, (__m512)value));
#endif
#if defined(__AVX__)
    if constexpr (sizeof(Real) == 32 && sizeof(T) == 4)
      return (Real)_mm256_max_ps((__m256)low, _mm256_min_ps((__m256)high, (__m256)value));
#endif
#if defined(__SSE2__)
    if constexpr (sizeof(Real) == 16 && sizeof(T) == 4)
      return (Real)_mm_max_ps((__m128)low, _mm_min_ps((__m128)high, (__m128)value));
#endif
    value = value > high ? high : value;
    return value < low ? low : value;
  }

  // Past the caches, for results too large to be read back from them; `to` is aligned to the vector.
  [[gnu::always_inline]] static inline void stream(T* to, Real lanes) {
#if defined(__AVX512F__)
    if constexpr (sizeof(Real) == 64) return _mm512_stream_si512(reinterpret_cast<__m512i*>(to), (__m512i)lanes);
#endif
#if defined(__AVX__)
    if constexpr (sizeof(Real) == 32) return _mm256_stream_si256(reinterpret_cast<__m256i*>(to), (__m256i)lanes);
#endif
#if defined(__SSE2__)
    if constexpr (sizeof(Real) == 16) return _mm_stream_si128(reinterpret_cast<__m128i*>(to), (__m128i)lanes);
#endif
    store(to, lanes);
  }

  // Lane i takes lane i + shift of `lanes`, or of `beyond` where that is past the end.
  template <int shift>
  [[gnu::always_inline]] static inline Real shift_down(Real lanes, Real beyond) {
#if defined(__AVX512F__)
    // One instruction, of which gcc makes a permutation by table.
    if constexpr (sizeof(Real) == 64 && sizeof(T) == 4)
      return (Real)_mm512_maskz_alignr_epi32(0xffff, (__m512i)beyond, (__m512i)lanes, shift);
    if constexpr (sizeof(Real) == 64 && sizeof(T) == 8)
      return (Real)_mm512_maskz_alignr_epi64(0xff, (__m512i)beyond, (__m512i)lanes, shift);
#endif
    return shift_down<shift>(lanes, beyond, std::make_integer_sequence<int, W>{});
  }

 private:
  template <int shift, int... lane>
  [[gnu::always_inline]] static inline Real shift_down(Real lanes, Real beyond, std::integer_sequence<int, lane...>) {
    return __builtin_shufflevector(lanes, beyond, (lane + shift)...);
  }
};

template <class T>
struct Pack<T, 1> {
  static constexpr int kWidth = 1;
  using Element = T;
  using Real = T;
  using Mask = bool;
  static inline Real load(const T* from) { return *from; }
  static inline Mask load_mask(const std::uint8_t* from) { return *from != 0; }
  static inline Real fill(T value) { return value; }
  static inline void store(T* to, Real value) { *to = value; }
  static inline void stream(T* to, Real value) { *to = value; }
  static inline Real multiply_add(Real a, Real b, Real c) {
#if defined(__FMA__)
    return sizeof(T) == 4 ? T(__builtin_fmaf(float(a), float(b), float(c))) : T(__builtin_fma(a, b, c));
#else
    return a * b + c;
#endif
  }
  static inline Real subtract_product(Real a, Real b, Real c) { return multiply_add(-a, b, c); }
};

// Streamed stores bypass the ordering of ordinary ones; a kernel that made any ends with this.
[[gnu::always_inline]] static inline void finish_streaming() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

template <int W>
using Width = std::integral_constant<int, W>;

// Whether any of W flags is set.
template <int W>
[[gnu::always_inline]] inline bool any(const std::uint8_t* flags) {
  if constexpr (W > 8) {
    return any<8>(flags) | any<W - 8>(flags + 8);
  } else {
    std::conditional_t<W == 8, std::uint64_t, std::conditional_t<W == 4, std::uint32_t, std::conditional_t<W == 2, std::uint16_t, std::uint8_t>>> bits;
    static_assert(sizeof(bits) == W);
    std::memcpy(&bits, flags, sizeof(bits));
    return bits != 0;
  }
}

// Calls body(Width<W>{}, index) over [begin, end) with the widest vectors that fit.
template <class T, class Body>
[[gnu::always_inline]] inline void for_lanes(std::int64_t begin, std::int64_t end, Body&& body) {
  constexpr int W = kLanes<T>;
  std::int64_t index = begin;
  for (; index + W <= end; index += W) body(Width<W>{}, index);
  if constexpr (W > 8) {
    if (index + 8 <= end) {
      body(Width<8>{}, index);
      index += 8;
    }
  }
  if constexpr (W > 4) {
    if (index + 4 <= end) {
      body(Width<4>{}, index);
      index += 4;
    }
  }
  for (; index < end; ++index) body(Width<1>{}, index);
}

}  // namespace
}  // namespace metafast
