// A batch of environments in device memory, and the launches that step, reset and observe it. No header of the CUDA runtime
// is needed here.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/device.hpp"
#include "envs/batch.hpp"

namespace metafast {

// What a kernel finds wrong with an environment, which it then leaves unchanged.
enum DeviceFault : std::int32_t { kNoFault = 0, kFaultAction = 1, kFaultEnded = 2 };

// Addresses of device memory with batch.hpp's layout.
struct DeviceBatch {
  AutoresetMode autoreset_mode;
  std::int32_t max_episode_steps;
  std::int32_t num_envs;
  std::int32_t state_bytes;  // of one environment
  std::int64_t num_actions;  // integer actions are those from 0 to below this
  std::byte* state;
  std::int32_t* elapsed_steps;
  std::uint8_t* ended;
  const std::uint64_t* seeds;
  std::uint64_t* episodes;
  std::int32_t* faults;  // kind and environment of the first fault since the host has read them
};

struct DeviceStep {
  const void* actions;
  bool wide_actions;  // int64, else int32; where they are integers
  float* observations;
  float* rewards;
  std::uint8_t* terminated;
  std::uint8_t* truncated;
  float* final_observations;  // in same_step mode
};

// One kind of environment. `parameters` is its own Parameters, in the host's memory.
struct DeviceEnvironment {
  const char* name;
  std::size_t parameters_bytes;
  void (*step)(const Stream& stream, const void* parameters, const DeviceBatch& batch, const DeviceStep& step);
  void (*reset)(const Stream& stream, const void* parameters, const DeviceBatch& batch, const std::uint8_t* mask);
  void (*observe)(const Stream& stream, const void* parameters, const DeviceBatch& batch, float* observations);
};

// One table for each .cu file, which ends with an entry without a name.
extern const DeviceEnvironment classic_control_on_device[];
extern const DeviceEnvironment physics_tasks_on_device[];
extern const DeviceEnvironment tasks_on_device[];

}  // namespace metafast
