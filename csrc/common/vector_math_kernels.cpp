#include "common/vector_math_kernels.hpp"

#include "common/philox.hpp"
#include "common/vector_math.hpp"

namespace metafast {
namespace METAFAST_ISA_NAMESPACE {
namespace {

template <class Real>
void apply_sin(const Real* __restrict x, Real* __restrict result, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) result[i] = vector_sin(x[i]);
}

template <class Real>
void apply_cos(const Real* __restrict x, Real* __restrict result, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) result[i] = vector_cos(x[i]);
}

template <class Real>
void apply_exp(const Real* __restrict x, Real* __restrict result, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) result[i] = vector_exp(x[i]);
}

template <class Real>
void apply_tanh(const Real* __restrict x, Real* __restrict result, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) result[i] = vector_tanh(x[i]);
}

template <class Real>
void apply_log(const Real* __restrict x, Real* __restrict result, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) result[i] = vector_log(x[i]);
}

template <class Real>
void apply_sincos(const Real* __restrict x, Real* __restrict sine, Real* __restrict cosine, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) vector_sincos(x[i], sine[i], cosine[i]);
}

void apply_philox(const std::uint32_t* __restrict counters, const std::uint32_t* __restrict keys,
                  std::uint32_t* __restrict words, std::int64_t rows) {
  for (std::int64_t row = 0; row < rows; ++row) philox4x32(counters + 4 * row, keys + 2 * row, words + 4 * row);
}

void apply_uniform(const std::uint32_t* __restrict words, double* __restrict result, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) result[i] = uniform_double(words[2 * i], words[2 * i + 1]);
}

template <class Real>
constexpr VectorFunctions<Real> kFunctions = {apply_sin<Real>, apply_cos<Real>, apply_exp<Real>, apply_tanh<Real>,
                                              apply_log<Real>, apply_sincos<Real>};

}  // namespace

const VectorMathKernels vector_math_kernels = {kFunctions<float>, kFunctions<double>, apply_philox, apply_uniform};

}  // namespace METAFAST_ISA_NAMESPACE
}  // namespace metafast
