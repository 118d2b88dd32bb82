// The return estimators on CUDA tensors. metafast/returns/_cuda.py has checked what comes here.
#include <string>

#include "bindings/cuda_register.hpp"
#include "returns/device_problem.hpp"

namespace metafast {
namespace {

using namespace returns;

std::int64_t whole(py::handle value) {
  const long long number = PyLong_AsLongLong(value.ptr());
  if (number == -1 && PyErr_Occurred()) throw py::error_already_set();
  return number;
}

// (address, outer stride, time stride, inner stride), the strides in elements; or None.
DeviceArray as_array(py::handle value) {
  if (value.is_none()) return {};
  const auto parts = py::reinterpret_borrow<py::tuple>(value);
  return {as_pointer<void>(parts[0].cast<std::uintptr_t>()), whole(parts[1]), whole(parts[2]), whole(parts[3])};
}

template <std::size_t size>
void as_arrays(const py::list& values, DeviceArray (&arrays)[size]) {
  for (std::size_t i = 0; i < size; ++i) arrays[i] = as_array(values[i]);
}

SolveOnDevice* find(const std::string& kernel, const DeviceProblem<double>& problem) {
  if (kernel == "gae") return problem.flags[kMask].data != nullptr ? &device_masked_gae : &device_gae;
  if (kernel == "discounted_returns") return &device_discounted_returns;
  if (kernel == "lambda_returns") return &device_lambda_returns;
  if (kernel == "vtrace") return &device_vtrace;
  if (kernel == "retrace") return &device_retrace;
  if (kernel == "upgo") return &device_upgo;
  return &device_affine_scan;
}

std::int64_t solve_returns(const std::string& kernel, const std::string& floats, const py::tuple& extents,
                           const py::list& inputs, const py::list& flags, const py::list& factors,
                           const py::list& numbers, const py::list& clips, bool bootstrapped, const py::list& results,
                           std::int64_t n, std::uintptr_t scratch, const py::tuple& stream) {
  DeviceProblem<double> problem;
  problem.extents = {whole(extents[0]), whole(extents[1]), whole(extents[2])};
  as_arrays(inputs, problem.inputs);
  as_arrays(flags, problem.flags);
  as_arrays(factors, problem.factors);
  as_arrays(results, problem.results);
  for (int i = 0; i < kNumFactors; ++i) problem.numbers[i] = numbers[i].cast<double>();
  problem.clip_rho = clips[0].cast<double>();
  problem.clip_c = clips[1].cast<double>();
  problem.clip_pg_rho = clips[2].cast<double>();
  problem.bootstrapped = bootstrapped;
  problem.floats = floats == "float64"   ? DeviceFloats::float64
                   : floats == "float32" ? DeviceFloats::float32
                                         : DeviceFloats::half;
  problem.bfloat = floats == "bfloat16";
  const Stream queue = as_stream(stream);
  const bool windows = kernel == "n_step_returns";
  SolveOnDevice* const solve = windows ? nullptr : find(kernel, problem);
  const py::gil_scoped_release released;
  if (!windows) return solve(problem, as_pointer<void>(scratch), queue);
  device_n_step_returns(problem, n, queue);
  return 0;
}

}  // namespace

void register_cuda_returns(py::module_& module) {
  py::dict slots;
  const auto number = [&](const char* kind, std::initializer_list<const char*> names) {
    py::dict numbered;
    int slot = 0;
    for (const char* name : names) numbered[name] = slot++;
    slots[kind] = numbered;
  };
  // In the order of the enumerations of csrc/returns/problem.hpp.
  number("inputs", {"rewards", "values", "next_values", "final_values", "log_rhos", "next_q_expected", "next_q",
                    "offsets", "decays"});
  number("flags", {"terminated", "truncated", "mask"});
  number("factors", {"gamma", "lam"});
  number("clips", {"clip_rho", "clip_c", "clip_pg_rho"});
  module.attr("RETURNS_SLOTS") = slots;
  module.def("solve_returns", &solve_returns, py::arg("kernel"), py::arg("floats"), py::arg("extents"),
             py::arg("inputs"), py::arg("flags"), py::arg("factors"), py::arg("numbers"), py::arg("clips"),
             py::arg("bootstrapped"), py::arg("results"), py::arg("n"), py::arg("scratch"), py::arg("stream"));
}

}  // namespace metafast
