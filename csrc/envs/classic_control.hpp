// Gymnasium's classic control by name: each environment with polynomials, and exactly with NumPy's functions.
#pragma once

#include <cstring>

#include "envs/acrobot.hpp"
#include "envs/cartpole.hpp"
#include "envs/continuous_mountain_car.hpp"
#include "envs/exact_phases.hpp"
#include "envs/mountain_car.hpp"
#include "envs/native_phases.hpp"
#include "envs/numpy_math.hpp"
#include "envs/pendulum.hpp"
#include "envs/polynomial_math.hpp"

namespace metafast {
namespace {

struct NamedPhases {
  const char* name;
  Phases native;
  Phases exact;
};

template <template <class Math> class Dynamics>
constexpr NamedPhases named(const char* name) {
  return {name, NativePhases<Dynamics<PolynomialMath>>::phases(), ExactPhases<Dynamics<NumpyMath>>::phases()};
}

template <template <class Math> class Dynamics>
constexpr NamedPhases named_car(const char* name) {
  return {name, NativePhases<Dynamics<PolynomialMath>>::phases(), ExactCarPhases<Dynamics>::phases()};
}

constexpr NamedPhases kClassicControl[] = {
    named<Acrobot>("acrobot"),
    named<CartPole>("cartpole"),
    named_car<ContinuousMountainCar>("continuous_mountain_car"),
    named_car<MountainCar>("mountain_car"),
    named<Pendulum>("pendulum"),
};

// "cartpole" or "exact_cartpole".
Phases classic_control_named(const char* name) {
  constexpr const char kExact[] = "exact_";
  constexpr std::size_t kPrefix = sizeof(kExact) - 1;
  const bool exact = std::strncmp(name, kExact, kPrefix) == 0;
  const char* const plain = exact ? name + kPrefix : name;
  for (const NamedPhases& entry : kClassicControl)
    if (std::strcmp(plain, entry.name) == 0) return exact ? entry.exact : entry.native;
  return {nullptr, nullptr, nullptr};
}

}  // namespace
}  // namespace metafast
