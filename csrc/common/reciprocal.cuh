// The reciprocal that the card's special-function unit estimates. For .cu files only.
#pragma once

namespace metafast {

// 1 / x within 1 ulp (PTX ISA, rcp.approx.ftz.f32), for x and 1 / x among the normal numbers; a power of two is exact.
__device__ __forceinline__ float reciprocal_estimate(float x) {
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

}  // namespace metafast
