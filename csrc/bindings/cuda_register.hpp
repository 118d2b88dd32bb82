// What the bindings of the CUDA kernels share. Arrays come as addresses of device memory, checked and allocated by
// metafast/_device.py and the rooms' own _cuda.py; kernels are queued on the stream that is named, and not waited for.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

#include "common/device.hpp"

namespace metafast {

namespace py = pybind11;

// (device index, cudaStream_t as an integer), as metafast._device.stream_of gives it.
inline Stream as_stream(const py::tuple& stream) {
  return {stream[0].cast<int>(), reinterpret_cast<void*>(stream[1].cast<std::uintptr_t>())};
}

template <class T>
T* as_pointer(std::uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

// Each in a file of its own, cuda_*.cpp.
void register_cuda_attention(py::module_& module);
void register_cuda_envs(py::module_& module);
void register_cuda_nn(py::module_& module);
void register_cuda_ptx_kernels(py::module_& module);
void register_cuda_returns(py::module_& module);

}  // namespace metafast
