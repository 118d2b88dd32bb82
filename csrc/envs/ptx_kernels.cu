#include "envs/ptx_kernels.hpp"

#include <cuda_runtime.h>

#include "common/launch.cuh"

namespace metafast {

// The runtime has these functions since CUDA 12.8.
#if CUDART_VERSION >= 12080

PtxKernels::PtxKernels(const std::string& ptx, const std::vector<std::string>& names) {
  cudaLibrary_t library;
  check(cudaLibraryLoadData(&library, ptx.c_str(), nullptr, nullptr, 0, nullptr, nullptr, 0),
        "loading an environment's kernels");
  library_ = library;
  for (const std::string& name : names) {
    cudaKernel_t kernel;
    const cudaError_t status = cudaLibraryGetKernel(&kernel, library, name.c_str());
    if (status != cudaSuccess) (void)cudaLibraryUnload(library);
    check(status, "looking for an environment's kernel");
    kernels_[name] = kernel;
  }
}

// At the process's end the driver may have gone before.
PtxKernels::~PtxKernels() {
  if (cudaLibraryUnload(static_cast<cudaLibrary_t>(library_)) != cudaSuccess) (void)cudaGetLastError();
}

std::map<std::string, int> PtxKernels::load(const Stream& stream) const {
  const DeviceScope scope(stream);
  std::map<std::string, int> registers;
  for (const auto& [name, kernel] : kernels_) {
    cudaFuncAttributes attributes;
    check(cudaFuncGetAttributes(&attributes, static_cast<const void*>(kernel)), "translating an environment's kernels");
    registers[name] = attributes.numRegs;
  }
  return registers;
}

void PtxKernels::launch(const Stream& stream, const std::string& name, unsigned blocks, unsigned threads,
                        std::vector<std::uint64_t> arguments) const {
  const DeviceScope scope(stream);
  std::vector<void*> addresses;
  for (std::uint64_t& argument : arguments) addresses.push_back(&argument);
  check(cudaLaunchKernel(static_cast<const void*>(kernels_.at(name)), dim3(blocks), dim3(threads), addresses.data(), 0,
                         static_cast<cudaStream_t>(stream.handle)),
        "launching an environment's kernel");
}

#else

PtxKernels::PtxKernels(const std::string&, const std::vector<std::string>&) {
  throw DeviceError("environments of compile_env on a CUDA device need metafast built with CUDA 12.8 or later");
}
PtxKernels::~PtxKernels() = default;
std::map<std::string, int> PtxKernels::load(const Stream&) const { return {}; }
void PtxKernels::launch(const Stream&, const std::string&, unsigned, unsigned, std::vector<std::uint64_t>) const {}

#endif

}  // namespace metafast
