// The small networks' kernels on the GPU.
#include "bindings/cuda_register.hpp"
#include "nn/device_noise.hpp"

namespace metafast {
namespace {

void policy_noise(const py::tuple& stream, std::uint64_t key, std::int64_t num_steps, std::int64_t num_envs,
                  std::int64_t size, bool normal, std::uintptr_t noise) {
  const Stream on = as_stream(stream);
  const py::gil_scoped_release released;
  fill_device_noise(on, key, num_steps, num_envs, normal, size, as_pointer<float>(noise));
}

}  // namespace

void register_cuda_nn(py::module_& module) {
  module.def("policy_noise", &policy_noise, py::arg("stream"), py::arg("key"), py::arg("num_steps"),
             py::arg("num_envs"), py::arg("size"), py::arg("normal"), py::arg("noise"));
}

}  // namespace metafast
