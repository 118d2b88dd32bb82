// The kernel table of the networks, compiled once per instruction-set level.
#include <cstdint>

#include "nn/adam.hpp"
#include "nn/gradient.hpp"
#include "nn/learning.hpp"
#include "nn/noise.hpp"

namespace metafast {
namespace METAFAST_ISA_NAMESPACE {
namespace {

template <class T>
constexpr LearningKernels<T> kLearning = {&scratch_size<T>, &add_gradient<T>, &answer<T>, &reduce<T>, &descend<T>};

void fill_noise_of_rollout(std::uint64_t key, std::int64_t num_steps, std::int64_t num_envs, bool normal,
                           std::int64_t size, float* noise) {
  float block[kBlockColumns];
  for (std::int64_t step = 0; step < num_steps; ++step)
    for (std::int64_t first = 0; first < num_envs; first += kBlockColumns) {
      const std::int64_t envs = num_envs - first < kBlockColumns ? num_envs - first : kBlockColumns;
      for (std::int64_t k = 0; k < size; ++k) {
        fill_noise(key, first, step, normal, k, padded_columns(envs), block);
        for (std::int64_t c = 0; c < envs; ++c) noise[(step * num_envs + first + c) * size + k] = block[c];
      }
    }
}

}  // namespace

const NnKernels nn_kernels = {kLearning<float>, kLearning<double>, &fill_noise_of_rollout};

}  // namespace METAFAST_ISA_NAMESPACE
}  // namespace metafast
