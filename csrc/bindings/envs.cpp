// The environments: translation of Python arguments for EnvBatch.
#include <pybind11/stl.h>

#include <string>

#include "bindings/env_batch.hpp"
#include "bindings/register.hpp"

namespace metafast {
namespace {

// forcecast would hide a caller's mistake, so arrays must come with the right type: metafast.envs sees to it.
template <class Scalar>
const Scalar* exact_data(const py::array& array, std::int64_t size, const char* name) {
  if (!py::isinstance<py::array_t<Scalar, py::array::c_style>>(array) || array.size() != size)
    throw py::value_error(std::string(name) + " must be a contiguous array of " + std::to_string(size) +
                          " elements of type " + py::str(py::dtype::of<Scalar>()).cast<std::string>());
  return static_cast<const Scalar*>(array.data());
}

template <class Scalar>
const Scalar* optional_data(const py::object& array, std::int64_t size, const char* name) {
  return array.is_none() ? nullptr : exact_data<Scalar>(array.cast<py::array>(), size, name);
}

const std::uint8_t* bytes_of(const bool* flags) { return reinterpret_cast<const std::uint8_t*>(flags); }

EnvBatch::Kernels kernels_named(const std::string& name) {
  if (name == "cartpole") return &EnvsKernels::cartpole;
  throw py::value_error("there are no kernels named '" + name + "'");
}

AutoresetMode mode_named(const std::string& name) {
  if (name == "next_step") return AutoresetMode::next_step;
  if (name == "same_step") return AutoresetMode::same_step;
  if (name == "disabled") return AutoresetMode::disabled;
  throw py::value_error("there is no autoreset mode named '" + name + "'");
}

std::unique_ptr<EnvBatch> make_batch(const std::string& kernels, std::int64_t num_envs,
                                     const std::vector<double>& parameters, std::int32_t num_actions,
                                     const std::string& autoreset_mode, std::int32_t max_episode_steps,
                                     int num_threads, bool copy) {
  const EnvBatch::Kernels member = kernels_named(kernels);
  const auto num_parameters = static_cast<std::size_t>((envs_kernels().*member).num_parameters);
  if (num_envs < 1 || parameters.size() != num_parameters)
    throw py::value_error(kernels + " takes at least one environment and " + std::to_string(num_parameters) +
                          " parameters");
  return std::make_unique<EnvBatch>(member, num_envs, parameters, num_actions, mode_named(autoreset_mode),
                                    max_episode_steps, num_threads, copy);
}

py::object reset(EnvBatch& batch, const py::object& mask, const py::object& seeds, const py::object& seeded) {
  const std::int64_t size = batch.num_envs();
  return batch.reset(bytes_of(optional_data<bool>(mask, size, "mask")),
                     optional_data<std::uint64_t>(seeds, size, "seeds"),
                     bytes_of(optional_data<bool>(seeded, size, "seeded")));
}

void set_state(EnvBatch& batch, const py::array& state, const py::array& elapsed_steps, const py::array& ended,
               const py::array& seeds, const py::array& episodes) {
  const std::int64_t size = batch.num_envs();
  batch.set_state(exact_data<double>(state, size * batch.state_size(), "state"),
                  exact_data<std::int32_t>(elapsed_steps, size, "elapsed_steps"),
                  bytes_of(exact_data<bool>(ended, size, "ended")), exact_data<std::uint64_t>(seeds, size, "seeds"),
                  exact_data<std::uint64_t>(episodes, size, "episodes"));
}

}  // namespace

void register_envs(py::module_& module) {
  py::class_<EnvBatch>(module, "EnvBatch")
      .def(py::init(&make_batch), py::arg("kernels"), py::arg("num_envs"), py::arg("parameters"),
           py::arg("num_actions"), py::arg("autoreset_mode"), py::arg("max_episode_steps"), py::arg("num_threads"),
           py::arg("copy"))
      .def("step", &EnvBatch::step, py::arg("actions"))
      .def("reset", &reset, py::arg("mask"), py::arg("seeds"), py::arg("seeded"))
      .def("get_state", &EnvBatch::get_state)
      .def("set_state", &set_state, py::arg("state"), py::arg("elapsed_steps"), py::arg("ended"), py::arg("seeds"),
           py::arg("episodes"))
      .def_property_readonly("final_observations", &EnvBatch::final_observations)
      .def_property_readonly("state_size", &EnvBatch::state_size)
      .def_property_readonly("was_reset", &EnvBatch::was_reset);
}

}  // namespace metafast
