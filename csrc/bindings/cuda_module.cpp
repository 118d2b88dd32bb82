// metafast._cuda: imports on any machine; `devices` raises where there is no usable card or driver.
#include <pybind11/pybind11.h>

#include "common/device.hpp"

namespace py = pybind11;

namespace {

void check(const char* failure) {
  if (failure != nullptr) throw std::runtime_error(failure);
}

py::list devices() {
  int count = 0;
  check(metafast::count_devices(count));
  py::list found;
  for (int index = 0; index < count; ++index) {
    metafast::DeviceDescription device;
    check(metafast::describe_device(index, device));
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

PYBIND11_MODULE(_cuda, module, py::mod_gil_not_used()) {
  module.doc() = "The CUDA kernels of metafast. Private: use the functions of the metafast package.";
  module.def("devices", &devices, "The CUDA devices of this machine, one dict each; RuntimeError says why there are none.");
}
