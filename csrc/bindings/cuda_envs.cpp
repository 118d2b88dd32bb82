// The environments on the device: translation of Python arguments for the launches of csrc/envs/driver.cuh.
#include <cstring>
#include <string>

#include "bindings/cuda_register.hpp"
#include "envs/device_batch.hpp"

namespace metafast {
namespace {

const DeviceEnvironment* const kTables[] = {classic_control_on_device, physics_tasks_on_device, tasks_on_device};

const DeviceEnvironment& environment_named(const std::string& name) {
  for (const DeviceEnvironment* table : kTables)
    for (const DeviceEnvironment* entry = table; entry->name != nullptr; ++entry)
      if (name == entry->name) return *entry;
  throw py::value_error("there is no environment named '" + name + "' on CUDA devices");
}

AutoresetMode mode_named(const std::string& name) {
  if (name == "next_step") return AutoresetMode::next_step;
  if (name == "same_step") return AutoresetMode::same_step;
  if (name == "disabled") return AutoresetMode::disabled;
  throw py::value_error("there is no autoreset mode named '" + name + "'");
}

// A batch whose memory metafast/envs/_device_batch.py keeps.
class Envs {
 public:
  Envs(const std::string& name, const py::bytes& parameters, const std::string& autoreset_mode, std::int32_t num_envs,
       std::int32_t max_episode_steps, std::int32_t state_bytes, std::int64_t num_actions, std::uintptr_t state,
       std::uintptr_t elapsed_steps, std::uintptr_t ended, std::uintptr_t seeds, std::uintptr_t episodes,
       std::uintptr_t faults)
      : environment_(environment_named(name)),
        parameters_(parameters),
        batch_{mode_named(autoreset_mode),
               max_episode_steps,
               num_envs,
               state_bytes,
               num_actions,
               as_pointer<std::byte>(state),
               as_pointer<std::int32_t>(elapsed_steps),
               as_pointer<std::uint8_t>(ended),
               as_pointer<std::uint64_t>(seeds),
               as_pointer<std::uint64_t>(episodes),
               as_pointer<std::int32_t>(faults)} {
    if (parameters_.size() != environment_.parameters_bytes)
      throw py::value_error("'" + name + "' takes " + std::to_string(environment_.parameters_bytes) +
                            " bytes of parameters, not " + std::to_string(parameters_.size()));
    if (num_envs < 1) throw py::value_error("a batch takes at least one environment");
  }

  void step(const py::tuple& stream, std::uintptr_t actions, int action_bytes, std::uintptr_t observations,
            std::uintptr_t rewards, std::uintptr_t terminated, std::uintptr_t truncated,
            std::uintptr_t final_observations) const {
    const DeviceStep step = {as_pointer<void>(actions),
                             action_bytes == 8,
                             as_pointer<float>(observations),
                             as_pointer<float>(rewards),
                             as_pointer<std::uint8_t>(terminated),
                             as_pointer<std::uint8_t>(truncated),
                             as_pointer<float>(final_observations)};
    const Stream queue = as_stream(stream);
    const py::gil_scoped_release released;
    environment_.step(queue, parameters_.data(), batch_, step);
  }

  void reset(const py::tuple& stream, std::uintptr_t mask) const {
    const Stream queue = as_stream(stream);
    const py::gil_scoped_release released;
    environment_.reset(queue, parameters_.data(), batch_, as_pointer<std::uint8_t>(mask));
  }

  void observe(const py::tuple& stream, std::uintptr_t observations) const {
    const Stream queue = as_stream(stream);
    const py::gil_scoped_release released;
    environment_.observe(queue, parameters_.data(), batch_, as_pointer<float>(observations));
  }

 private:
  const DeviceEnvironment& environment_;
  const std::string parameters_;
  const DeviceBatch batch_;
};

}  // namespace

void register_cuda_envs(py::module_& module) {
  py::class_<Envs>(module, "Envs", py::module_local())
      .def(py::init<const std::string&, const py::bytes&, const std::string&, std::int32_t, std::int32_t, std::int32_t,
                    std::int64_t, std::uintptr_t, std::uintptr_t, std::uintptr_t, std::uintptr_t, std::uintptr_t,
                    std::uintptr_t>(),
           py::arg("name"), py::arg("parameters"), py::arg("autoreset_mode"), py::arg("num_envs"),
           py::arg("max_episode_steps"), py::arg("state_bytes"), py::arg("num_actions"), py::arg("state"),
           py::arg("elapsed_steps"), py::arg("ended"), py::arg("seeds"), py::arg("episodes"), py::arg("faults"))
      .def("step", &Envs::step)
      .def("reset", &Envs::reset)
      .def("observe", &Envs::observe);
}

}  // namespace metafast
