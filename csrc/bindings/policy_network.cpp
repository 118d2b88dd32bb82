// Networks: translation of Python's description, and the kernels that answer for single batches.
#include "bindings/policy_network.hpp"

#include <pybind11/stl.h>

#include <string>

#include "bindings/register.hpp"
#include "bindings/scratch.hpp"
#include "common/isa.hpp"

namespace metafast {
namespace {

Activation activation_named(const std::string& name) {
  if (name == "identity") return Activation::identity;
  if (name == "tanh") return Activation::tanh;
  if (name == "relu") return Activation::relu;
  if (name == "silu") return Activation::silu;
  throw py::value_error("there is no native activation named '" + name + "'");
}

Head head_named(const std::string& name) {
  if (name == "categorical") return Head::categorical;
  if (name == "bernoulli") return Head::bernoulli;
  if (name == "gaussian") return Head::gaussian;
  if (name == "squashed_gaussian") return Head::squashed_gaussian;
  throw py::value_error("there is no native action head named '" + name + "'");
}

// Layers as (inputs, outputs, activation, weight, bias).
Tower tower_of(const py::handle& layers, std::int64_t num_parameters) {
  Tower tower = {};
  for (const py::handle item : layers) {
    if (tower.num_layers == kMaxLayers)
      throw py::value_error("a native network has at most " + std::to_string(kMaxLayers) + " layers in a row");
    const auto parts = item.cast<py::tuple>();
    DenseLayer layer = {parts[0].cast<std::int64_t>(), parts[1].cast<std::int64_t>(),
                        activation_named(parts[2].cast<std::string>()), parts[3].cast<std::int64_t>(),
                        parts[4].cast<std::int64_t>()};
    if (layer.inputs < 1 || layer.outputs < 1 || layer.weight < 0 ||
        layer.weight + layer.inputs * layer.outputs > num_parameters || layer.bias + layer.outputs > num_parameters)
      throw py::value_error("a layer lies outside of the parameters");
    tower.layers[tower.num_layers++] = layer;
  }
  return tower;
}

void check_chain(const Tower& tower, std::int64_t inputs, std::int64_t outputs) {
  for (std::int64_t k = 0; k < tower.num_layers; ++k) {
    if (tower.layers[k].inputs != inputs) throw py::value_error("a layer does not take what the one before it gives");
    inputs = tower.layers[k].outputs;
  }
  if (inputs != outputs) throw py::value_error("a tower does not give what is expected of it");
}

py::tuple answer(const PolicyNetwork& policy, const py::array& parameters, const py::array& observations,
                 std::int64_t count, const py::object& statistics, const py::object& hidden) {
  const Network& network = policy.network();
  return with_parameter_type(parameters, [&](auto real) -> py::tuple {
    using T = decltype(real);
    const auto& table = [] () -> const auto& {
      if constexpr (sizeof(T) == 4) return nn_kernels().float32;
      else return nn_kernels().float64;
    }();
    const T* const values_of = array_data<const T>(parameters, network.num_parameters, "parameters");
    if (observations.size() != count * network.observation_size || !(observations.flags() & py::array::c_style))
      throw py::value_error("observations do not have the network's size");
    const Observations<T> rows = observations_of<T>(network, observations, statistics);
    T* const state =
        network.gru.width > 0 ? array_data<T>(hidden, count * network.gru.width, "hidden") : static_cast<T*>(nullptr);
    py::array_t<T> distribution({count, policy.distribution_size()}), values(count);
    T* const distribution_data = distribution.mutable_data();
    T* const value_data = values.mutable_data();
    AlignedMemory scratch(table.scratch_size(network, count, 1) * static_cast<std::int64_t>(sizeof(T)));
    {
      const py::gil_scoped_release released;
      table.answer(network, values_of, rows, count, state, reinterpret_cast<T*>(scratch.get()), distribution_data,
                   value_data);
    }
    return py::make_tuple(distribution, values);
  });
}

py::array_t<float> policy_noise(std::uint64_t key, std::int64_t num_steps, std::int64_t num_envs, std::int64_t size,
                                bool normal) {
  py::array_t<float> noise({num_steps, num_envs, size});
  float* const data = noise.mutable_data();
  const py::gil_scoped_release released;
  nn_kernels().fill_noise(key, num_steps, num_envs, normal, size, data);
  return noise;
}

}  // namespace

ElementType element_type(const py::dtype& dtype) {
  switch (dtype.kind()) {
    case 'f':
      if (dtype.itemsize() == 4) return ElementType::float32;
      if (dtype.itemsize() == 8) return ElementType::float64;
      break;
    case 'b':
      return ElementType::uint8;
    case 'u':
      if (dtype.itemsize() == 1) return ElementType::uint8;
      if (dtype.itemsize() == 2) return ElementType::uint16;
      break;
    case 'i':
      if (dtype.itemsize() == 1) return ElementType::int8;
      if (dtype.itemsize() == 2) return ElementType::int16;
      if (dtype.itemsize() == 4) return ElementType::int32;
      if (dtype.itemsize() == 8) return ElementType::int64;
      break;
    default:
      break;
  }
  throw py::type_error("a native policy does not read elements of dtype " + std::string(py::str(dtype)));
}

PolicyNetwork::PolicyNetwork(const py::dict& description) {
  network_.observation_size = description["observation_size"].cast<std::int64_t>();
  network_.num_parameters = description["num_parameters"].cast<std::int64_t>();
  network_.trunk = tower_of(description["trunk"], network_.num_parameters);
  network_.policy = tower_of(description["policy"], network_.num_parameters);
  network_.value = tower_of(description["value"], network_.num_parameters);
  const auto gru = description["gru"];
  std::int64_t features = network_.observation_size;
  if (network_.trunk.num_layers > 0) features = network_.trunk.layers[network_.trunk.num_layers - 1].outputs;
  check_chain(network_.trunk, network_.observation_size, features);
  if (!gru.is_none()) {
    const auto parts = gru.cast<py::tuple>();
    GruLayer& layer = network_.gru;
    layer = {features,
             parts[0].cast<std::int64_t>(),
             parts[1].cast<std::int64_t>(),
             parts[2].cast<std::int64_t>(),
             parts[3].cast<std::int64_t>(),
             parts[4].cast<std::int64_t>()};
    const std::int64_t rows = 3 * layer.width;
    if (layer.width < 1 || layer.input_weight + rows * layer.inputs > network_.num_parameters ||
        layer.hidden_weight + rows * layer.width > network_.num_parameters ||
        layer.input_bias + rows > network_.num_parameters || layer.hidden_bias + rows > network_.num_parameters)
      throw py::value_error("the GRU lies outside of the parameters");
    features = layer.width;
  }
  choices_ = description["choices"].cast<std::vector<std::int32_t>>();
  ActionHead& head = network_.head;
  head.kind = head_named(description["head"].cast<std::string>());
  head.action_size = description["action_size"].cast<std::int64_t>();
  head.log_sigma = description["log_sigma"].cast<std::int64_t>();
  head.num_outputs = head.action_size;
  if (head.kind == Head::squashed_gaussian) head.num_outputs = 2 * head.action_size;
  if (head.kind == Head::categorical) {
    head.num_outputs = 0;
    for (const std::int32_t choices : choices_) head.num_outputs += choices;
    if (static_cast<std::int64_t>(choices_.size()) != head.action_size)
      throw py::value_error("a categorical head takes the number of choices for each component");
  }
  head.num_choices = choices_.data();
  check_chain(network_.policy, features, head.num_outputs);
  check_chain(network_.value, features, 1);
  if (head.kind == Head::gaussian && head.log_sigma + head.action_size > network_.num_parameters)
    throw py::value_error("log sigma lies outside of the parameters");
}

std::int64_t PolicyNetwork::distribution_size() const {
  const ActionHead& head = network_.head;
  return whole_actions() ? head.num_outputs : 2 * head.action_size;
}

void register_policy_network(py::module_& module) {
  py::class_<PolicyNetwork>(module, "PolicyNetwork")
      .def(py::init<const py::dict&>(), py::arg("description"))
      .def_property_readonly("distribution_size", &PolicyNetwork::distribution_size)
      .def("answer", &answer, py::arg("parameters"), py::arg("observations"), py::arg("count"), py::arg("statistics"),
           py::arg("hidden"));
  module.def("policy_noise", &policy_noise, py::arg("key"), py::arg("num_steps"), py::arg("num_envs"), py::arg("size"),
             py::arg("normal"));
}

}  // namespace metafast
