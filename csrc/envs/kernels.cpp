// The kernel table of the environments, compiled once per instruction-set level.
#include <cstdint>

#include "envs/batch.hpp"
#include "envs/cartpole.hpp"
#include "envs/tile_driver.hpp"

namespace metafast {
namespace METAFAST_ISA_NAMESPACE {
namespace {

template <class Integer>
std::int64_t take_actions(const Integer* __restrict actions, std::int64_t count, std::int32_t num_actions,
                          std::int32_t* __restrict taken) {
  std::int32_t outside = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    outside |= (actions[i] < 0) | (actions[i] >= num_actions);
    taken[i] = static_cast<std::int32_t>(actions[i]);
  }
  if (!outside) return -1;
  std::int64_t index = 0;
  while (index < count && actions[index] >= 0 && actions[index] < num_actions) ++index;
  return index;
}

std::int64_t find_ended(const std::uint8_t* ended, std::int64_t count) {
  std::uint8_t any = 0;
  for (std::int64_t i = 0; i < count; ++i) any |= ended[i];
  if (!any) return -1;
  std::int64_t index = 0;
  while (!ended[index]) ++index;
  return index;
}

template <class Dynamics>
constexpr EnvironmentKernels kernels_of() {
  return {Dynamics::kStateSize,         Dynamics::kObservationSize,    TileDriver<Dynamics>::kNumParameters,
          &TileDriver<Dynamics>::step, &TileDriver<Dynamics>::reset, &TileDriver<Dynamics>::observe};
}

}  // namespace

const EnvsKernels envs_kernels = {kernels_of<CartPole>(), &take_actions<std::int32_t>, &take_actions<std::int64_t>,
                                  &find_ended};

}  // namespace METAFAST_ISA_NAMESPACE
}  // namespace metafast
