// The kernel table of the task distributions, compiled once per instruction-set level.
#include "envs/tasks_kernels.hpp"

#include <cstring>

#include "envs/bandit.hpp"
#include "envs/learner_tasks.hpp"
#include "envs/native_phases.hpp"
#include "envs/physics_tasks.hpp"
#include "envs/tabular_mdp.hpp"

namespace metafast {
namespace METAFAST_ISA_NAMESPACE {
namespace {

template <class Environment>
constexpr Phases kPhases = {&Environment::advance, &Environment::begin, &Environment::observe};

Phases phases_named(const char* name) {
  if (std::strcmp(name, "bandit") == 0) return kPhases<Bandit>;
  if (std::strcmp(name, "tabular_mdp") == 0) return kPhases<TabularMdp>;
  if (std::strcmp(name, "learner_tasks") == 0) return kPhases<LearnerTasks>;
  if (std::strcmp(name, "cartpole_tasks") == 0) return NativePhases<PhysicsTasks<CartPoleModel, false>>::phases();
  if (std::strcmp(name, "cartpole_tasks_meta") == 0) return NativePhases<PhysicsTasks<CartPoleModel, true>>::phases();
  if (std::strcmp(name, "pendulum_tasks") == 0) return NativePhases<PhysicsTasks<PendulumModel, false>>::phases();
  if (std::strcmp(name, "pendulum_tasks_meta") == 0) return NativePhases<PhysicsTasks<PendulumModel, true>>::phases();
  return {nullptr, nullptr, nullptr};
}

}  // namespace

const TasksKernels tasks_kernels = {&phases_named};

}  // namespace METAFAST_ISA_NAMESPACE
}  // namespace metafast
