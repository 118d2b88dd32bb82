#include "returns/device_scan.cuh"
#include "returns/targets.hpp"

namespace metafast::returns {

std::int64_t device_discounted_returns(DeviceFloats floats, const DeviceProblem<double>& problem, void* scratch,
                                       const Stream& stream) {
  return launch_floats<DiscountedReturns>(floats, problem, scratch, stream);
}

std::int64_t device_lambda_returns(DeviceFloats floats, const DeviceProblem<double>& problem, void* scratch,
                                   const Stream& stream) {
  return launch_floats<LambdaReturns>(floats, problem, scratch, stream);
}

std::int64_t device_retrace(DeviceFloats floats, const DeviceProblem<double>& problem, void* scratch,
                            const Stream& stream) {
  return launch_floats<Retrace>(floats, problem, scratch, stream);
}

std::int64_t device_affine_scan(DeviceFloats floats, const DeviceProblem<double>& problem, void* scratch,
                                const Stream& stream) {
  return launch_floats<AffineScan>(floats, problem, scratch, stream);
}

}  // namespace metafast::returns
