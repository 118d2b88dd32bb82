#include "returns/advantages.hpp"
#include "returns/device_launch.cuh"

namespace metafast::returns {

std::int64_t device_gae(const DeviceProblem<double>& problem, void* scratch, const Stream& stream) {
  return problem.bootstrapped ? launch_floats<Gae<true, false>>(problem, scratch, stream)
                              : launch_floats<Gae<false, false>>(problem, scratch, stream);
}

std::int64_t device_masked_gae(const DeviceProblem<double>& problem, void* scratch, const Stream& stream) {
  return problem.bootstrapped ? launch_floats<Gae<true, true>>(problem, scratch, stream)
                              : launch_floats<Gae<false, true>>(problem, scratch, stream);
}

}  // namespace metafast::returns
