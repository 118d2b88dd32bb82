// The return estimators on a CUDA device: what they are given, and how they are called. No CUDA header is needed here.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/device.hpp"
#include "returns/problem.hpp"

namespace metafast::returns {

enum class DeviceFloats { float32, float64, half };

// An array of device memory, of which element (outer, time, inner) lies at the sum of their strides, in elements. A
// stride may be 0 or negative.
struct DeviceArray {
  void* data = nullptr;
  std::int64_t outer_stride = 0, time_stride = 0, inner_stride = 0;
};

// The arguments of every estimator, as in Problem. Flags are bytes, all other arrays have the floats' type, which is
// not always Real: half precision is computed in float.
template <class Real>
struct DeviceProblem {
  SequenceExtents extents;
  DeviceArray inputs[kNumInputs];
  DeviceArray flags[kNumFlags];
  DeviceArray factors[kNumFactors];  // where there is none, one number for all steps:
  Real numbers[kNumFactors] = {};
  Real clip_rho = Real(1), clip_c = Real(1), clip_pg_rho = Real(1);
  bool bootstrapped = false;
  DeviceArray results[kMaxResults];
  DeviceFloats floats = DeviceFloats::float32;
  bool bfloat = false;  // half precision is bfloat16
};

inline DeviceProblem<float> rounded(const DeviceProblem<double>& problem) {
  DeviceProblem<float> result;
  result.extents = problem.extents;
  std::copy_n(problem.inputs, kNumInputs, result.inputs);
  std::copy_n(problem.flags, kNumFlags, result.flags);
  std::copy_n(problem.factors, kNumFactors, result.factors);
  std::copy_n(problem.results, kMaxResults, result.results);
  for (int i = 0; i < kNumFactors; ++i) result.numbers[i] = static_cast<float>(problem.numbers[i]);
  result.clip_rho = static_cast<float>(problem.clip_rho);
  result.clip_c = static_cast<float>(problem.clip_c);
  result.clip_pg_rho = static_cast<float>(problem.clip_pg_rho);
  result.bootstrapped = problem.bootstrapped;
  result.floats = problem.floats;
  result.bfloat = problem.bfloat;
  return result;
}

// One estimator: queues its kernels and returns 0; or, where they want scratch memory and `scratch` is null, queues
// nothing and returns how many bytes. Nothing of the problem may be empty.
using SolveOnDevice = std::int64_t(const DeviceProblem<double>& problem, void* scratch, const Stream& stream);
SolveOnDevice device_gae, device_masked_gae, device_vtrace, device_retrace, device_upgo, device_discounted_returns,
    device_lambda_returns, device_affine_scan;

// n is less than the number of steps.
void device_n_step_returns(const DeviceProblem<double>& problem, std::int64_t n, const Stream& stream);

}  // namespace metafast::returns
