// Launching kernels on the caller's stream. For .cu files only.
#pragma once

#include <cuda_runtime.h>

#include <string>
#include <utility>

#include "common/device.hpp"

namespace metafast {

// Throws what the runtime says is wrong, having read it away, so that it does not stick to the calls that follow.
inline void check(cudaError_t status, const char* doing) {
  if (status == cudaSuccess) return;
  (void)cudaGetLastError();
  throw DeviceError(std::string(doing) + ": " + cudaGetErrorString(status));
}

// Makes the stream's device the current one, and the one before it again.
class DeviceScope {
 public:
  explicit DeviceScope(const Stream& stream) {
    check(cudaGetDevice(&before_), "finding the current CUDA device");
    if (stream.device != before_) check(cudaSetDevice(stream.device), "selecting the CUDA device");
    changed_ = stream.device != before_;
  }
  ~DeviceScope() {
    if (changed_ && cudaSetDevice(before_) != cudaSuccess) (void)cudaGetLastError();
  }
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  int before_ = 0;
  bool changed_ = false;
};

inline int count_multiprocessors(const Stream& stream) {
  int count = 0;
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, stream.device), "asking for the multiprocessors");
  return count;
}

// Launches `kernel` with `arguments`; within a DeviceScope of the stream.
template <class... Parameters, class... Arguments>
void launch(const Stream& stream, dim3 blocks, dim3 threads, std::size_t shared_bytes, void (*kernel)(Parameters...),
            Arguments&&... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = blocks;
  config.blockDim = threads;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = static_cast<cudaStream_t>(stream.handle);
  if (shared_bytes > 48 * 1024)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)),
          "reserving shared memory");
  check(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...), "launching a kernel");
}

}  // namespace metafast
