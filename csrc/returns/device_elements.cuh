// The elements of device arrays: their arithmetic, and what moves them.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>

#include "common/host_device.hpp"
#include "returns/recurrence.hpp"

namespace metafast::returns {
namespace {

// The arithmetic of one element; as Pack<T, 1> of the CPU.
template <class T>
struct Scalar {
  static constexpr int kWidth = 1;
  using Element = T;
  using Real = T;
  using Mask = bool;

  METAFAST_FORMULA T fill(T value) { return value; }
  METAFAST_FORMULA float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
  METAFAST_FORMULA double multiply_add(double a, double b, double c) { return fma(a, b, c); }
  METAFAST_FORMULA float exponential(float x) { return expf(x); }
  METAFAST_FORMULA double exponential(double x) { return exp(x); }
  METAFAST_FORMULA T smallest() { return sizeof(T) == 4 ? T(1.401298464324817e-45) : T(4.9406564584124654e-324); }
};

// Two maps joined. Where the product of the decays is too small for a number, the smallest number stands for it: they
// are still joined, so that NaN and infinity are seen at any distance, as they are where steps are taken one by one.
template <class P, class Real>
METAFAST_FORMULA Affine<Real> join(const Affine<Real>& step, const Affine<Real>& next) {
  Affine<Real> joined = compose<P>(step, next);
  if (joined.decay == Real(0) && step.decay != Real(0) && next.decay != Real(0)) joined.decay = P::smallest();
  return joined;
}

// Storage of half precision, of the one kind or the other: `bfloat`. One kernel serves both.
struct HalfPrecision {
  std::uint16_t bits;
};

METAFAST_FORMULA float widened(float value, bool) { return value; }
METAFAST_FORMULA double widened(double value, bool) { return value; }
METAFAST_FORMULA float widened(HalfPrecision value, bool bfloat) {
  if (bfloat) {
    __nv_bfloat16 same;
    std::memcpy(&same, &value, sizeof(value));
    return __bfloat162float(same);
  }
  __half same;
  std::memcpy(&same, &value, sizeof(value));
  return __half2float(same);
}
METAFAST_FORMULA void narrow(float value, float& to, bool) { to = value; }
METAFAST_FORMULA void narrow(double value, double& to, bool) { to = value; }
METAFAST_FORMULA void narrow(float value, HalfPrecision& to, bool bfloat) {
  const __nv_bfloat16 one = __float2bfloat16(value);
  const __half other = __float2half(value);
  bfloat ? std::memcpy(&to, &one, sizeof(to)) : std::memcpy(&to, &other, sizeof(to));
}

// The same number, of which the compiler does not know that it is: what depends on it is computed here and now. Else it
// would find out, before the loop over tiles, where every step of every array lies, and keep it all in registers.
METAFAST_FORMULA std::int64_t fresh(std::int64_t number) {
#if defined(__CUDA_ARCH__)
  asm volatile("" : "+l"(number));
#endif
  return number;
}

// Asks for memory that will soon be read, so that it comes while something else is done.
METAFAST_FORMULA void prefetch([[maybe_unused]] const void* address) {
#if defined(__CUDA_ARCH__)
  asm volatile("prefetch.L2 [%0];" ::"l"(address));
#endif
}

// Elements that are moved at once, 16 bytes at most.
template <class Storage, int count>
struct alignas(sizeof(Storage) * count) Vector {
  Storage elements[count];
};

}  // namespace
}  // namespace metafast::returns
