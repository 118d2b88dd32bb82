// Bandit-v0, TabularMDP-v0 and LearnerTasks-v0 on the device.
#include "envs/bandit_device.cuh"
#include "envs/driver.cuh"
#include "envs/learner_device.cuh"
#include "envs/tabular_mdp_device.cuh"

namespace metafast {

extern const DeviceEnvironment tasks_on_device[] = {
    DeviceDriver<InMemory<DeviceBandit>>::named("bandit"),
    DeviceDriver<InMemory<DeviceTabularMdp>>::named("tabular_mdp"),
    DeviceDriver<InMemory<DeviceLearner>>::named("learner_tasks"),
    {},
};

}  // namespace metafast
