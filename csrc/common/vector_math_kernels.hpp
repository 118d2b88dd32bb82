// vector_math.hpp and philox.hpp over contiguous arrays: what the tests and benchmarks measure them through.
#pragma once

#include <cstdint>

#include "common/isa.hpp"

namespace metafast {

template <class Real>
struct VectorFunctions {
  using OneResult = void (*)(const Real* x, Real* result, std::int64_t count);
  OneResult sin;
  OneResult cos;
  OneResult exp;
  OneResult tanh;
  OneResult log;
  void (*sincos)(const Real* x, Real* sine, Real* cosine, std::int64_t count);
};

// Arrays may not overlap.
struct VectorMathKernels {
  VectorFunctions<float> float32;
  VectorFunctions<double> float64;
  // counters and words hold 4 numbers a row, keys 2.
  void (*philox)(const std::uint32_t* counters, const std::uint32_t* keys, std::uint32_t* words, std::int64_t rows);
  // `words` in pairs: high, low.
  void (*uniform)(const std::uint32_t* words, double* result, std::int64_t count);
};

METAFAST_DISPATCH(VectorMathKernels, vector_math_kernels)

}  // namespace metafast
