#include "returns/advantages.hpp"
#include "returns/device_scan.cuh"

namespace metafast::returns {

std::int64_t device_gae(DeviceFloats floats, const DeviceProblem<double>& problem, void* scratch,
                        const Stream& stream) {
  return problem.bootstrapped ? launch_floats<Gae<true, false>>(floats, problem, scratch, stream)
                              : launch_floats<Gae<false, false>>(floats, problem, scratch, stream);
}

std::int64_t device_masked_gae(DeviceFloats floats, const DeviceProblem<double>& problem, void* scratch,
                               const Stream& stream) {
  return problem.bootstrapped ? launch_floats<Gae<true, true>>(floats, problem, scratch, stream)
                              : launch_floats<Gae<false, true>>(floats, problem, scratch, stream);
}

}  // namespace metafast::returns
