// Marks a formula that the CPU kernels and the CUDA kernels share.
//
// METAFAST_FORMULA functions are `static` and forced inline: a CPU kernel file is compiled once per instruction-set
// level, and a function with external linkage would be merged across levels by the linker, so that an old processor
// could end up running AVX-512 code.
#pragma once

#if defined(__CUDACC__)
#define METAFAST_FORMULA __host__ __device__ static __forceinline__
#else
#define METAFAST_FORMULA [[gnu::always_inline]] static inline
#endif
