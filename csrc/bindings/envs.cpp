// The environments: translation of Python arguments for EnvBatch.
#include <pybind11/stl.h>

#include <array>
#include <string>
#include <vector>

#include "bindings/env_batch.hpp"
#include "bindings/register.hpp"
#include "envs/tasks_kernels.hpp"

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

// `phases` is the name of an environment, or the addresses of the three functions of one that the user compiled.
Phases phases_of(const py::object& phases) {
  if (py::isinstance<py::str>(phases)) {
    const auto name = phases.cast<std::string>();
    Phases found = envs_kernels().phases_named(name.c_str());
    if (found.advance == nullptr) found = tasks_kernels().phases_named(name.c_str());
    if (found.advance == nullptr) throw py::value_error("there is no environment named '" + name + "'");
    return found;
  }
  const auto addresses = phases.cast<std::array<std::uintptr_t, 3>>();
  Phases found;
  found.advance = reinterpret_cast<decltype(found.advance)>(addresses[0]);
  found.begin = reinterpret_cast<decltype(found.begin)>(addresses[1]);
  found.observe = reinterpret_cast<decltype(found.observe)>(addresses[2]);
  if (!found.advance || !found.begin || !found.observe) throw py::value_error("phases has a null address");
  return found;
}

AutoresetMode mode_named(const std::string& name) {
  if (name == "next_step") return AutoresetMode::next_step;
  if (name == "same_step") return AutoresetMode::same_step;
  if (name == "disabled") return AutoresetMode::disabled;
  throw py::value_error("there is no autoreset mode named '" + name + "'");
}

std::unique_ptr<EnvBatch> make_batch(const py::object& phases, std::int64_t num_envs, const py::bytes& parameters,
                                     std::vector<std::int64_t> field_bytes, const py::dtype& observation_type,
                                     std::vector<py::ssize_t> observation_shape, const py::dtype& action_type,
                                     std::vector<py::ssize_t> action_shape, std::vector<std::int64_t> action_low,
                                     std::vector<std::int64_t> action_high, const py::dtype& reward_type,
                                     const std::string& autoreset_mode, std::int32_t max_episode_steps,
                                     int num_threads, bool copy, bool undoable, bool streams) {
  EnvironmentLayout layout = {phases_of(phases),
                              parameters,
                              0,
                              std::move(field_bytes),
                              observation_type,
                              std::move(observation_shape),
                              action_type,
                              std::move(action_shape),
                              std::move(action_low),
                              std::move(action_high),
                              reward_type,
                              !py::isinstance<py::str>(phases),
                              streams};
  for (const std::int64_t bytes : layout.field_bytes) layout.state_bytes += bytes;
  if (num_envs < 1 || layout.state_bytes < 1 || layout.action_low.size() != layout.action_high.size())
    throw py::value_error("a batch takes at least one environment with a state, and a high for each low");
  return std::make_unique<EnvBatch>(std::move(layout), num_envs, mode_named(autoreset_mode), max_episode_steps,
                                    num_threads, copy, undoable);
}

py::object reset(EnvBatch& batch, const py::object& mask, const py::object& seeds, const py::object& seeded,
                 const py::object& streams) {
  const std::int64_t size = batch.num_envs();
  const std::uint64_t* seed_data = optional_data<std::uint64_t>(seeds, size, "seeds");
  const std::uint64_t* stream_data = optional_data<std::uint64_t>(streams, 4 * size, "streams");
  if ((seed_data != nullptr && batch.has_streams()) != (stream_data != nullptr) || seeds.is_none() != seeded.is_none())
    throw py::value_error("seeds come with seeded, and with streams exactly where the batch has them");
  return batch.reset(bytes_of(optional_data<bool>(mask, size, "mask")), seed_data,
                     bytes_of(optional_data<bool>(seeded, size, "seeded")), stream_data);
}

void set_state(EnvBatch& batch, const py::array& state, const py::array& elapsed_steps, const py::array& ended,
               const py::array& seeds, const py::array& episodes, const py::object& streams) {
  const std::int64_t size = batch.num_envs();
  const std::uint64_t* stream_data = optional_data<std::uint64_t>(streams, 4 * size, "streams");
  if (batch.has_streams() != (stream_data != nullptr))
    throw py::value_error("streams belong to the state exactly where the batch has them");
  batch.set_state(exact_data<std::uint8_t>(state, size * batch.state_bytes(), "state"),
                  exact_data<std::int32_t>(elapsed_steps, size, "elapsed_steps"),
                  bytes_of(exact_data<bool>(ended, size, "ended")), exact_data<std::uint64_t>(seeds, size, "seeds"),
                  exact_data<std::uint64_t>(episodes, size, "episodes"), stream_data);
}

}  // namespace

void register_envs(py::module_& module) {
  py::class_<EnvBatch>(module, "EnvBatch")
      .def(py::init(&make_batch), py::arg("phases"), py::arg("num_envs"), py::kw_only(), py::arg("parameters"),
           py::arg("field_bytes"), py::arg("observation_dtype"), py::arg("observation_shape"),
           py::arg("action_dtype"), py::arg("action_shape"), py::arg("action_low"), py::arg("action_high"),
           py::arg("reward_dtype"), py::arg("autoreset_mode"), py::arg("max_episode_steps"), py::arg("num_threads"),
           py::arg("copy"), py::arg("undoable"), py::arg("streams"))
      .def("step", &EnvBatch::step, py::arg("actions"))
      .def("reset", &reset, py::arg("mask"), py::arg("seeds"), py::arg("seeded"), py::arg("streams") = py::none())
      .def("get_state", &EnvBatch::get_state)
      .def("set_state", &set_state, py::arg("state"), py::arg("elapsed_steps"), py::arg("ended"), py::arg("seeds"),
           py::arg("episodes"), py::arg("streams") = py::none())
      .def_property_readonly("final_observations", &EnvBatch::final_observations)
      .def_property_readonly("was_reset", &EnvBatch::was_reset);
}

}  // namespace metafast
