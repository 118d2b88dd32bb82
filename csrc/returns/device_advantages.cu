#include "returns/advantages.hpp"
#include "returns/device_scan.cuh"

namespace metafast::returns {

std::int64_t device_vtrace(DeviceFloats floats, const DeviceProblem<double>& problem, void* scratch,
                           const Stream& stream) {
  return problem.bootstrapped ? launch_floats<Vtrace<true>>(floats, problem, scratch, stream)
                              : launch_floats<Vtrace<false>>(floats, problem, scratch, stream);
}

std::int64_t device_upgo(DeviceFloats floats, const DeviceProblem<double>& problem, void* scratch,
                         const Stream& stream) {
  return problem.bootstrapped ? launch_floats<Upgo<true>>(floats, problem, scratch, stream)
                              : launch_floats<Upgo<false>>(floats, problem, scratch, stream);
}

}  // namespace metafast::returns
