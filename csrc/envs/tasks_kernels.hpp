// The task distributions of meta-learning: environments whose rules are drawn anew for each episode.
#pragma once

#include "common/isa.hpp"
#include "envs/batch.hpp"

namespace metafast {

struct TasksKernels {
  // The phases of the environment that has this name, or nulls.
  Phases (*phases_named)(const char* name);
};

METAFAST_DISPATCH(TasksKernels, tasks_kernels)

}  // namespace metafast
