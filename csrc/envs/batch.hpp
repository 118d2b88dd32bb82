// A batch of environments as the kernels see it: pointers into memory that the caller owns.
//
// Work is done in tiles of kTile environments, whose state is small enough for the first-level cache. What an
// environment does is three functions on a tile (Phases); the driver (driver.hpp) counts steps, limits episodes and
// resets. The functions have a C interface, because a user's environment comes as three functions compiled by Numba.
//
// Randomness is counter-based (randomness.hpp): the key is the environment's own seed, the counter its episode number
// and step, so that an environment's stream depends on neither its place in the batch, nor its neighbours, nor the
// threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "common/isa.hpp"

namespace metafast {

constexpr int kTile = 256;

// What advance finds in `terminated` of a user's environment whose action is to be ignored, because its episode is over
// and it is reset by this step: an exception there is none. The others hold 0.
constexpr std::uint8_t kIgnored = 2;

// What happens after an episode ends: it is reset by the next step (which ignores the action), by the same step (the
// last observation goes to final_observations), or by the caller alone.
enum class AutoresetMode { next_step, same_step, disabled };

// Every pointer is to the first environment of the tile, whose environments are numbered from 0 to count - 1.
//
// `state` holds one array [kTile] for each field of the state, in order and without gaps; its elements have the field's
// size in bytes. `episodes` holds the number of the episode that comes next: the current one's is one less.
// `elapsed_steps` counts the steps before this one. `streams`, four words each, are the exact environments' generators
// and null for others. All return -1, or the number of the environment where the user's code raised an exception.
struct Phases {
  // Applies the actions: writes the state, the rewards (float, or double in exact environments) and the flags (0 or 1).
  std::int64_t (*advance)(const void* parameters, void* state, std::int64_t count, const void* actions,
                          const std::uint64_t* seeds, const std::uint64_t* episodes, const std::int32_t* elapsed_steps,
                          void* rewards, std::uint8_t* terminated);
  // Writes the first state of the current episode of the environments that `indices` lists.
  std::int64_t (*begin)(const void* parameters, void* state, const std::int32_t* indices, std::int64_t num_indices,
                        const std::uint64_t* seeds, const std::uint64_t* episodes, std::uint64_t* streams);
  // Writes the rows of the environments listed, or of the first `count` where num_indices is -1.
  std::int64_t (*observe)(const void* parameters, const void* state, std::int64_t count, const std::int32_t* indices,
                          std::int64_t num_indices, void* observations);
};

struct Batch {
  AutoresetMode autoreset_mode;
  std::int32_t max_episode_steps;
  Phases phases;
  const void* parameters;  // the environment's own
  std::byte* state;        // whole tiles: memory for N rounded up to a multiple of kTile
  std::int64_t state_bytes;        // of one environment
  std::int64_t observation_bytes;  // of one environment
  std::int64_t reward_bytes;
  std::int32_t* elapsed_steps;
  std::uint8_t* ended;  // 1 where the episode is over and the environment waits for its reset
  std::uint64_t* seeds;
  std::uint64_t* episodes;  // the number of the episode that the next reset begins
  std::uint64_t* streams;   // [N, 4], or null
  // A user's environment: its step is never called where the episode is over.
  bool begin_before_step;
  // Where not null: memory for what the step changes, from which the caller undoes a step that failed.
  std::byte* saved_state;
  const std::int64_t* field_bytes;  // of one environment, for each field of the state; their sum is state_bytes
  std::int64_t num_fields;
  std::int32_t* saved_elapsed_steps;
  std::uint8_t* saved_ended;
  std::uint64_t* saved_episodes;
};

// Copies the state of the first `count` environments of a tile to another tile. Of one that is not full, which is most
// of a small batch's memory, no more than that.
[[gnu::always_inline]] static inline void copy_tile(std::byte* to, const std::byte* from, std::int64_t count,
                                                    const std::int64_t* field_bytes, std::int64_t num_fields) {
  for (std::int64_t field = 0; field < num_fields; ++field) {
    std::memcpy(to, from, static_cast<std::size_t>(count * field_bytes[field]));
    to += kTile * field_bytes[field];
    from += kTile * field_bytes[field];
  }
}

struct StepResult {
  const std::byte* actions;  // checked, of the type that the environment takes
  std::int64_t action_bytes;
  std::byte* observations;
  std::byte* rewards;
  std::uint8_t* terminated;
  std::uint8_t* truncated;
  std::byte* final_observations;  // written where an episode ended, in same_step mode only
};

struct Outcome {
  std::int64_t num_final;  // rows of final_observations that were written
  std::int64_t failed;     // an environment where user code raised, or -1
};

// Every function works on the environments [begin, end) and on nothing else; `begin` is a multiple of kTile.
struct EnvsKernels {
  Outcome (*step)(const Batch& batch, const StepResult& result, std::int64_t begin, std::int64_t end);
  // Resets the environments whose mask is not 0 (all where `mask` is null). Returns the number of an environment where
  // user code raised, or -1.
  std::int64_t (*reset)(const Batch& batch, const std::uint8_t* mask, std::int64_t begin, std::int64_t end);
  std::int64_t (*observe)(const Batch& batch, std::byte* observations, std::int64_t begin, std::int64_t end);

  // The phases of the environment that has this name, or nulls.
  Phases (*phases_named)(const char* name);

  // Copies `rows` rows of integers that all lie in their column's [low, high); returns the position of the first that
  // does not, else -1.
  std::int64_t (*take_int32)(const std::int32_t* actions, std::int64_t rows, std::int64_t columns,
                             const std::int64_t* low, const std::int64_t* high, void* taken, int taken_bytes);
  std::int64_t (*take_int64)(const std::int64_t* actions, std::int64_t rows, std::int64_t columns,
                             const std::int64_t* low, const std::int64_t* high, void* taken, int taken_bytes);
  // Copies floats that are all finite; returns the position of the first that is not, else -1.
  std::int64_t (*take_float32)(const float* actions, std::int64_t count, float* taken);
  std::int64_t (*take_float64)(const double* actions, std::int64_t count, double* taken);
  // Returns the index of the first environment that waits for its reset, else -1.
  std::int64_t (*find_ended)(const std::uint8_t* ended, std::int64_t count);
};

METAFAST_DISPATCH(EnvsKernels, envs_kernels)

}  // namespace metafast
