// A batch of environments as the kernels see it: pointers into memory that the caller owns.
//
// The state is float64 and structure-of-arrays in tiles of kTile environments, small enough for the first-level cache:
// component k of the i-th environment of tile t is state[(t * state_size + k) * kTile + i]. Randomness is
// counter-based: the key is the environment's own seed and the counter its episode number, so that an environment's
// stream depends on neither its place in the batch, nor its neighbours, nor the threads.
#pragma once

#include <cstdint>

#include "common/isa.hpp"

namespace metafast {

constexpr int kTile = 256;

// What happens after an episode ends: it is reset by the next step (which ignores the action), by the same step (the
// last observation goes to final_observations), or by the caller alone.
enum class AutoresetMode { next_step, same_step, disabled };

struct Batch {
  AutoresetMode autoreset_mode;
  std::int32_t max_episode_steps;
  const void* parameters;  // the dynamics' own Parameters
  double* state;          // whole tiles: memory for N rounded up to a multiple of kTile
  std::int32_t* elapsed_steps;
  std::uint8_t* ended;      // 1 where the episode is over and the environment waits for its reset
  std::uint64_t* seeds;
  std::uint64_t* episodes;  // the number of the episode that the next reset begins
};

struct StepResult {
  float* observations;  // [N, observation size]
  float* rewards;
  bool* terminated;
  bool* truncated;
  float* final_observations;  // [N, observation size], written where an episode ended, in same_step mode only
};

// Every function works on the environments [begin, end) and on nothing else; `begin` is a multiple of kTile.
struct EnvironmentKernels {
  int state_size;
  int observation_size;
  int num_parameters;  // Parameters is this many doubles
  // `actions` are checked, of the dynamics' Action type. Returns how many rows of
  // final_observations it wrote.
  std::int64_t (*step)(const Batch& batch, const void* actions, const StepResult& result, std::int64_t begin,
                       std::int64_t end);
  // Resets the environments whose mask is not 0 (all where `mask` is null).
  void (*reset)(const Batch& batch, const std::uint8_t* mask, std::int64_t begin, std::int64_t end);
  void (*observe)(const Batch& batch, float* observations, std::int64_t begin, std::int64_t end);
};

struct EnvsKernels {
  EnvironmentKernels cartpole;
  // Copies actions that all lie in [0, num_actions); returns the index of the first that does not, else -1.
  std::int64_t (*take_actions_int32)(const std::int32_t* actions, std::int64_t count, std::int32_t num_actions,
                                     std::int32_t* taken);
  std::int64_t (*take_actions_int64)(const std::int64_t* actions, std::int64_t count, std::int32_t num_actions,
                                     std::int32_t* taken);
  // Returns the index of the first environment that waits for its reset, else -1.
  std::int64_t (*find_ended)(const std::uint8_t* ended, std::int64_t count);
};

METAFAST_DISPATCH(EnvsKernels, envs_kernels)

}  // namespace metafast
