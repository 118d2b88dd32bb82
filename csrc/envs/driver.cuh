// Steps, resets and observes a batch on the device by the rules of driver.hpp: one launch, one block a tile, one thread an
// environment.
//
// A step is bound by memory. CartPole reads 32 bytes of state and writes them back, writes 16 of observations, 4 of
// reward and 2 of flags, reads an action and counts in 4 + 4: 102 to 106 bytes. Hence what few environments need
// (seeds, episode numbers, their reset) is read by those alone, `ended` is written where it changes, and rows whose size
// is no vector's go through shared memory, so that whole lines are stored.
#pragma once

#include <cstring>
#include <type_traits>

#include "common/launch.cuh"
#include "envs/device_batch.hpp"
#include "envs/device_phases.cuh"

namespace metafast {
namespace {

// Whichever environment comes first; which one that is among those of one launch is left to chance.
__device__ inline void report_fault(const DeviceBatch& batch, std::int32_t kind, int environment) {
  if (atomicCAS(batch.faults, static_cast<std::int32_t>(kNoFault), kind) == kNoFault) {
    batch.faults[1] = environment;
    __threadfence_system();
  }
}

// Reads an environment's action, which `at` then points to: floats lie where they lay, an integer is in `taken`. Tells
// whether it is one.
template <class Environment>
__device__ __forceinline__ bool take_action(const typename Environment::Parameters& parameters,
                                            const DeviceBatch& batch, const DeviceStep& step, int i,
                                            typename Environment::Action& taken,
                                            const typename Environment::Action*& at) {
  using Action = typename Environment::Action;
  if constexpr (std::is_same_v<Action, float>) {
    const int size = Environment::action_size(parameters);
    at = static_cast<const float*>(step.actions) + static_cast<std::int64_t>(i) * size;
    bool finite = true;
    for (int k = 0; k < size; ++k) finite &= at[k] - at[k] == 0;
    return finite;
  } else {
    static_assert(std::is_same_v<Action, std::int32_t>, "integer actions come one by one, as int32");
    const std::int64_t action = step.wide_actions ? static_cast<const std::int64_t*>(step.actions)[i]
                                                  : static_cast<const std::int32_t*>(step.actions)[i];
    taken = static_cast<std::int32_t>(action);
    at = &taken;
    return action >= 0 && action < batch.num_actions;
  }
}

// Writes the rows of a tile's `count` environments, the first of which is row first_row. Every thread of the block must
// come here.
template <class Environment>
__device__ __forceinline__ void write_observation(const typename Environment::Parameters& parameters,
                                                  const EnvironmentPlace& place,
                                                  const typename Environment::Held& held, std::int64_t first_row,
                                                  int count, float* observations) {
  constexpr int kSize = Environment::kObservationSize;
  const bool writes = place.index < count;
  if constexpr (kSize == 0) {
    const std::int64_t size = Environment::observation_size(parameters);
    if (writes) Environment::observe(parameters, place, held, observations + (first_row + place.index) * size);
  } else if constexpr (kSize == 2 || kSize == 4) {
    if (!writes) return;
    float row[kSize];
    Environment::observe(parameters, place, held, row);
    float* const at = observations + (first_row + place.index) * kSize;
    if constexpr (kSize == 4)
      *reinterpret_cast<float4*>(at) = make_float4(row[0], row[1], row[2], row[3]);
    else
      *reinterpret_cast<float2*>(at) = make_float2(row[0], row[1]);
  } else {
    // A warp's rows are stored together. Their stride in shared memory is odd, so that no two threads meet in a bank.
    constexpr int kStride = kSize | 1;
    __shared__ float rows[kTile * kStride];
    constexpr int kWarp = 32;
    const int lane = place.index % kWarp, warp_begin = place.index - lane;
    if (writes) Environment::observe(parameters, place, held, rows + place.index * kStride);
    __syncwarp();
    float* const to = observations + (first_row + warp_begin) * kSize;
    const int floats = (count - warp_begin < kWarp ? count - warp_begin : kWarp) * kSize;
    for (int j = lane; j < floats; j += kWarp) to[j] = rows[(warp_begin + j / kSize) * kStride + j % kSize];
  }
}

// The place of this thread's environment, apart from its random stream.
__device__ __forceinline__ EnvironmentPlace own_place(const DeviceBatch& batch) {
  EnvironmentPlace place = {};
  place.state = batch.state + static_cast<std::int64_t>(blockIdx.x) * kTile * batch.state_bytes;
  place.index = static_cast<int>(threadIdx.x);
  return place;
}

__device__ __forceinline__ int count_in_tile(const DeviceBatch& batch, int first) {
  const int left = batch.num_envs - first;
  return left < kTile ? left : kTile;
}

// Makes the next episode the current one and begins it.
template <class Environment>
__device__ __forceinline__ void begin_episode(const typename Environment::Parameters& parameters,
                                              const DeviceBatch& batch, int i, EnvironmentPlace& place,
                                              typename Environment::Held& held) {
  place.seed = batch.seeds[i];
  place.episode = batch.episodes[i];
  place.elapsed_steps = 0;
  batch.episodes[i] = place.episode + 1;
  Environment::begin(parameters, place, held);
}

template <class Environment>
__global__ void __launch_bounds__(kTile)
    step_kernel(const typename Environment::Parameters parameters, const DeviceBatch batch, const DeviceStep step) {
  const int first = static_cast<int>(blockIdx.x) * kTile;
  const int count = count_in_tile(batch, first);
  const int i = first + static_cast<int>(threadIdx.x);
  const bool same_step = batch.autoreset_mode == AutoresetMode::same_step;
  const bool next_step = batch.autoreset_mode == AutoresetMode::next_step;
  EnvironmentPlace place = own_place(batch);
  typename Environment::Held held = {};
  float reward = 0;
  bool terminated = false, truncated = false, begins = false;

  if (place.index < count) {
    Environment::load(place, held);
    place.elapsed_steps = batch.elapsed_steps[i];
    // Nobody waits for a reset in same_step mode.
    const bool waits = !same_step && batch.ended[i] != 0;
    typename Environment::Action taken;
    const typename Environment::Action* action;
    const bool valid = take_action<Environment>(parameters, batch, step, i, taken, action);
    if (!valid || (waits && !next_step)) {
      report_fault(batch, valid ? kFaultEnded : kFaultAction, i);
    } else {
      if (waits) {
        begins = true;
      } else {
        place.seed = batch.seeds[i];  // these two are read by environments whose steps are random
        place.episode = batch.episodes[i] - 1;
        Environment::advance(parameters, place, action, held, reward, terminated);
        place.elapsed_steps += 1;
        truncated = place.elapsed_steps >= batch.max_episode_steps;
        begins = same_step && (terminated || truncated);
      }
      if (begins) {
        if (same_step) {
          float* const row =
              step.final_observations + static_cast<std::int64_t>(i) * Environment::observation_size(parameters);
          Environment::observe(parameters, place, held, row);
        }
        begin_episode<Environment>(parameters, batch, i, place, held);
      }
      Environment::store(place, held);
      batch.elapsed_steps[i] = place.elapsed_steps;
      const bool over = !same_step && (terminated || truncated);
      if (over != waits) batch.ended[i] = over;
    }
    step.rewards[i] = reward;
    step.terminated[i] = terminated;
    step.truncated[i] = truncated;
  }
  write_observation<Environment>(parameters, place, held, first, count, step.observations);
}

template <class Environment>
__global__ void __launch_bounds__(kTile) reset_kernel(const typename Environment::Parameters parameters,
                                                      const DeviceBatch batch, const std::uint8_t* mask) {
  const int i = static_cast<int>(blockIdx.x) * kTile + static_cast<int>(threadIdx.x);
  if (i >= batch.num_envs || (mask != nullptr && mask[i] == 0)) return;
  EnvironmentPlace place = own_place(batch);
  typename Environment::Held held = {};
  begin_episode<Environment>(parameters, batch, i, place, held);
  Environment::store(place, held);
  batch.elapsed_steps[i] = 0;
  batch.ended[i] = 0;
}

template <class Environment>
__global__ void __launch_bounds__(kTile)
    observe_kernel(const typename Environment::Parameters parameters, const DeviceBatch batch, float* observations) {
  const int first = static_cast<int>(blockIdx.x) * kTile;
  const int count = count_in_tile(batch, first);
  EnvironmentPlace place = own_place(batch);
  typename Environment::Held held = {};
  if (place.index < count) Environment::load(place, held);
  write_observation<Environment>(parameters, place, held, first, count, observations);
}

// The launches of one environment, for a table of them.
template <class Environment>
class DeviceDriver {
 public:
  static constexpr DeviceEnvironment named(const char* name) {
    return {name, std::is_empty_v<Parameters> ? 0 : sizeof(Parameters), &step, &reset, &observe};
  }

 private:
  using Parameters = typename Environment::Parameters;
  static_assert(std::is_trivially_copyable_v<Parameters>, "parameters travel as bytes");

  static Parameters own(const void* bytes) {
    Parameters parameters = {};
    if constexpr (!std::is_empty_v<Parameters>) std::memcpy(&parameters, bytes, sizeof(parameters));
    return parameters;
  }

  static dim3 tiles(const DeviceBatch& batch) {
    return dim3((static_cast<unsigned>(batch.num_envs) + kTile - 1) / kTile);
  }

  static void step(const Stream& stream, const void* parameters, const DeviceBatch& batch, const DeviceStep& step) {
    const DeviceScope scope(stream);
    launch(stream, tiles(batch), dim3(kTile), 0, &step_kernel<Environment>, own(parameters), batch, step);
  }

  static void reset(const Stream& stream, const void* parameters, const DeviceBatch& batch, const std::uint8_t* mask) {
    const DeviceScope scope(stream);
    launch(stream, tiles(batch), dim3(kTile), 0, &reset_kernel<Environment>, own(parameters), batch, mask);
  }

  static void observe(const Stream& stream, const void* parameters, const DeviceBatch& batch, float* observations) {
    const DeviceScope scope(stream);
    launch(stream, tiles(batch), dim3(kTile), 0, &observe_kernel<Environment>, own(parameters), batch, observations);
  }
};

}  // namespace
}  // namespace metafast
