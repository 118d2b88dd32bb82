// Gymnasium's classic control on the device.
#include "envs/acrobot.hpp"
#include "envs/cartpole.hpp"
#include "envs/continuous_mountain_car.hpp"
#include "envs/driver.cuh"
#include "envs/mountain_car.hpp"
#include "envs/pendulum.hpp"
#include "envs/polynomial_math.hpp"

namespace metafast {
namespace {

template <template <class Math> class Dynamics>
constexpr DeviceEnvironment named(const char* name) {
  return DeviceDriver<InRegisters<Dynamics<PolynomialMath>>>::named(name);
}

}  // namespace

extern const DeviceEnvironment classic_control_on_device[] = {
    named<Acrobot>("acrobot"),
    named<CartPole>("cartpole"),
    named<ContinuousMountainCar>("continuous_mountain_car"),
    named<MountainCar>("mountain_car"),
    named<Pendulum>("pendulum"),
    {},
};

}  // namespace metafast
