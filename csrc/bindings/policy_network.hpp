// An actor-critic network as the kernels see it, made from Python's description.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <vector>

#include "nn/learning.hpp"
#include "nn/network.hpp"

namespace py = pybind11;

namespace metafast {

class PolicyNetwork {
 public:
  explicit PolicyNetwork(const py::dict& description);
  PolicyNetwork(const PolicyNetwork&) = delete;
  PolicyNetwork& operator=(const PolicyNetwork&) = delete;

  const Network& network() const { return network_; }
  std::int64_t distribution_size() const;
  bool whole_actions() const {
    return network_.head.kind == Head::categorical || network_.head.kind == Head::bernoulli;
  }

 private:
  std::vector<std::int32_t> choices_;
  Network network_ = {};
};

// The data of an array of exactly this type and size, contiguous; an error that names it otherwise. Python allocates
// all arrays of a rollout and an update, so that an error here is metafast's own.
template <class Scalar>
Scalar* array_data(const py::handle& array, std::int64_t size, const char* name) {
  using Plain = std::remove_const_t<Scalar>;
  if (!py::isinstance<py::array_t<Plain, py::array::c_style>>(array))
    throw py::type_error(std::string(name) + " must be a contiguous array of dtype " +
                         std::string(py::str(py::dtype::of<Plain>())));
  const auto typed = py::reinterpret_borrow<py::array_t<Plain>>(array);
  if (typed.size() != size)
    throw py::value_error(std::string(name) + " must have " + std::to_string(size) + " elements, not " +
                          std::to_string(typed.size()));
  if constexpr (std::is_const_v<Scalar>) return typed.data();
  else return const_cast<py::array_t<Plain>&>(typed).mutable_data();
}

template <class Scalar>
Scalar* optional_array_data(const py::handle& array, std::int64_t size, const char* name) {
  return array.is_none() ? nullptr : array_data<Scalar>(array, size, name);
}

// Flags come as NumPy's bools.
inline std::uint8_t* flag_data(const py::handle& array, std::int64_t size, const char* name) {
  return reinterpret_cast<std::uint8_t*>(array_data<bool>(array, size, name));
}

ElementType element_type(const py::dtype& dtype);

// `statistics` is None, or (mean, scale, limit).
template <class T>
Observations<T> observations_of(const Network& network, const py::array& rows, const py::handle& statistics) {
  Observations<T> observations = {rows.data(), element_type(rows.dtype()), network.observation_size, nullptr, nullptr,
                                  T(0)};
  if (!statistics.is_none()) {
    const auto parts = statistics.cast<py::tuple>();
    observations.mean = array_data<const T>(parts[0], network.observation_size, "the observations' mean");
    observations.scale = array_data<const T>(parts[1], network.observation_size, "the observations' scale");
    observations.limit = parts[2].cast<T>();
  }
  return observations;
}

// Calls function(T()) with the type of the parameters.
template <class Function>
auto with_parameter_type(const py::array& parameters, Function&& function) {
  if (py::isinstance<py::array_t<float>>(parameters)) return function(float());
  if (py::isinstance<py::array_t<double>>(parameters)) return function(double());
  throw py::type_error("the policy's parameters must be float32 or float64, not " +
                       std::string(py::str(parameters.dtype())));
}

}  // namespace metafast
