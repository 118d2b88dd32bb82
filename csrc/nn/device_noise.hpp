// The randomness of a policy's choices on the GPU: the numbers of noise.hpp.
#pragma once

#include <cstdint>

#include "common/device.hpp"

namespace metafast {

// noise [num_steps, num_envs, size] in device memory: uniform on [0, 1) or, `normal`, standard normal.
void fill_device_noise(const Stream& stream, std::uint64_t key, std::int64_t num_steps, std::int64_t num_envs,
                       bool normal, std::int64_t size, float* noise);

}  // namespace metafast
