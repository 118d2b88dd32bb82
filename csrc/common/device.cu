#include "common/device.hpp"

#include <cuda_runtime.h>

#include <cstring>

namespace metafast {
namespace {

// Reads the error away, so that it does not stick to the calls that follow.
const char* words(cudaError_t status) {
  if (status == cudaSuccess) return nullptr;
  (void)cudaGetLastError();
  return cudaGetErrorString(status);
}

}  // namespace

const char* count_devices(int& count) {
  count = 0;
  return words(cudaGetDeviceCount(&count));
}

const char* describe_device(int index, DeviceDescription& description) {
  cudaDeviceProp properties;
  if (const char* failure = words(cudaGetDeviceProperties(&properties, index))) return failure;
  std::strncpy(description.name, properties.name, sizeof(description.name) - 1);
  description.name[sizeof(description.name) - 1] = '\0';
  description.major = properties.major;
  description.minor = properties.minor;
  description.multiprocessors = properties.multiProcessorCount;
  description.memory_bytes = properties.totalGlobalMem;
  return nullptr;
}

}  // namespace metafast
