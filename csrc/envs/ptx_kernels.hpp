// Kernels that come as PTX at run time: those of users' environments, which metafast/envs/compiled writes. The driver
// translates them for its card, once, and keeps what it made in its own cache.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "common/device.hpp"

namespace metafast {

class PtxKernels {
 public:
  // Throws DeviceError where the PTX is refused or has no kernel of one of the names.
  PtxKernels(const std::string& ptx, const std::vector<std::string>& names);
  ~PtxKernels();
  PtxKernels(const PtxKernels&) = delete;
  PtxKernels& operator=(const PtxKernels&) = delete;

  // Translates the kernels for the stream's device now; by itself that would happen at their first launch, where a stream
  // that is captured must not. Returns the registers of a thread of each.
  std::map<std::string, int> load(const Stream& stream) const;

  // Queues blocks of `threads` threads of a kernel whose arguments all have 64 bits.
  void launch(const Stream& stream, const std::string& name, unsigned blocks, unsigned threads,
              std::vector<std::uint64_t> arguments) const;

 private:
  void* library_ = nullptr;              // a cudaLibrary_t
  std::map<std::string, void*> kernels_;  // cudaKernel_t
};

}  // namespace metafast
