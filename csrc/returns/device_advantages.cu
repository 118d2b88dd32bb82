#include "returns/advantages.hpp"
#include "returns/device_launch.cuh"

namespace metafast::returns {

std::int64_t device_vtrace(const DeviceProblem<double>& problem, void* scratch, const Stream& stream) {
  return problem.bootstrapped ? launch_floats<Vtrace<true>>(problem, scratch, stream)
                              : launch_floats<Vtrace<false>>(problem, scratch, stream);
}

std::int64_t device_upgo(const DeviceProblem<double>& problem, void* scratch, const Stream& stream) {
  return problem.bootstrapped ? launch_floats<Upgo<true>>(problem, scratch, stream)
                              : launch_floats<Upgo<false>>(problem, scratch, stream);
}

}  // namespace metafast::returns
