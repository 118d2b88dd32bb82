// Users' environments on the device: kernels that come as PTX.
#include <pybind11/stl.h>

#include "bindings/cuda_register.hpp"
#include "envs/ptx_kernels.hpp"

namespace metafast {

void register_cuda_ptx_kernels(py::module_& module) {
  // Local: the same kernels compiled for the CPU may be loaded beside these.
  py::class_<PtxKernels>(module, "PtxKernels", py::module_local())
      .def(py::init<const std::string&, const std::vector<std::string>&>(), py::arg("ptx"), py::arg("names"),
           py::call_guard<py::gil_scoped_release>())
      .def("load", [](const PtxKernels& kernels, const py::tuple& stream) {
        const Stream queue = as_stream(stream);
        const py::gil_scoped_release released;
        return kernels.load(queue);
      })
      .def("launch", [](const PtxKernels& kernels, const py::tuple& stream, const std::string& name, unsigned blocks,
                        unsigned threads, std::vector<std::uint64_t> arguments) {
        const Stream queue = as_stream(stream);
        const py::gil_scoped_release released;
        kernels.launch(queue, name, blocks, threads, std::move(arguments));
      });
}

}  // namespace metafast
