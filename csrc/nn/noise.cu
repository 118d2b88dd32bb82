#include <algorithm>
#include <cstdint>

#include "common/launch.cuh"
#include "common/philox.hpp"
#include "envs/randomness.hpp"
#include "nn/device_noise.hpp"

namespace metafast {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocksPerMultiprocessor = 32;
// Environments side by side whose numbers are one word of as many blocks (noise.hpp).
constexpr std::int64_t kGroup = 16;

// A thread takes a block of the generator, whose words serve kShared environments, kGroup apart; neighbours take
// neighbouring components and then environments, so that what a warp writes lies side by side.
template <bool kNormal>
__global__ void __launch_bounds__(kThreads) fill_noise_kernel(std::uint64_t key, std::int64_t num_steps,
                                                              std::int64_t num_envs, std::int64_t size,
                                                              std::int64_t blocks, float* __restrict__ noise) {
  constexpr int kShared = kNormal ? 2 : 4;
  const std::int64_t count = num_steps * blocks * size;
  const std::int64_t stride = std::int64_t{gridDim.x} * kThreads;
  for (std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += stride) {
    const std::int64_t component = i % size, block = i / size % blocks, step = i / size / blocks;
    const std::uint32_t counter[4] = {static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32),
                                      static_cast<std::uint32_t>(component), static_cast<std::uint32_t>(step)};
    const std::uint32_t key_words[2] = {static_cast<std::uint32_t>(key), static_cast<std::uint32_t>(key >> 32)};
    std::uint32_t words[4];
    philox4x32(counter, key_words, words);
    const std::int64_t first = block / kGroup * (kGroup * kShared) + block % kGroup;
#pragma unroll
    for (int k = 0; k < kShared; ++k) {
      const std::int64_t env = first + k * kGroup;
      if (env >= num_envs) break;
      const float number = kNormal ? normal_float(words[2 * k % 4], words[(2 * k + 1) % 4]) : uniform_float(words[k]);
      noise[(step * num_envs + env) * size + component] = number;
    }
  }
}

}  // namespace

void fill_device_noise(const Stream& stream, std::uint64_t key, std::int64_t num_steps, std::int64_t num_envs,
                       bool normal, std::int64_t size, float* noise) {
  const std::int64_t span = kGroup * (normal ? 2 : 4);
  const std::int64_t blocks = (num_envs + span - 1) / span * kGroup;
  const std::int64_t count = num_steps * blocks * size;
  if (count == 0) return;
  const DeviceScope scope(stream);
  const std::int64_t most = std::int64_t{kBlocksPerMultiprocessor} * count_multiprocessors(stream);
  const auto grid = static_cast<unsigned>(std::min((count + kThreads - 1) / kThreads, most));
  launch(stream, grid, kThreads, 0, normal ? &fill_noise_kernel<true> : &fill_noise_kernel<false>, key, num_steps,
         num_envs, size, blocks, noise);
}

}  // namespace metafast
