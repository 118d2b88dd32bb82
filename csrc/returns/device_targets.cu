#include "returns/device_launch.cuh"
#include "returns/targets.hpp"

namespace metafast::returns {

std::int64_t device_discounted_returns(const DeviceProblem<double>& problem, void* scratch, const Stream& stream) {
  return launch_floats<DiscountedReturns>(problem, scratch, stream);
}

std::int64_t device_lambda_returns(const DeviceProblem<double>& problem, void* scratch, const Stream& stream) {
  return launch_floats<LambdaReturns>(problem, scratch, stream);
}

std::int64_t device_retrace(const DeviceProblem<double>& problem, void* scratch, const Stream& stream) {
  return launch_floats<Retrace>(problem, scratch, stream);
}

std::int64_t device_affine_scan(const DeviceProblem<double>& problem, void* scratch, const Stream& stream) {
  return launch_floats<AffineScan>(problem, scratch, stream);
}

}  // namespace metafast::returns
