// CUDA devices as the host sees them: no header of the CUDA runtime is needed here.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <vector>

namespace metafast {

// What the CUDA runtime refuses, in its words ("no CUDA-capable device is detected").
struct DeviceError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The stream that the caller's work is queued on: a cudaStream_t of a device.
struct Stream {
  int device;
  void* handle;
};

struct DeviceDescription {
  char name[256];
  int major;
  int minor;
  int multiprocessors;
  std::size_t memory_bytes;
};

// The cards of this machine; throws where there is no usable one, or no driver.
std::vector<DeviceDescription> describe_devices();

}  // namespace metafast
