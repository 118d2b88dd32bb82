// Fused rollouts: translation of Python's arrays; EnvBatch runs them.
#include "envs/rollout.hpp"

#include <string>

#include "bindings/env_batch.hpp"
#include "bindings/policy_network.hpp"
#include "bindings/register.hpp"

namespace metafast {
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
