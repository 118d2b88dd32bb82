// What an environment is to the device's driver (driver.cuh): one thread's work on one environment, whose state lies in
// its tile as batch.hpp says.
//
// An environment E that works on its state where it lies has
//
//   using Parameters = ...;  // trivially copyable, the bytes that the CPU's phases take; passed to kernels by value
//   using Action = ...;      // std::int32_t, of which there is one, or float
//   METAFAST_FORMULA int action_size(const Parameters&);
//   METAFAST_FORMULA int observation_size(const Parameters&);
//   METAFAST_FORMULA void advance(const Parameters&, const EnvironmentPlace&, const Action* action, float& reward,
//                                 bool& terminated);
//   METAFAST_FORMULA void begin(const Parameters&, const EnvironmentPlace&);
//   METAFAST_FORMULA void observe(const Parameters&, const EnvironmentPlace&, float* observation);  // its row
//
// (or, where an episode's beginning is much work, kBegunByWarp = true and a begin_together, which gets the thread's
// number in its warp, all of whose threads call it)
//
// and is given to the driver as InMemory<E>; the dynamics of classic control (native_phases.hpp says what they are), small
// enough for registers, as InRegisters<Dynamics>.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "common/host_device.hpp"
#include "envs/batch.hpp"
#include "envs/randomness.hpp"

namespace metafast {

// One environment of a tile, as a thread sees it.
struct EnvironmentPlace {
  std::byte* state;            // the tile's
  int index;                   // of the environment in its tile
  std::uint64_t seed;
  std::uint64_t episode;       // the current one's number: episodes[i] - 1
  std::int32_t elapsed_steps;  // before this step
};

// To the driver an environment is what a thread holds of it (Held), and how that is loaded, advanced and stored.
template <class Environment>
struct InMemory {
  using Parameters = typename Environment::Parameters;
  using Action = typename Environment::Action;
  struct Held {};
  static constexpr int kObservationSize = 0;  // known to the parameters only
  static constexpr int kThreadsToBegin = Environment::kBegunByWarp ? 32 : 1;

  METAFAST_FORMULA int action_size(const Parameters& parameters) { return Environment::action_size(parameters); }
  METAFAST_FORMULA int observation_size(const Parameters& parameters) {
    return Environment::observation_size(parameters);
  }
  METAFAST_FORMULA void load(const EnvironmentPlace&, Held&) {}
  METAFAST_FORMULA void store(const EnvironmentPlace&, const Held&) {}
  METAFAST_FORMULA void store_step(const EnvironmentPlace&, const Held&) {}
  METAFAST_FORMULA void advance(const Parameters& parameters, const EnvironmentPlace& place, const Action* action, Held&,
                                float& reward, bool& terminated) {
    Environment::advance(parameters, place, action, reward, terminated);
  }
  METAFAST_FORMULA void begin(const Parameters& parameters, const EnvironmentPlace& place, Held&) {
    Environment::begin(parameters, place);
  }
  // By a warp, of whose threads this is one.
  METAFAST_FORMULA void begin_together(const Parameters& parameters, const EnvironmentPlace& place, int thread) {
    Environment::begin_together(parameters, place, thread);
  }
  METAFAST_FORMULA void observe(const Parameters& parameters, const EnvironmentPlace& place, const Held&, float* row) {
    Environment::observe(parameters, place, row);
  }
};

// The components of a state that steps leave as they are, which begin and end here: a task's physics.
template <class Dynamics, class = void>
struct Fixed {
  static constexpr int kBegin = 0, kEnd = 0;
};
template <class Dynamics>
struct Fixed<Dynamics, std::void_t<decltype(Dynamics::kPhysicsSize)>> {
  static constexpr int kBegin = Dynamics::kPhysics, kEnd = Dynamics::kPhysics + Dynamics::kPhysicsSize;
};

// Reads the state once and writes it once; between the two it never leaves the thread.
template <class Dynamics>
struct InRegisters {
  using Parameters = typename Dynamics::Parameters;
  using Action = typename Dynamics::Action;
  static constexpr int kObservationSize = Dynamics::kObservationSize;
  static constexpr int kThreadsToBegin = 1;
  struct Held {
    double state[Dynamics::kStateSize];
  };

  METAFAST_FORMULA int action_size(const Parameters&) { return Dynamics::kActionSize; }
  METAFAST_FORMULA int observation_size(const Parameters&) { return kObservationSize; }
  METAFAST_FORMULA void load(const EnvironmentPlace& place, Held& held) {
    const auto* state = reinterpret_cast<const double(*)[kTile]>(place.state);
    for (int k = 0; k < Dynamics::kStateSize; ++k) held.state[k] = state[k][place.index];
  }
  METAFAST_FORMULA void store(const EnvironmentPlace& place, const Held& held) {
    auto* state = reinterpret_cast<double(*)[kTile]>(place.state);
    for (int k = 0; k < Dynamics::kStateSize; ++k) state[k][place.index] = held.state[k];
  }
  METAFAST_FORMULA void store_step(const EnvironmentPlace& place, const Held& held) {
    auto* state = reinterpret_cast<double(*)[kTile]>(place.state);
    for (int k = 0; k < Dynamics::kStateSize; ++k)
      if (k < Fixed<Dynamics>::kBegin || k >= Fixed<Dynamics>::kEnd) state[k][place.index] = held.state[k];
  }
  METAFAST_FORMULA void advance(const Parameters& parameters, const EnvironmentPlace& place, const Action* actions,
                                Held& held, float& reward, bool& terminated) {
    constexpr int kUniforms = Dynamics::kStepUniforms;
    double uniforms[kUniforms > 0 ? kUniforms : 1];
    draw_uniforms<kUniforms>(place.seed, place.episode, step_number(place.elapsed_steps), uniforms);
    Action action[Dynamics::kActionSize];
    for (int k = 0; k < Dynamics::kActionSize; ++k) action[k] = actions[k];
    double paid;
    Dynamics::step(parameters, action, uniforms, held.state, paid, terminated);
    reward = static_cast<float>(paid);
  }
  METAFAST_FORMULA void begin(const Parameters& parameters, const EnvironmentPlace& place, Held& held) {
    double uniforms[Dynamics::kResetUniforms > 0 ? Dynamics::kResetUniforms : 1];
    draw_uniforms<Dynamics::kResetUniforms>(place.seed, place.episode, 0, uniforms);
    Dynamics::reset(parameters, uniforms, held.state);
  }
  METAFAST_FORMULA void observe(const Parameters& parameters, const EnvironmentPlace&, const Held& held, float* row) {
    float observation[kObservationSize];
    Dynamics::observe(parameters, held.state, observation);
    for (int k = 0; k < kObservationSize; ++k) row[k] = observation[k];
  }
};

}  // namespace metafast
