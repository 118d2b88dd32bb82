// Fused rollouts: translation of Python's arrays, and the tiles of a batch on its threads.
#include "envs/rollout.hpp"

#include <algorithm>
#include <string>
#include <vector>

#include "bindings/env_batch.hpp"
#include "bindings/interrupt.hpp"
#include "bindings/policy_network.hpp"
#include "bindings/register.hpp"
#include "bindings/scratch.hpp"
#include "common/scheduler.hpp"

namespace metafast {

template <class T>
RolloutOutcome EnvBatch::rollout(RolloutPlan<T> plan) {
  const Claim claim(*this);
  if (!was_reset_) throw py::value_error("the environments were never reset");
  std::vector<double> rewards(static_cast<std::size_t>(num_envs_));
  plan.env_actions = actions_.data();
  plan.action_bytes = action_bytes();
  plan.env_rewards = reinterpret_cast<std::byte*>(rewards.data());
  save();
  Batch batch = view();
  batch.saved_state = nullptr;  // what a step may have to be undone to is the state before the first

  const RolloutKernel<T>& kernel = [] () -> const RolloutKernel<T>& {
    if constexpr (sizeof(T) == 4) return rollout_kernels().float32;
    else return rollout_kernels().float64;
  }();
  const std::int64_t tiles = (num_envs_ + kTile - 1) / kTile;
  int threads = get_num_threads();
  if (num_threads_ > 0) threads = std::min(threads, num_threads_);
  threads = static_cast<int>(std::min<std::int64_t>(threads, tiles));
  ScratchBlocks scratch(kernel.scratch_size(plan.network) * static_cast<std::int64_t>(sizeof(T)), threads);
  std::vector<RolloutOutcome> outcomes(static_cast<std::size_t>(tiles));
  try {
    for_each_slice_interruptibly(
        tiles,
        [&](std::int64_t tile) {
          const ScratchBlocks::Block block(scratch);
          const std::int64_t begin = tile * kTile;
          outcomes[static_cast<std::size_t>(tile)] = kernel.run(batch, plan, reinterpret_cast<T*>(block.get()), begin,
                                                                std::min(begin + kTile, num_envs_));
        },
        threads);
  } catch (...) {
    was_reset_ = static_cast<bool>(saved_state_);  // else some have come further than others
    undone(0);
    throw;
  }
  // The earliest step at which something went wrong, and there the first environment.
  RolloutOutcome found = {-1, 0, -1, 0};
  for (const RolloutOutcome& outcome : outcomes) {
    if (outcome.failed_env >= 0 && (found.failed_env < 0 || outcome.failed_step < found.failed_step)) {
      found.failed_env = outcome.failed_env;
      found.failed_step = outcome.failed_step;
    }
    if (outcome.unusable_env >= 0 && (found.unusable_env < 0 || outcome.unusable_step < found.unusable_step)) {
      found.unusable_env = outcome.unusable_env;
      found.unusable_step = outcome.unusable_step;
    }
  }
  if (found.failed_env >= 0) undone(found.failed_env);
  was_reset_ = found.unusable_env < 0 || found.failed_env >= 0;
  return found;
}

namespace {

template <class T>
py::tuple rollout_as(EnvBatch& batch, const PolicyNetwork& policy, const py::array& parameters,
                     const py::dict& arrays, const py::handle& statistics, const py::tuple& translation,
                     std::int64_t num_steps, std::uint64_t key, bool deterministic) {
  RolloutPlan<T> plan = {};
  plan.network = policy.network();
  const Network& network = plan.network;
  plan.parameters = array_data<const T>(parameters, network.num_parameters, "parameters");
  plan.num_envs = batch.num_envs();
  plan.num_steps = num_steps;
  plan.key = key;
  plan.deterministic = deterministic;
  const std::int64_t rows = num_steps * plan.num_envs, size = network.head.action_size;

  auto observations = arrays["observations"].cast<py::array>();
  auto final_observations = arrays["final_observations"].cast<py::array>();
  for (const py::array* array : {&observations, &final_observations})
    if (!(array->flags() & py::array::c_style) || !array->writeable())
      throw py::value_error("observations must be contiguous and writeable");
  const std::int64_t row_elements = network.observation_size;
  if (observations.size() != (rows + plan.num_envs) * row_elements || final_observations.size() != rows * row_elements ||
      row_elements * observations.itemsize() != batch.observation_bytes())
    throw py::value_error("the policy does not take the environment's observations");
  plan.observations = observations_of<T>(network, observations, statistics);
  if (size * translation[0].cast<py::dtype>().itemsize() != batch.action_bytes())
    throw py::value_error("the policy does not make the environment's actions");

  RolloutArrays<T>& to = plan.arrays;
  to.observations = static_cast<std::byte*>(observations.mutable_data());
  to.final_observations = static_cast<std::byte*>(final_observations.mutable_data());
  if (policy.whole_actions()) to.whole_actions = array_data<std::int64_t>(arrays["actions"], rows * size, "actions");
  else to.real_actions = array_data<T>(arrays["actions"], rows * size, "actions");
  to.log_probs = array_data<T>(arrays["log_probs"], rows, "log_probs");
  to.rewards = array_data<T>(arrays["rewards"], rows, "rewards");
  to.values = array_data<T>(arrays["values"], rows + plan.num_envs, "values");
  to.final_values = array_data<T>(arrays["final_values"], rows, "final_values");
  to.terminated = flag_data(arrays["terminated"], rows, "terminated");
  to.truncated = flag_data(arrays["truncated"], rows, "truncated");
  to.starts = flag_data(arrays["starts"], rows, "starts");
  to.mask = arrays["mask"].is_none() ? nullptr : flag_data(arrays["mask"], rows, "mask");
  if (network.gru.width > 0)
    to.hidden = array_data<T>(arrays["hidden"], plan.num_envs * network.gru.width, "hidden");

  plan.actions.type = element_type(translation[0].cast<py::dtype>());
  if (policy.whole_actions()) {
    plan.actions.start = array_data<const std::int64_t>(translation[1], size, "the actions' start");
  } else {
    plan.actions.centre = array_data<const double>(translation[1], size, "the actions' centre");
    plan.actions.half_range = array_data<const double>(translation[2], size, "the actions' half range");
    plan.actions.low = array_data<const double>(translation[3], size, "the actions' low");
    plan.actions.high = array_data<const double>(translation[4], size, "the actions' high");
  }
  const RolloutOutcome outcome = batch.rollout(plan);
  return py::make_tuple(outcome.failed_env, outcome.failed_step, outcome.unusable_env, outcome.unusable_step);
}

py::tuple rollout(EnvBatch& batch, const PolicyNetwork& policy, const py::array& parameters, const py::dict& arrays,
                  const py::object& statistics, const py::tuple& translation, std::int64_t num_steps,
                  std::uint64_t key, bool deterministic) {
  return with_parameter_type(parameters, [&](auto real) -> py::tuple {
    return rollout_as<decltype(real)>(batch, policy, parameters, arrays, statistics, translation, num_steps, key,
                                      deterministic);
  });
}

}  // namespace

void register_rollout(py::module_& module) {
  module.def("rollout", &rollout, py::arg("batch"), py::arg("network"), py::arg("parameters"), py::arg("arrays"),
             py::arg("statistics"), py::arg("translation"), py::arg("num_steps"), py::arg("key"),
             py::arg("deterministic"));
}

}  // namespace metafast
