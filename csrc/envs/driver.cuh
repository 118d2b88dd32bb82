// Steps, resets and observes a batch on the device by the rules of driver.hpp: one launch, one block a tile, one thread
// an environment.
//
// A step is bound by memory. CartPole reads 32 bytes of state and writes them back, writes 16 of observations, 4 of
// reward and 2 of flags, reads an action and counts in 4 + 4: 102 to 106 bytes. Hence what few environments need
// (seeds, episode numbers, their reset) is read by those alone, `ended` is written where it changes, and rows whose size
// is no vector's go through shared memory, so that whole lines are stored.
#pragma once

#include <cstring>
#include <type_traits>

#include "common/dynamic_shared.cuh"
#include "common/launch.cuh"
#include "envs/device_batch.hpp"
#include "envs/device_phases.cuh"

namespace metafast {
namespace {

// Whichever environment comes first; which one that is among those of one launch is left to chance. One of a block tells
// (`told`, in shared memory, is 0 before), because where all are at fault each would reach for the host's memory.
__device__ inline void report_fault(const DeviceBatch& batch, std::int32_t kind, int environment, int* told) {
  if (atomicExch(told, 1) != 0) return;
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

// The observations of a tile, the first of which is row `first` of the array. Rows of two or four floats are stored as
// vectors. Others first go to shared memory, from which the block stores whole lines, unless they are too long for that.
template <class Environment>
class Rows {
 public:
  using Parameters = typename Environment::Parameters;

  // Called by all threads of a block.
  __device__ __forceinline__ Rows(const Parameters& parameters, float* observations, int first)
      : first_(first), observations_(observations) {
    if constexpr (kStaged) {
      __shared__ float staged[kTile * kStride];
      staged_ = staged;
    } else if constexpr (kSize == 0) {
      size_ = Environment::observation_size(parameters);
      if (staged_bytes(parameters) > 0) staged_ = dynamic_shared<float>();
    }
  }

  // The dynamic shared memory of a block, where the rows' size is known at run time.
  METAFAST_FORMULA std::size_t staged_bytes(const Parameters& parameters) {
    if (kSize != 0) return 0;
    const int size = Environment::observation_size(parameters);
    const std::size_t bytes = kTile * static_cast<std::size_t>(size | 1) * sizeof(float);
    return size > 1 && bytes <= kMostStagedBytes ? bytes : 0;
  }

  __device__ __forceinline__ void write(const typename Environment::Parameters& parameters,
                                        const EnvironmentPlace& place, const typename Environment::Held& held) const {
    if constexpr (kStaged)
      Environment::observe(parameters, place, held, staged_ + place.index * kStride);
    else if (kSize == 0 && staged_ != nullptr)
      Environment::observe(parameters, place, held, staged_ + place.index * (size_ | 1));
    else
      write_at(parameters, place, held, observations_);
  }

  // Writes to the same row of another array, at once.
  __device__ __forceinline__ void write_at(const typename Environment::Parameters& parameters,
                                           const EnvironmentPlace& place, const typename Environment::Held& held,
                                           float* observations) const {
    const std::int64_t row = first_ + place.index;
    if constexpr (kSize == 4) {
      float4 whole;
      Environment::observe(parameters, place, held, &whole.x);
      reinterpret_cast<float4*>(observations)[row] = whole;
    } else if constexpr (kSize == 2) {
      float2 whole;
      Environment::observe(parameters, place, held, &whole.x);
      reinterpret_cast<float2*>(observations)[row] = whole;
    } else {
      Environment::observe(parameters, place, held, observations + row * Environment::observation_size(parameters));
    }
  }

  // Stores what is staged of the first `count` rows. Called by all threads of the block.
  __device__ __forceinline__ void finish(int count) const {
    if constexpr (kStaged) {
      __syncthreads();
      float* const to = observations_ + first_ * kSize;
      for (int j = static_cast<int>(threadIdx.x); j < count * kSize; j += kTile)
        to[j] = staged_[j / kSize * kStride + j % kSize];
    } else if (kSize == 0 && staged_ != nullptr) {
      __syncthreads();
      float* const to = observations_ + first_ * size_;
      // Without a division for each number.
      int row = static_cast<int>(threadIdx.x) / size_, column = static_cast<int>(threadIdx.x) % size_;
      for (int j = static_cast<int>(threadIdx.x); j < count * size_; j += kTile) {
        to[j] = staged_[row * (size_ | 1) + column];
        row += kTile / size_;
        column += kTile % size_;
        if (column >= size_) {
          column -= size_;
          ++row;
        }
      }
    }
  }

 private:
  static constexpr std::size_t kMostStagedBytes = 40 * 1024;  // so that several blocks share a multiprocessor
  static constexpr int kSize = Environment::kObservationSize;
  static constexpr bool kStaged = kSize != 0 && kSize != 2 && kSize != 4;
  static constexpr int kStride = kSize | 1;  // odd, so that no two threads of a warp meet in a bank

  std::int64_t first_;
  float* observations_;
  float* staged_ = nullptr;
  int size_ = kSize;
};

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

// Makes the next episode the current one and begins it. Called by all the threads that this takes (kThreadsToBegin), of
// which `thread` is the number.
template <class Environment>
__device__ __forceinline__ void begin_episode(const typename Environment::Parameters& parameters,
                                              const DeviceBatch& batch, int i, int thread, EnvironmentPlace& place,
                                              typename Environment::Held& held) {
  place.seed = batch.seeds[i];
  place.episode = batch.episodes[i];
  place.elapsed_steps = 0;
  if constexpr (Environment::kThreadsToBegin == 1) {
    batch.episodes[i] = place.episode + 1;
    Environment::begin(parameters, place, held);
    Environment::store(place, held);
  } else {
    __syncwarp();  // all have read the number
    if (thread == 0) batch.episodes[i] = place.episode + 1;
    Environment::begin_together(parameters, place, thread);
    __syncwarp();
  }
}

template <class Environment>
__global__ void __launch_bounds__(kTile)
    step_kernel(const typename Environment::Parameters parameters, const DeviceBatch batch, const DeviceStep step) {
  // The environments that begin an episode. One in twenty does, but most warps have one: so the first threads of the
  // block take them all, and the other warps do not go that way.
  __shared__ int beginning[kTile];
  __shared__ int num_beginning;
  __shared__ int fault_told;
  const int first = static_cast<int>(blockIdx.x) * kTile;
  const int count = count_in_tile(batch, first);
  const int i = first + static_cast<int>(threadIdx.x);
  const bool same_step = batch.autoreset_mode == AutoresetMode::same_step;
  const bool next_step = batch.autoreset_mode == AutoresetMode::next_step;
  const Rows<Environment> rows(parameters, step.observations, first);
  EnvironmentPlace place = own_place(batch);
  if (threadIdx.x == 0) num_beginning = fault_told = 0;
  __syncthreads();

  if (place.index < count) {
    typename Environment::Held held = {};
    Environment::load(place, held);
    place.elapsed_steps = batch.elapsed_steps[i];
    const std::uint8_t ended = batch.ended[i];
    typename Environment::Action taken;
    const typename Environment::Action* action;
    const bool valid = take_action<Environment>(parameters, batch, step, i, taken, action);
    const bool waits = ended != 0;  // for its reset: nobody in same_step mode
    float reward = 0;
    bool terminated = false, truncated = false, begins = false;
    std::int32_t elapsed_steps = place.elapsed_steps;
    if (!valid || (waits && !next_step)) {
      report_fault(batch, valid ? kFaultEnded : kFaultAction, i, &fault_told);
    } else if (waits) {
      batch.ended[i] = 0;
      begins = true;
    } else {
      place.seed = batch.seeds[i];  // these two are read by environments whose steps are random
      place.episode = batch.episodes[i] - 1;
      Environment::advance(parameters, place, action, held, reward, terminated);
      truncated = ++elapsed_steps >= batch.max_episode_steps;
      const bool over = terminated || truncated;
      begins = over && same_step;
      if (begins)
        rows.write_at(parameters, place, held, step.final_observations);
      else
        Environment::store_step(place, held);
      if (over && !begins) batch.ended[i] = 1;
    }
    // Whatever happened: a number that one branch alone needs, the compiler would fetch there, after all others.
    batch.elapsed_steps[i] = begins ? 0 : elapsed_steps;
    step.rewards[i] = reward;
    step.terminated[i] = terminated;
    step.truncated[i] = truncated;
    if (begins)
      beginning[atomicAdd(&num_beginning, 1)] = place.index;
    else
      rows.write(parameters, place, held);
  }

  __syncthreads();
  constexpr int kThreads = Environment::kThreadsToBegin;
  const int thread = static_cast<int>(threadIdx.x) % kThreads;
  for (int k = static_cast<int>(threadIdx.x) / kThreads; k < num_beginning; k += kTile / kThreads) {
    typename Environment::Held held = {};
    place.index = beginning[k];
    begin_episode<Environment>(parameters, batch, first + place.index, thread, place, held);
    if (thread == 0) rows.write(parameters, place, held);
  }
  rows.finish(count);
}

template <class Environment>
__global__ void __launch_bounds__(kTile) reset_kernel(const typename Environment::Parameters parameters,
                                                      const DeviceBatch batch, const std::uint8_t* mask) {
  constexpr int kThreads = Environment::kThreadsToBegin;
  const int first = static_cast<int>(blockIdx.x) * kTile;
  const int count = count_in_tile(batch, first);
  const int thread = static_cast<int>(threadIdx.x) % kThreads;
  EnvironmentPlace place = own_place(batch);
  for (place.index = static_cast<int>(threadIdx.x) / kThreads; place.index < count; place.index += kTile / kThreads) {
    const int i = first + place.index;
    if (mask != nullptr && mask[i] == 0) continue;
    typename Environment::Held held = {};
    begin_episode<Environment>(parameters, batch, i, thread, place, held);
    if (thread > 0) continue;
    batch.elapsed_steps[i] = 0;
    batch.ended[i] = 0;
  }
}

template <class Environment>
__global__ void __launch_bounds__(kTile)
    observe_kernel(const typename Environment::Parameters parameters, const DeviceBatch batch, float* observations) {
  const int first = static_cast<int>(blockIdx.x) * kTile;
  const int count = count_in_tile(batch, first);
  const Rows<Environment> rows(parameters, observations, first);
  const EnvironmentPlace place = own_place(batch);
  if (place.index < count) {
    typename Environment::Held held = {};
    Environment::load(place, held);
    rows.write(parameters, place, held);
  }
  rows.finish(count);
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
    const Parameters values = own(parameters);
    launch(stream, tiles(batch), dim3(kTile), Rows<Environment>::staged_bytes(values), &step_kernel<Environment>, values,
           batch, step);
  }

  static void reset(const Stream& stream, const void* parameters, const DeviceBatch& batch, const std::uint8_t* mask) {
    const DeviceScope scope(stream);
    launch(stream, tiles(batch), dim3(kTile), 0, &reset_kernel<Environment>, own(parameters), batch, mask);
  }

  static void observe(const Stream& stream, const void* parameters, const DeviceBatch& batch, float* observations) {
    const DeviceScope scope(stream);
    const Parameters values = own(parameters);
    launch(stream, tiles(batch), dim3(kTile), Rows<Environment>::staged_bytes(values), &observe_kernel<Environment>,
           values, batch, observations);
  }
};

}  // namespace
}  // namespace metafast
