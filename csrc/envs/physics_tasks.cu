// CartPoleTasks-v0 and PendulumTasks-v0 on the device.
#include "envs/driver.cuh"
#include "envs/physics_tasks.hpp"

namespace metafast {
namespace {

template <class Model, bool kMetaObservation>
constexpr DeviceEnvironment named(const char* name) {
  return DeviceDriver<InRegisters<PhysicsTasks<Model, kMetaObservation>>>::named(name);
}

}  // namespace

extern const DeviceEnvironment physics_tasks_on_device[] = {
    named<CartPoleModel, false>("cartpole_tasks"),
    named<CartPoleModel, true>("cartpole_tasks_meta"),
    named<PendulumModel, false>("pendulum_tasks"),
    named<PendulumModel, true>("pendulum_tasks_meta"),
    {},
};

}  // namespace metafast
