// metafast._cuda: imports on any machine; `devices` raises where there is no usable card or driver.
#include "bindings/cuda_register.hpp"
#include "common/device.hpp"

namespace metafast {
namespace {

py::list devices() {
  py::list found;
  for (const DeviceDescription& device : describe_devices()) {
    py::dict entry;
    entry["name"] = device.name;
    entry["compute_capability"] = py::make_tuple(device.major, device.minor);
    entry["multiprocessors"] = device.multiprocessors;
    entry["memory_bytes"] = device.memory_bytes;
    found.append(entry);
  }
  return found;
}

}  // namespace
}  // namespace metafast

PYBIND11_MODULE(_cuda, module, pybind11::mod_gil_not_used()) {
  using namespace metafast;
  module.doc() = "The CUDA kernels of metafast. Private: use the functions of the metafast package.";
  module.def("devices", &devices, "The CUDA devices of this machine, one dict each; RuntimeError says why there are none.");
  register_cuda_attention(module);
  register_cuda_envs(module);
  register_cuda_nn(module);
  register_cuda_ptx_kernels(module);
  register_cuda_returns(module);
}
