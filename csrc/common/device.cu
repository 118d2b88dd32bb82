#include "common/device.hpp"

#include <cuda_runtime.h>

#include <cstring>

#include "common/launch.cuh"

namespace metafast {

std::vector<DeviceDescription> describe_devices() {
  int count = 0;
  check(cudaGetDeviceCount(&count), "looking for CUDA devices");
  std::vector<DeviceDescription> devices(static_cast<std::size_t>(count));
  for (int index = 0; index < count; ++index) {
    cudaDeviceProp properties;
    check(cudaGetDeviceProperties(&properties, index), "asking for a CUDA device's properties");
    DeviceDescription& device = devices[static_cast<std::size_t>(index)];
    std::strncpy(device.name, properties.name, sizeof(device.name) - 1);
    device.name[sizeof(device.name) - 1] = '\0';
    device.major = properties.major;
    device.minor = properties.minor;
    device.multiprocessors = properties.multiProcessorCount;
    device.memory_bytes = properties.totalGlobalMem;
  }
  return devices;
}

}  // namespace metafast
